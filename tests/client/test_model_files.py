"""`model.load`, `model.save` and `model.diff`, blocking and awaited, without other libraries."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import varserve
import varserve.aio
from tests.waiting import until_async


def test_a_model_goes_to_a_file_and_back(model: varserve.Model, tmp_path: Path) -> None:
    """All that has a value is written at one revision; loaded, it is one commit and the same."""
    path = tmp_path / "all.safetensors"
    snapshot = model.save(path)
    assert (len(snapshot), snapshot.revision) == (10, 0)  # without `unset`
    assert not model.diff(path)
    model.variables["weights"][0, 0, 0:2].assign([10, 20])
    model.variables["labels"].assign(["a", "bb", "x"])
    differences = model.diff(path)
    assert differences
    found = {each.variable: (each.what, each.changed) for each in differences.variables}
    assert found == {"weights": ("value", 2), "labels": ("value", 1)}
    assert (differences.equal, differences.revision) == (8, 2)
    assert {each.changed for each in model.diff(path, hashes_only=True).variables} == {-1}
    assert {each.variable for each in model.diff(snapshot).variables} == set(found)
    assert model.diff(1, "weights").equal == 1
    commit = model.load(path, message="as it was")
    assert commit.revision == 3
    assert model.commits(limit=1)[0].info.message == "as it was"
    assert not model.diff(snapshot)


def test_what_is_loaded_is_chosen_and_renamed(model: varserve.Model, tmp_path: Path) -> None:
    """By patterns, names, a prefix and a cast; what does not fit is named, and changes nothing."""
    path = tmp_path / "theirs.npz"
    np.savez(
        path, **{"net.counter": np.int32(3), "net.kernels": np.ones(1), "net.more": np.ones(1)}
    )
    with pytest.raises(varserve.InvalidRequest, match=r"net\.kernels, did you mean 'kernel'"):
        model.load(path)
    options: dict[str, Any] = {
        "names": {"net.kernels": "layers/0/kernel"},
        "strip_prefix": "net.",
        "ignore_unknown": True,
    }
    with pytest.raises(varserve.DtypeMismatch, match="counter"):
        model.load(path, **options)
    with pytest.raises(varserve.RevisionMismatch):
        model.load(path, **options, cast=True, if_revision_match=model.revision + 1)
    with pytest.raises(varserve.VariableNotFound):
        model.load(path, ["none*"], **options)
    with pytest.raises(varserve.InvalidRequest, match="there is no tensor 'x' to rename"):
        model.load(path, names={"x": "counter"})
    with pytest.raises(varserve.InvalidRequest, match="would both be 'counter'"):
        model.load(path, names={"net.more": "counter", "net.counter": "counter"})
    model.refresh()
    assert model.revision == 0
    model.load(path, "count*", **options, cast=True)
    assert model.variables["counter"].numpy() == 3
    assert model.variables["kernel"].numpy() == [0]
    model.load(path, **options, cast=True)
    assert model.variables["kernel"].numpy() == [1]
    differences = model.diff(path, names={"net.kernels": "kernel"}, strip_prefix="net.")
    assert differences.only_in_other == ("more",)
    kinds = {each.variable: each.what for each in differences.variables}
    assert (kinds["kernel"], kinds["weights"]) == ("dtype", "absent")


@pytest.mark.parametrize("name", ["x.npz", "x.pt", "x.json", "x"])
def test_files_that_are_none_are_named(model: varserve.Model, tmp_path: Path, name: str) -> None:
    """Nothing there, or something else there: the refusal names the file."""
    for content in (None, b"something"):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        for ask in (model.load, model.diff):
            with pytest.raises(varserve.InvalidRequest, match=name):
                ask(tmp_path / name)
    with pytest.raises(varserve.InvalidRequest, match=r"ends with \.safetensors"):
        model.save(tmp_path / name)


async def test_files_are_read_beside_the_event_loop(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Awaited, a file is written and read by a thread while the loop goes on."""
    import varserve._client.stored.opening as opening

    threads: list[Any] = []
    read, go_on = opening.np.load, threading.Event()

    def slow(*given: Any, **more: Any) -> Any:
        threads.append(threading.current_thread())
        assert go_on.wait(60)
        return read(*given, **more)

    monkeypatch.setattr(opening.np, "load", slow)
    np.savez(tmp_path / "x.npz", counter=np.int64(9))
    async with varserve.aio.connect(address) as client:
        model = await client.model("fake")
        loading = asyncio.ensure_future(model.load(tmp_path / "x.npz"))
        await until_async(lambda: bool(threads))
        assert await model.variables["counter"].numpy() == 7  # the loop goes on
        go_on.set()
        await asyncio.wait_for(loading, 60)
        assert await model.variables["counter"].numpy() == 9
        await model.save(tmp_path / "y.safetensors")
        assert not await model.diff(tmp_path / "y.safetensors")
    assert threads[0] is not threading.current_thread()
