"""Each command: what it prints for people and for programs, and what it does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import varserve
from tests.fakes import FakeFunction, FakeModel
from tests.serving import serve_here
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import TensorSpec

from .conftest import Cli, document, invoke

WEIGHTS = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
HEADER = {"model", "version", "epoch", "revision"}


def test_models(cli: Cli) -> None:
    """The models that are served, as a table and as JSON."""
    assert cli("models").stdout.split()[7:11] == ["fake", "1", "ready", "0"]
    (found,) = document(cli("models", "--json"))["models"]
    assert {key: found[key] for key in ("name", "version", "state", "variables")} == {
        "name": "fake",
        "version": 1,
        "state": "ready",
        "variables": 11,
    }


def test_ls(cli: Cli) -> None:
    """Variables and functions; with patterns only the variables that fit."""
    text = cli("ls", "fake").stdout
    assert "float32 [3, 4, 5]" in text
    assert "no value" in text
    assert "(n: int32 []) -> {ones: float32 [?]}" in text
    found = document(cli("ls", "fake", "--json"))
    assert HEADER | {"variables", "functions", "omissions"} == set(found)
    assert len(found["variables"]) == 11
    assert {each["name"] for each in found["functions"]} == {"double", "spread", "divide"}
    told = {"kind": "function", "path": "datasets", "reason": "its input 'x' is a variant"}
    assert found["omissions"] == [told]
    assert "its input 'x' is a variant" in text
    some = document(cli("ls", "fake", "w*", "layers/0/kernel", "--json"))
    assert [each["name"] for each in some["variables"]] == ["weights", "kernel"]
    assert some["functions"] == []


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("weights", WEIGHTS),
        ("weights[0]", WEIGHTS[0]),
        ("weights[-1, ..., 0:4:2]", WEIGHTS[-1, ..., 0:4:2]),
        ("weights[0:2,:,1]", WEIGHTS[0:2, :, 1]),
        ("weights[1:]", WEIGHTS[1:]),
        ("weights[[2,0]]", WEIGHTS[[2, 0]]),
        ("layers/0/kernel[:]", np.zeros(1, np.float32)),
    ],
)
def test_read(cli: Cli, said: str, expected: Any) -> None:
    """A variable or a part of it, as numpy indexes it; a list in brackets is rows."""
    found = document(cli("read", "fake", said, "--json"))
    assert (found["dtype"], found["shape"]) == ("float32", list(expected.shape))
    assert np.array(found["value"], np.float32).tolist() == expected.tolist()
    assert "revision 0" in cli("read", "fake", said).stdout


@pytest.mark.parametrize("said", ["weights[", "weights[]", "weights[a]", "weights[0:1:2:3]"])
def test_parts_that_are_none(cli: Cli, said: str) -> None:
    """What is no part is told before anything is read."""
    assert cli("read", "fake", said, code=3 if said.endswith("s[") else 2).stderr


def test_read_with_statistics(cli: Cli) -> None:
    """Statistics are of the part that was read, at its revision."""
    found = document(cli("read", "fake", "weights[0]", "--stats", "--json"))
    assert found["summary"]["max"] == 19
    assert sum(found["summary"]["histogram"]["counts"]) == 20
    assert "norm" in cli("read", "fake", "weights[0]", "--stats").stdout


def test_read_into_files(cli: Cli, tmp_path: Path) -> None:
    """A value is written as .npy, .json and .safetensors, and read back as it was."""
    for name in ("weights", "labels"):
        for suffix in (".npy", ".json", ".safetensors"):
            file = tmp_path / f"{name}{suffix}"
            if name == "labels" and suffix == ".npy":
                error = cli("read", "fake", name, "--out", str(file), code=2).stderr
                assert "no string" in error
                continue
            cli("read", "fake", name, "--out", str(file))
            cli("assign", "fake", name, f"@{file}")
    assert cli("diff", "fake", "--revision", "0").stdout.startswith("0 differ")
    assert np.array_equal(np.load(tmp_path / "weights.npy"), WEIGHTS)
    cli("read", "fake", "weights", "--out", str(tmp_path / "x.txt"), code=2)


def test_read_at_a_revision(cli: Cli) -> None:
    """Earlier values while they are kept; a revision to come is exit code 4."""
    cli("assign", "fake", "counter", "9")
    assert document(cli("read", "fake", "counter", "--json"))["value"] == 9
    earlier = document(cli("read", "fake", "counter", "--at-revision", "0", "--json"))
    assert (earlier["value"], earlier["revision"]) == (7, 0)
    cli("read", "fake", "counter", "--at-revision", "5", code=4)


def test_assign(cli: Cli, client: varserve.Client, tmp_path: Path) -> None:
    """Values inline and from files, whole, parts and rows, set, added and subtracted."""
    model = client.model("fake")
    assert cli("assign", "fake", "counter", "5", "-m", "why").stdout == "revision 1\n"
    found = document(cli("assign", "fake", "counter", "--add", "--json", "--", "-2"))
    assert (found["revision"], found["variable"]) == (2, "counter")
    cli("assign", "fake", "counter", "--sub", "1")
    assert int(model.variables["counter"].numpy()) == 2
    cli("assign", "fake", "weights[0, 0]", "[1, NaN, 3, Infinity, 5]", "--allow-non-finite")
    assert np.isnan(model.variables["weights"][0, 0, 1].numpy())
    file = tmp_path / "rows.npy"
    np.save(file, np.ones((2, 4, 5)))
    cli("assign", "fake", "weights[[2,1]]", f"@{file}", code=2)  # float64
    cli("assign", "fake", "weights[[2,1]]", f"@{file}", "--cast")
    assert model.variables["weights"][1:].numpy().sum() == 40
    cli("assign", "fake", "labels", '["x", "é", "z"]')
    assert model.variables["labels"].numpy().tolist() == [b"x", "é".encode(), b"z"]
    cli("assign", "fake", "flag", "[false, false]")
    assert not model.variables["flag"].numpy().any()
    assert client.list_commits("fake")[-1].info.message == "why"


def test_assign_on_conditions(cli: Cli) -> None:
    """A write that came too late is exit code 4, and changes nothing."""
    cli("assign", "fake", "counter", "1", "--if-revision", "0")
    told = cli("assign", "fake", "counter", "2", "--if-revision", "0", code=4).stderr
    assert "REVISION_MISMATCH" in told
    assert document(cli("read", "fake", "counter", "--json"))["value"] == 1


@pytest.mark.parametrize(
    "value", ["x", "[1, 2", "@nope.npy", "@nope.txt", "{}", '"text"', "[1, 2]"]
)
def test_values_that_are_none(cli: Cli, value: str) -> None:
    """What is no value of the variable is exit code 2, with what was expected."""
    assert cli("assign", "fake", "counter", value, code=2).stderr.startswith("varserve: ")


def test_run(cli: Cli, tmp_path: Path) -> None:
    """Inputs inline and from files, outputs shown, as JSON and to files."""
    assert "[2. 4.]" in cli("run", "fake", "double", "x=[1, 2]").stdout
    x = tmp_path / "x.npy"
    np.save(x, np.array([3, 4], np.float32))
    found = document(cli("run", "fake", "double", f"x=@{x}", "--json"))
    assert found["outputs"]["y"] == {"dtype": "float32", "shape": [2], "value": [6, 8]}
    both, one = tmp_path / "o.npz", tmp_path / "y.npy"
    cli("run", "fake", "double", "x=[1, 2]", "--out", str(both), "--out", f"y={one}")
    assert set(np.load(both)) == {"y", "half/0"}
    assert np.load(one).tolist() == [2, 4]
    cli("run", "fake", "double", "x=[1, 2]", "--out", f"z={one}", code=2)
    cli("run", "fake", "double", "x", code=2)
    cli("run", "fake", "double", "x=[1]", "x=[2]", code=2)
    cli("run", "fake", "nope", code=3)
    cli("run", "fake", "divide", "x=[1]", code=4)


def test_what_a_run_cannot_write_is_told_before_it_runs(tmp_path: Path) -> None:
    """A function that writes is not run for outputs that have no place."""
    runs = []

    def step(x: np.ndarray) -> dict[str, np.ndarray]:
        runs.append(x)
        return {"file": x}

    vector = TensorSpec("float32", (None,))
    function = FakeFunction("step", step, inputs={"x": vector}, outputs={"file": vector})
    with serve_here(LiveModel(FakeModel([], [function]))) as address:
        run = ("--server", address, "run", "fake", "step", "x=[1, 2]", "--out")
        for out in ("lost=x.npy", "file=x.txt", "x", f"file={tmp_path}/none/x.npy"):
            invoke(*run, out, code=2)
        assert not runs
        invoke(*run, str(tmp_path / "x.npz"))
    assert np.load(tmp_path / "x.npz")["file"].tolist() == [1, 2]
    assert len(runs) == 1


def test_arguments_that_cannot_be_sent(cli: Cli) -> None:
    """Revisions and indices that no number of 64 bits is, and what is no text, are exit code 2."""
    large = str(2**63)
    cli("read", "fake", "counter", "--at-revision", large, code=2)
    cli("summary", "fake", "--at-revision", large, code=2)
    cli("assign", "fake", "counter", "1", "--if-revision", large, code=2)
    cli("revert", "fake", large, code=2)
    cli("history", "fake", "--before", large, code=2)
    cli("watch", "fake", "--after-revision", large, code=2)
    cli("diff", "fake", "--revision", large, code=2)
    assert "no size reaches" in cli("read", "fake", f"growing[{large}]", code=2).stderr
    told = cli("assign", "fake", "counter", "1", "-m", "caf\udce9", code=2).stderr
    assert "message: expected text that UTF-8 can hold, found 'caf\\udce9'" in told
    assert document(cli("history", "fake", "--json"))["revision"] == 0


def test_watch(cli: Cli) -> None:
    """Commits from a revision on, a line or a JSON document each."""
    for n in "123":
        cli("assign", "fake", "counter", n, "-m", f"to {n}")
    text = cli("watch", "fake", "--after-revision", "1", "-n", "2").stdout
    assert "to 2" in text
    assert "to 3" in text
    lines = cli(
        "watch", "fake", "counter", "--after-revision", "0", "-n", "3", "--json", "--values"
    )
    events = [json.loads(line) for line in lines.stdout.splitlines()]
    assert [event["revision"] for event in events] == [1, 2, 3]
    assert [event["changes"][0]["value"] for event in events] == [1, 2, 3]
    assert cli("watch", "fake", "--for", "0.2").stdout == ""


def test_history_and_revert(cli: Cli) -> None:
    """Who changed what and why, page by page, and back."""
    for n in "123":
        cli("assign", "fake", "counter", n, "-m", f"to {n}")
    found = document(cli("history", "fake", "--limit", "2", "--json"))
    assert [each["message"] for each in found["commits"]] == ["to 3", "to 2"]
    more = document(cli("history", "fake", "--before", "2", "--json"))
    assert [each["revision"] for each in more["commits"]] == [1]
    assert "to 1" in cli("history", "fake", "counter").stdout
    reverted = document(cli("revert", "fake", "1", "counter", "-m", "undo", "--json"))
    assert (reverted["revision"], reverted["to_revision"]) == (4, 1)
    assert document(cli("read", "fake", "counter", "--json"))["value"] == 1
    cli("revert", "fake", "0", "--if-revision", "1", code=4)


def test_summary(cli: Cli) -> None:
    """Statistics of one, of a part, of those that fit and of all."""
    found = document(cli("summary", "fake", "--json"))
    assert len(found["summaries"]) == 10
    weights = found["summaries"]["weights"]
    assert (weights["min"], weights["max"], weights["zeros"]) == (0, 59, 1)
    assert weights["content_hash"] == varserve.content_hash(WEIGHTS)
    part = document(cli("summary", "fake", "weights[0]", "--no-hash", "--bins", "0", "--json"))
    part = part["summaries"]["weights"]
    assert (part["max"], part["histogram"], part["content_hash"]) == (19, None, None)
    assert len(cli("summary", "fake", "w*", "l*").stdout.splitlines()) == 6
    assert varserve.content_hash(WEIGHTS) in cli("summary", "fake", "weights").stdout
    edges = document(cli("summary", "fake", "weights", "--range", "0", "10", "--json"))
    assert edges["summaries"]["weights"]["histogram"]["above"] == 49
    cli("summary", "fake", "nope*", code=3)


def test_wait_ready(cli: Cli) -> None:
    """Ready is 0, not in time 1, unknown 3."""
    assert cli("wait-ready").stdout == "ready\n"
    assert document(cli("wait-ready", "fake", "--json")) == {"ready": True}
    cli("wait-ready", "nope", code=3)


def test_bfloat16_in_files(cli: Cli, tmp_path: Path) -> None:
    """A dtype that numpy's files lack is refused for them and kept by safetensors."""
    from varserve.cli.exits import Unusable
    from varserve.cli.values import read_value, write_values

    array = np.array([1, 2], ml_dtypes.float8_e5m2)  # which numpy writes and does not read
    for name in ("x.npy", "x.npz"):
        with pytest.raises(Unusable, match="float8_e5m2"):
            write_values(tmp_path / name, {"x": array})
    array = np.array([1, 2], ml_dtypes.bfloat16)
    with pytest.raises(Unusable, match="bfloat16"):
        write_values(tmp_path / "x.npy", {"x": array})
    write_values(tmp_path / "x.safetensors", {"x": array})
    found = read_value(f"@{tmp_path / 'x.safetensors'}", "bfloat16")
    assert (found.dtype, found.tolist()) == (array.dtype, [1, 2])
    np.save(tmp_path / "raw.npy", array)
    found = read_value(f"@{tmp_path / 'raw.npy'}", "bfloat16")
    assert (found.dtype, found.tolist()) == (array.dtype, [1, 2])


@pytest.mark.parametrize("dtype", ["complex64", "complex128", "float64", "uint64", "string"])
def test_json_goes_there_and_back(dtype: str, tmp_path: Path) -> None:
    """A value that was written as JSON is read as it was: NaN, bytes and large numbers too."""
    from varserve.cli.values import read_value, write_values
    from varserve.tensors import as_array

    values: dict[str, Any] = {
        "complex64": np.array([1 + 2j, complex("nan-infj")], np.complex64),
        "complex128": np.zeros((0, 2), np.complex128),
        "float64": np.array([[np.nan, np.inf], [-np.inf, 0.1]]),
        "uint64": np.array([2**64 - 1], np.uint64),
        "string": np.array([b"\xff\x00", b"a"], object),
    }
    write_values(tmp_path / "x.json", {"x": values[dtype]})
    found = as_array(read_value(f"@{tmp_path / 'x.json'}", dtype), None)
    assert varserve.content_hash(found) == varserve.content_hash(values[dtype])
