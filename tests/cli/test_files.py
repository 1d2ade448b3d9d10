"""Whole models to and from files: pull, push and diff."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import varserve
from tests.client.served import fake_model
from tests.fakes import FakeModel, FakeVariable
from tests.serving import serve_here
from varserve._client.handles import file_operations
from varserve._client.stored import safetensors_files as stored
from varserve.tensors import DTYPES, numpy_dtype
from varserve_service.core.commit.history import History
from varserve_service.core.model.live_model import LiveModel

from .conftest import Cli, document, invoke

KEPT_AS_BYTES = {"v_complex128", "v_float8_e4m3b11fnuz", "v_string"}


def of_dtype(dtype: str) -> np.ndarray[Any, Any]:
    if dtype == "string":
        return np.array([[b"a\0", b""], [b"\xff", b"bb"]], object)
    return np.array([[0, 1], [1, 0]]).astype(numpy_dtype(dtype))


@pytest.fixture
def every() -> Iterator[str]:
    """A service whose model has a variable of every dtype."""
    variables = [FakeVariable(f"v_{dtype}", of_dtype(dtype)) for dtype in DTYPES]
    variables.append(FakeVariable("empty", np.zeros((0, 3), np.float32)))
    variables.append(FakeVariable("scalar", np.array(2, np.int16)))
    with serve_here(LiveModel(FakeModel(variables))) as address:
        yield address


def test_every_dtype_goes_there_and_back(every: str, tmp_path: Path) -> None:
    """A file has all variables of one revision, to the last bit; others can read it."""
    file = tmp_path / "all.safetensors"
    found = document(invoke("-s", every, "pull", "fake", str(file), "--json"))
    assert (found["variables"], found["revision"]) == (len(DTYPES) + 2, 0)
    with safe_open(file, framework="numpy") as content:
        assert content.metadata()["varserve.revision"] == "0"
        as_bytes = json.loads(content.metadata()["varserve.as_bytes"])
        assert content.get_tensor("v_float32").tolist() == [[0, 1], [1, 0]]
    assert set(as_bytes) == KEPT_AS_BYTES
    assert as_bytes["v_string"] == {"dtype": "string", "shape": [2, 2]}
    with varserve.connect(every) as client:
        before = client.model("fake").summaries()
        for name, variable in client.model("fake").variables.items():
            shape = variable.shape
            assert shape is not None
            variable.assign(np.full(shape, b"x" if name == "v_string" else 1, variable.dtype))
        changed = document(invoke("-s", every, "diff", "fake", str(file), "--json", code=1))
        assert changed["equal"] == 1  # `empty`, which cannot differ
        pushed = document(invoke("-s", every, "push", "fake", str(file), "-m", "back", "--json"))
        assert pushed["revision"] == changed["revision"] + 1  # one commit
        after = client.model("fake").summaries()
        commit = client.list_commits("fake", limit=1)[0]
    assert {n: s.content_hash for n, s in before.items()} == {
        n: s.content_hash for n, s in after.items()
    }
    assert (commit.variable_count, commit.info.message) == (len(DTYPES) + 2, "back")


def test_a_dry_run_shows_and_changes_nothing(cli: Cli, tmp_path: Path) -> None:
    """What would change, by how much; exit code 1 when something would."""
    file = str(tmp_path / "x.safetensors")
    cli("pull", "fake", file)
    assert "0 would change" in cli("push", "fake", file, "--dry-run").stdout
    cli("assign", "fake", "weights[0, 0, 0:2]", "[10, 20]")
    cli("assign", "fake", "labels", '["a", "bb", "x"]')
    found = document(cli("push", "fake", file, "--dry-run", "--json", code=1))
    different = {each["variable"]: each for each in found["different"]}
    assert different["weights"]["changed"] == 2
    assert different["weights"]["largest"] == 19
    assert (different["labels"]["changed"], different["labels"]["largest"]) == (1, None)
    assert found["equal"] == 8
    assert "weights" in cli("push", "fake", file, "--dry-run", code=1).stdout
    assert document(cli("history", "fake", "--json"))["revision"] == 2


def test_hashes_are_told_where_values_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written over meanwhile, and is not kept, is known to differ all the same."""
    live = LiveModel(fake_model(), history=History(max_commits=1))
    file = str(tmp_path / "x.safetensors")
    with serve_here(live) as address, varserve.connect(address) as client:
        here = ("--server", address)
        invoke(*here, "pull", "fake", file)
        counter = client.model("fake").variables["counter"]
        counter.assign(8)
        compare = file_operations._compare

        def meanwhile(*given: Any) -> Any:
            for value in range(5):
                counter.assign(value)
            return compare(*given)

        monkeypatch.setattr(file_operations, "_compare", meanwhile)
        (found,) = document(invoke(*here, "diff", "fake", file, "--json", code=1))["different"]
    assert (found["variable"], found["what"], found["changed"]) == ("counter", "value", None)


