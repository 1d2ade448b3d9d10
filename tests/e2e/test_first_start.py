"""A first start: what is served is said, and a wrong folder is named for what it is."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.waiting import killed_after
from varserve_service import model_kinds
from varserve_service.command_line import main

COMMAND = [sys.executable, "-m", "varserve_service", "serve"]


def refusal(*arguments: object) -> str:
    """What `serve` says when it cannot, before it has imported TensorFlow."""
    ended = CliRunner().invoke(main, ["serve", *map(str, arguments)])
    assert ended.exit_code == 2, ended.output
    return ended.output


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("net.keras", "keras.saving.load_model"),
        ("net.h5", "keras.saving.load_model"),
        ("net.weights.h5", "model.load_weights"),
        ("net.safetensors", "varserve push"),
        ("net.onnx", "an ONNX model"),
        ("net.tflite", "TensorFlow Lite"),
        ("net.txt", "expected the folder of a SavedModel"),
    ],
)
def test_a_file_of_another_kind(name: str, said: str, tmp_path: Path) -> None:
    """It is named for what it is, and what to type is said."""
    path = tmp_path / name
    path.touch()
    assert said in refusal(path)
    assert said in str(model_kinds.problem(path))


def test_a_folder_of_another_kind(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """A checkpoint, a part of a SavedModel, an empty folder, one that is not there."""
    model = model_folder("counter")
    assert f"give its folder, {model}" in refusal(model / "variables")
    assert f"give its folder, {model}" in refusal(model / "saved_model.pb")
    checkpoint = tmp_path / "ckpt"
    checkpoint.mkdir()
    (checkpoint / "model-1.index").touch()
    assert "is a checkpoint" in refusal(checkpoint)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "is empty" in refusal(empty)
    assert f"did you mean {empty}?" in refusal(tmp_path / "emtpy")
    (empty / "inner").symlink_to(model)
    assert f"{empty / 'inner'} is a SavedModel" in refusal(empty)


def test_folders_above_a_model_where_one_model_is_wanted(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """`--model NAME=PATH` of a repository, or of a model's versions, says what to give instead."""
    for version in (1, 12):
        (tmp_path / "repository" / "net").mkdir(parents=True, exist_ok=True)
        (tmp_path / "repository" / "net" / str(version)).symlink_to(model_folder("counter"))
    repository = tmp_path / "repository"
    assert f"--model-repository {repository}" in str(model_kinds.problem(repository))
    assert f"{repository / 'net' / '12'}" in str(model_kinds.problem(repository / "net"))


def test_a_dry_run(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """A folder of versions is loaded, its highest version, and told; nothing is served or kept."""
    versions = tmp_path / "net"
    versions.mkdir()
    for version in (1, 12):
        shutil.copytree(model_folder("counter"), versions / str(version))
    state = tmp_path / "state"
    done = subprocess.run(
        [*COMMAND, str(versions), "--dry-run", "--state-dir", str(state)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    header, row, summary = done.stdout.splitlines()
    assert header.split()[:3] == ["MODEL", "VERSION", "VARIABLES"]
    assert (row.split()[0], row.split()[2]) == ("net", "2")
    assert row.endswith(str(versions / "12"))
    assert "1 model would be served" in summary
    assert "host memory" in summary
    assert not state.exists()
    lines = done.stderr.splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["loading model", "loaded model"]


def test_on_a_terminal(model_folder: Callable[[str], Path]) -> None:
    """Lines are for people: no JSON, nothing of TensorFlow's, and what to type next."""
    ours, theirs = pty.openpty()
    with (
        subprocess.Popen(
            [*COMMAND, str(model_folder("counter")), "--port", "0"], stdout=theirs, stderr=theirs
        ) as process,
        killed_after(process, 120),
    ):  # type: ignore[arg-type]
        os.close(theirs)
        text = b""
        while b" ls counter" not in text:
            text += os.read(ours, 2**16)
        process.terminate()
        assert process.wait(60) == 0
    os.close(ours)
    shown = text.decode().splitlines()
    assert not [line for line in shown if line.startswith("{") or "oneDNN" in line]
    assert any("loaded model" in line and "counter" in line for line in shown)
    assert any("counter: 2 variables, 7 functions" in line for line in shown)
    assert any("varserve --server 127.0.0.1:" in line for line in shown)
