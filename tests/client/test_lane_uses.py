"""What reads or writes large values for a user goes by the lane, not only `numpy` and `assign`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import varserve
from tests.client.test_lane import MIB, bits, path, serving  # noqa: F401  # a fixture among them
from tests.fakes import FakeVariable
from varserve._client.transport import lane as client_lane
from varserve_service.core.arrays import sealed

COUNT = 2 * MIB
"""Elements: more than fits into one message."""
SHAPE = (COUNT,)


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What went by the lane: `borrow` or `hand_over`."""
    found: list[str] = []
    borrow, hand_over = client_lane.borrow, client_lane.Offer.hand_over

    def borrowing(*args: Any, **options: Any) -> Any:
        found.append("borrow")
        return borrow(*args, **options)

    def handing_over(*args: Any) -> bool:
        found.append("hand_over")
        return hand_over(*args)

    monkeypatch.setattr(client_lane, "borrow", borrowing)
    monkeypatch.setattr(client_lane.Offer, "hand_over", handing_over)
    return found


def _snapshot(model: varserve.Model, value: np.ndarray[Any, Any], folder: Path) -> None:
    assert model.read(["big"])["big"].tobytes() == value.tobytes()


def _saved(model: varserve.Model, value: np.ndarray[Any, Any], folder: Path) -> None:
    saved = model.save(folder / "m.safetensors", "big")
    assert saved["big"].tobytes() == value.tobytes()


def _mirrored(model: varserve.Model, value: np.ndarray[Any, Any], folder: Path) -> None:
    with model.mirror("big") as mirror:
        assert mirror["big"].tobytes() == value.tobytes()


def _earlier(model: varserve.Model, value: np.ndarray[Any, Any], folder: Path) -> None:
    revision = model.variables["count"].assign(4).revision
    model.variables["count"].assign(5)
    earlier = model.variables["big"].numpy(at_revision=revision)
    assert earlier.tobytes() == value.tobytes()


@pytest.mark.parametrize("read", [_snapshot, _saved, _mirrored, _earlier])
def test_reads_borrow(
    path: str,  # noqa: F811
    ways: list[str],
    tmp_path: Path,
    read: Callable[..., None],
) -> None:
    """Snapshots, files that are saved, mirrors when they begin, and earlier values."""
    value = bits("float32", COUNT)
    with (
        serving(path, FakeVariable("big", value.copy())) as found,
        varserve.connect(found.address) as client,
    ):
        read(client.model("counter"), value, tmp_path)
    assert ways == ["borrow"]


def _transaction(model: varserve.Model, value: np.ndarray[Any, Any], folder: Path) -> None:
    with model.transaction() as transaction:
        transaction.assign("big", value)


def _loaded(model: varserve.Model, value: np.ndarray[Any, Any], folder: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"big": value}, folder / "m.safetensors")
    model.load(folder / "m.safetensors")


@pytest.mark.parametrize("write", [_transaction, _loaded])
def test_writes_hand_over(
    path: str,  # noqa: F811
    ways: list[str],
    tmp_path: Path,
    write: Callable[..., None],
) -> None:
    """Transactions, which pushes are as well, and files that are loaded."""
    variable = FakeVariable("big", np.zeros(COUNT, np.float32))
    value = np.arange(COUNT, dtype=np.float32)
    with serving(path, variable) as found, varserve.connect(found.address) as client:
        write(client.model("counter"), value, tmp_path)
    assert ways == ["hand_over"]
    assert variable.array is not None
    assert variable.array.tobytes() == value.tobytes()


def test_events_and_mirrors_borrow(path: str, ways: list[str]) -> None:  # noqa: F811
    """A value that fits into no message comes to each watcher as memory, of which there is one."""
    value = bits("float32", COUNT)
    with (
        serving(path, FakeVariable("big", np.zeros(COUNT, np.float32))) as found,
        varserve.connect(found.address) as client,
        varserve.connect(found.address, lane=False) as other,
    ):
        model = client.model("counter")
        with model.mirror("big") as mirror, model.watch("big") as one, model.watch("big") as two:
            ways.clear()
            before = sealed.count()
            commit = other.model("counter").variables["big"].assign(value)
            for watch in (one, two):
                assert next(watch)["big"].value.tobytes() == value.tobytes()
            assert mirror.wait_for(commit.revision)
            assert mirror["big"].tobytes() == value.tobytes()
            assert ways == ["borrow"] * 3
            assert sealed.count() <= before + 1
