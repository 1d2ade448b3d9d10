"""Versions that memory does not hold at once: which goes first, and what comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import varserve
import varserve.aio
from tests.lifecycle.administered import administered, saved_model
from tests.waiting import until
from varserve_service.core.memory import MemoryBudget, Room
from varserve_service.lifecycle import (
    LifecycleOptions,
    SwitchOrder,
    loading,
)
from varserve_service.repository import ModelSource


def test_memory_for_one_version_alone_swaps_them(tmp_path: Path) -> None:
    """The old one goes first where both do not fit, and comes back when the new one fails.

    A load that would fit in no way is refused with the numbers.
    """
    room = Room(10 * 2**20, 100 * 2**20)
    budget = MemoryBudget("host", lambda: room)
    with administered(tmp_path, budgets=(budget,)) as found:
        for version, content in ((1, b""), (2, b""), (3, b"bad")):
            saved_model(found.repository / "m" / str(version), content)
        events: list[tuple[int, Any]] = []
        found.loads.before = lambda source: events.append((source.version, dict(found.states())))
        found.admin.load_model("m", 1)
        found.admin.load_model("m", 2)
        assert events[-1] == (2, {("m", 2): "loading"})
        with pytest.raises(varserve.ModelLoadFailed):
            found.admin.load_model("m", 3)
        assert [version for version, _ in events] == [1, 2, 3, 2]
        assert found.version("m") == 2
        data = found.repository / "m" / "1" / "variables" / "variables.data-00000-of-00001"
        data.write_bytes(bytes(100 * 2**20))
        with pytest.raises(varserve.OutOfMemory, match=r"about \d+ bytes of host memory"):
            found.admin.load_model("m", 1)
        assert found.version("m") == 2


def test_a_version_that_is_stuck_on_its_way_out_is_not_loaded_beside_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With old_first, where the new one fails and a kernel holds the old one, the caller is told.

    When the old one has ended at last it can be loaded, and its end takes nothing from the list.
    """
    monkeypatch.setattr(loading, "_ENDING_SECONDS", 0.05)
    options = LifecycleOptions(0.05, SwitchOrder.OLD_FIRST)
    with administered(tmp_path, options=options) as found:
        saved_model(found.repository / "m" / "1")
        saved_model(found.repository / "m" / "2", b"bad")
        found.admin.load_model("m", 1)
        old = found.models.find("m")
        old._parts.lock.acquire_shared(None)
        with pytest.raises(varserve.ModelLoadFailed, match="is bad"):
            found.admin.load_model("m", 2)
        assert found.states() == {("m", 1): "unloading", ("m", 2): "failed"}
        assert found.loads.done == [("m", 1)]
        old._parts.lock.release_shared()
        until(lambda: ("m", 1) not in found.states())
        found.admin.load_model("m", 1)
        assert found.states() == {("m", 1): "ready", ("m", 2): "failed"}
        # Whoever of that name and number ends now, it is not this one.
        found.models.forget("m", 1, old)
        assert found.states()["m", 1] == "ready"


def test_a_version_that_does_not_come_back_is_told_of(tmp_path: Path) -> None:
    """The caller is told why the new one failed, and the list says what became of the old one."""
    options = LifecycleOptions(order=SwitchOrder.OLD_FIRST)
    with administered(tmp_path, options=options) as found:
        one = saved_model(found.repository / "m" / "1")
        saved_model(found.repository / "m" / "2", b"new is bad")
        found.admin.load_model("m", 1)

        def spoil(source: ModelSource) -> None:
            (source.path / "saved_model.pb").write_bytes(b"bad")

        found.loads.before = spoil
        with pytest.raises(varserve.ModelLoadFailed, match="m/2 is bad"):
            found.admin.load_model("m", 2)
        assert found.states() == {("m", 1): "failed", ("m", 2): "failed"}
        assert f"{one} is bad" in found.admin.list_versions("m")[0].error


def test_the_order_can_be_set(tmp_path: Path) -> None:
    """With old_first the old version is gone when the new one is loaded."""
    options = LifecycleOptions(order=SwitchOrder.OLD_FIRST)
    with administered(tmp_path, options=options) as found:
        for version in (1, 2):
            saved_model(found.repository / "m" / str(version))
        found.admin.load_model("m", 1)
        seen = []
        found.loads.before = lambda source: seen.append(dict(found.states()))
        found.admin.load_model("m")
        assert seen == [{("m", 2): "loading"}]