def test_an_interrupted_pull_leaves_nothing(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while the file is written: no part of it stays, and the one before does."""
    file = tmp_path / "x.safetensors"
    file.write_bytes(b"before")
    serialize = stored.serialize_file

    def interrupted(*given: Any) -> None:
        serialize(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(stored, "serialize_file", interrupted)
    cli("pull", "fake", str(file), code=130)
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_bytes() == b"before"


def test_push_says_beforehand_when_it_cannot_be_undone(tmp_path: Path) -> None:
    """A push that replaces more than the history keeps warns, and its commit is listed."""
    variable = FakeVariable("a", np.zeros(100, np.float32))
    file = tmp_path / "a.safetensors"
    for max_bytes, warned in ((399, True), (400, False)):
        live = LiveModel(FakeModel([variable]), history=History(max_bytes=max_bytes))
        save_file({"a": np.ones(100, np.float32)}, file)
        with serve_here(live) as address:
            for arguments, code in ((("--dry-run",), None), (("-m", "all of it"), 0)):
                code = (1 if warned else 0) if code is None else code
                done = invoke("-s", address, "push", "fake", str(file), *arguments, code=code)
                assert ("cannot be undone" in done.stderr) is warned
            assert "all of it" in invoke("-s", address, "history", "fake").stdout
            invoke("-s", address, "revert", "fake", "0", code=4 if warned else 0)


def test_push_is_whole_or_not_at_all(cli: Cli, tmp_path: Path) -> None:
    """One tensor that does not fit, or is no variable, or a condition that fails: nothing."""
    file = tmp_path / "x.safetensors"
    good = np.full((3, 4, 5), 7, np.float32)
    for more, code in (
        ({"counter": np.zeros(3, np.int64)}, 2),
        ({"counter": np.array(1, np.float32)}, 2),
        ({"nope": np.zeros(3, np.int64)}, 2),
    ):
        save_file({"weights": good, **more}, file)
        cli("push", "fake", str(file), code=code)
    save_file({"nope": good}, file)
    cli("push", "fake", str(file), "--ignore-unknown", code=2)
    save_file({"weights": good, "nope": good}, file)
    cli("push", "fake", str(file), "--if-revision", "3", "--ignore-unknown", code=4)
    assert document(cli("history", "fake", "--json"))["revision"] == 0
    cli("push", "fake", str(file), "--ignore-unknown")
    assert document(cli("read", "fake", "weights[0,0,0]", "--json"))["value"] == 7


def test_patterns_choose(cli: Cli, tmp_path: Path) -> None:
    """Patterns choose what is pulled, pushed and compared."""
    file = tmp_path / "x.safetensors"
    assert document(cli("pull", "fake", str(file), "we*", "counter", "--json"))["variables"] == 2
    cli("assign", "fake", "counter", "1")
    cli("assign", "fake", "weights[0]", json.dumps(np.ones((4, 5)).tolist()))
    cli("push", "fake", str(file), "counter")
    assert document(cli("diff", "fake", str(file), "counter", "--json"))["equal"] == 1
    found = document(cli("diff", "fake", str(file), "weights", "counter", "--json", code=1))
    assert [each["variable"] for each in found["different"]] == ["weights"]
    found = document(cli("diff", "fake", str(file), "flag", "--json", code=1))
    assert found["different"][0]["what"] == "absent"
    cli("pull", "fake", str(file), "nope*", code=3)


def test_what_differs(cli: Cli, tmp_path: Path) -> None:
    """Dtype, shape, value, and what only the file has; hashes alone on request."""
    file = tmp_path / "x.safetensors"
    save_file(
        {
            "weights": np.zeros((3, 4, 5), np.float32),
            "counter": np.array(7, np.int32),
            "flag": np.zeros(3, np.bool_),
            "extra": np.zeros(3, np.float32),
        },
        file,
    )
    names = ["weights", "counter", "flag"]
    found = document(cli("diff", "fake", str(file), *names, "--json", code=1))
    what = {each["variable"]: each["what"] for each in found["different"]}
    assert what == {"weights": "value", "counter": "dtype", "flag": "shape"}
    assert found["only_in_other"] == ["extra"]
    hashed = document(cli("diff", "fake", str(file), *names, "--hashes", "--json", code=1))
    assert [each["changed"] for each in hashed["different"]] == [None] * 3
    assert "3 differ" in cli("diff", "fake", str(file), *names, code=1).stdout


def test_diff_with_a_revision(cli: Cli) -> None:
    """What was written since, and by how much."""
    cli("assign", "fake", "counter", "10")
    assert "0 differ" in cli("diff", "fake", "--revision", "1").stdout
    found = document(cli("diff", "fake", "--revision", "0", "--json", code=1))
    assert [(each["variable"], each["largest"]) for each in found["different"]] == [("counter", 3)]
    assert "0 differ" in cli("diff", "fake", "weights", "--revision", "0").stdout
    cli("diff", "fake", "--revision", "9", code=4)
    cli("diff", "fake", code=2)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"\xff" * 8, b"\x02\0\0\0\0\0\0\0{}"])
def test_files_that_are_none(cli: Cli, tmp_path: Path, content: bytes) -> None:
    """A damaged or other file, or none, is told with its name."""
    file = tmp_path / "x.safetensors"
    file.write_bytes(content)
    assert "x.safetensors" in cli("push", "fake", str(file), code=2).stderr
    for suffix in (".index", ".bin"):
        other = tmp_path / f"y{suffix}"
        other.write_bytes(content)
        assert f"y{suffix}" in cli("diff", "fake", str(other), code=2).stderr
    assert "nothing there" in cli("diff", "fake", str(tmp_path / "nope"), code=2).stderr
    assert "SavedModel" in cli("diff", "fake", str(tmp_path), code=2).stderr


def test_a_file_that_cannot_be_written_leaves_nothing(cli: Cli, tmp_path: Path) -> None:
    """The file is there whole or not at all, and no other file is left over."""
    target = tmp_path / "taken.safetensors"
    target.mkdir()
    cli("pull", "fake", str(target), code=2)
    cli("pull", "fake", str(tmp_path / "no" / "x.safetensors"), code=2)
    cli("pull", "fake", str(tmp_path / "x.bin"), code=2)
    assert sorted(tmp_path.iterdir()) == [target]


# ---- files of other tools ----


def test_names_of_a_file_are_mapped(cli: Cli, client: varserve.Client, tmp_path: Path) -> None:
    """A prefix is stripped, single names are mapped, and dtypes are cast when that is asked for."""
    file = tmp_path / "trained.npz"
    np.savez(
        file,
        **{"module.counter": np.int64(40), "module.kernels": np.ones(1, np.float64)},
    )
    told = cli("push", "fake", str(file), code=2).stderr
    assert "no variable fits 2 tensors of it: module.counter, did you mean 'counter'?" in told
    told = cli("push", "fake", str(file), "--ignore-unknown", code=2).stderr
    assert "no tensor of it is a variable: it has module.counter" in told
    told = cli("push", "fake", str(file), "--strip-prefix", "module.", code=2).stderr
    assert "no variable fits 1 tensor of it: kernels, did you mean 'kernel'" in told
    renamed = ["--strip-prefix", "module.", "--map", "module.kernels=kernel"]
    assert (
        "expected dtype float32, found float64"
        in cli("push", "fake", str(file), *renamed, code=2).stderr
    )
    assert cli("diff", "fake", str(file), *renamed, code=1).stdout.count("kernel") == 1
    cli("push", "fake", str(file), *renamed, "--cast")
    variables = client.model("fake").variables
    assert (variables["counter"].numpy(), variables["kernel"].numpy().tolist()) == (40, [1.0])
    told = cli("push", "fake", str(file), "--map", "kernels=kernel", code=2).stderr
    assert "there is no tensor 'kernels' to rename; did you mean 'module.kernels'" in told
    assert "expected OLD=NEW" in cli("push", "fake", str(file), "--map", "x", code=2).stderr


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.keras", "no file of Keras that can be read"),
        ("weights.h5", "no file of Keras that can be read"),
        ("weights.pt", "safetensors.torch.save_file"),
        ("saved_model.pb", "expected the SavedModel's folder"),
        ("one.npy", "`varserve assign MODEL VARIABLE @FILE`"),
        ("what.ever", "expected a file .safetensors, .npz, .keras or .h5"),
        ("broken.npz", "broken.npz: "),
    ],
)
def test_files_of_other_kinds_are_named(cli: Cli, tmp_path: Path, name: str, expected: str) -> None:
    """What a file is, and what to do with it."""
    file = tmp_path / name
    file.write_bytes(b"something")
    for command in ("push", "diff"):
        assert expected in cli(command, "fake", str(file), code=2).stderr


def test_the_folder_above_a_version_is_named(cli: Cli, tmp_path: Path) -> None:
    """With the folder of its newest version."""
    (tmp_path / "m" / "4").mkdir(parents=True)
    told = cli("diff", "fake", str(tmp_path / "m"), code=2).stderr
    assert f"expected the folder of a version: {tmp_path / 'm' / '4'}" in told
