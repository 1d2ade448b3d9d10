"""Looking inside functions from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tests import saved_models
from tests.serving import serve_here
from varserve.cli.app import varserve as command_line
from varserve_service import savedmodel
from varserve_service.core.model.live_model import LiveModel
from varserve_service.savedmodel import configure_devices

Cli = Callable[..., str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    configure_devices("cpu")
    return saved_models.build("inner", tmp_path_factory.mktemp("models"))


@pytest.fixture
def cli(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Cli]:
    monkeypatch.setenv("VARSERVE_CONFIG", str(tmp_path / "none.toml"))
    (tmp_path / "none.toml").touch()
    live = LiveModel(savedmodel.load("inner", folder, placement=configure_devices("cpu")))
    with serve_here(live) as address:

        def run(*arguments: str, code: int = 0) -> str:
            result = CliRunner().invoke(command_line, ["--server", address, *arguments])
            assert result.exit_code == code, result.output
            return result.output

        yield run


def test_tensors(cli: Cli) -> None:
    """A table with a row for each tensor, and the same as JSON."""
    shown = cli("tensors", "inner", "fine", "layer/*")
    assert "layer/relu" in shown
    assert "inspectable.py:" in shown
    told = json.loads(cli("tensors", "inner", "fine", "layer/biased", "--json"))
    (tensor,) = told["tensors"]
    assert (tensor["op"], tensor["shape"], tensor["variables"]) == ("AddV2", [None, 3], ["b"])


def test_inspect_shows_messages_summaries_and_what_was_not_run(cli: Cli) -> None:
    """Printed lines, a row with a histogram for each iteration, and the branch that was not run."""
    shown = cli("inspect", "inner", "loop", "n=3", "--probe", "turns/square")
    assert "print [2]: step 2 square 4" in shown
    assert "turns/square [2]" in shown
    other = cli("inspect", "inner", "branch", "x=2.0", "--probe", "choose/of_*")
    assert "choose/of_else  not run" in other


def test_inspect_writes_values_to_a_file(cli: Cli, tmp_path: Path) -> None:
    """Outputs, probes and gradients are written under what they are."""
    file = tmp_path / "inside.npz"
    arguments = ["twice", "x=[[1, 1], [1, 1]]", "--probe", "sum_of_both"]
    cli("inspect", "inner", *arguments, "--gradients-of", "y", "--wrt", "w", "--out", str(file))
    found = np.load(file)
    assert sorted(found) == ["gradient/w", "output/y", "probe/sum_of_both"]
    assert found["gradient/w"].sum() == 36


def test_inspect_with_what_if(cli: Cli) -> None:
    """Patches and assumed values are given in words; JSON tells it all."""
    x = "x=[[1, 1]]"
    told = json.loads(cli("inspect", "inner", "twice", x, "--patch", "sum_of_both=*2", "--json"))
    assert told["outputs"][0]["value"] == [33]
    told = json.loads(cli("inspect", "inner", "twice", x, "--patch", "sum_of_both=zero", "--json"))
    assert told["outputs"][0]["value"] == [0]
    assume = "w=[[0, 0, 0], [0, 0, 0]]"
    told = json.loads(cli("inspect", "inner", "twice", x, "--assume", assume, "--json"))
    assert told["outputs"][0]["value"] == [12]
    assert told["revision"] == 0


def test_inspect_finds_what_is_not_finite(cli: Cli) -> None:
    """The operation where an infinity begins, and a table of times."""
    arguments = ["hides_infinity", "x=[0, 2]", "--find-non-finite", "--profile"]
    shown = cli("inspect", "inner", *arguments)
    assert "not finite first in the_log (Log): 1 -inf" in shown
    assert "runs" in shown


def test_a_failure_shows_what_was_said_before(cli: Cli) -> None:
    """The lines come before the error, and in the document of it."""
    shown = cli("inspect", "inner", "reshaped", "n=4", code=4)
    lines = ["print [0]: turn 0", "print [1]: turn 1", "print: to 4"]
    assert shown.splitlines()[:3] == lines
    assert "to_n" in shown.splitlines()[3]
    told = json.loads(cli("inspect", "inner", "reshaped", "n=4", "--json", code=4))
    assert [each["text"] for each in told["error"]["messages"]] == ["turn 0", "turn 1", "to 4"]


def test_run_with_messages(cli: Cli) -> None:
    """A plain run gives its lines."""
    assert "step 1 square 1" in cli("run", "inner", "loop", "n=2", "--messages")
    told = json.loads(cli("run", "inner", "loop", "n=1", "--messages", "--json"))
    assert told["messages"][0]["text"] == "step 0 square 0"


def test_push_with_a_check(cli: Cli, tmp_path: Path) -> None:
    """A file that the check does not let pass changes nothing; one that it does goes in."""
    file = tmp_path / "weights.safetensors"
    cli("pull", "inner", str(file), "b")
    check = ["--check", "checked", "--check-input"]
    refused = cli("push", "inner", str(file), *check, "x=[0, 1]", code=4)
    assert "x must be positive" in refused
    assert "revision 1" in cli("push", "inner", str(file), *check, "x=[1, 1]")
    cli("push", "inner", str(file), "--check-input", "x=[1, 1]", code=2)
