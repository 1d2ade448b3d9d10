"""Values on a device: what they take there, and what they take of the host."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.core.shared_log import Replica, SharedLog
from tests.core.test_memory import MIB, budget
from tests.core.test_memory_of_calls import ALL, ROW, big_model
from tests.fakes import FakeFunction, FakeModel, FakeVariable
from varserve_service.core.arrays.regions import Region, Rows
from varserve_service.core.change.ways import FEW
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import OutOfMemory
from varserve_service.core.memory import SMALL_BYTES, MemoryBudget, Room
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import Operation, Value
from varserve_service.core.ports.messages import Read


def test_a_device_has_a_memory_of_its_own() -> None:
    """Where values live on a device, they are brought there only when they fit."""
    loaded, big = big_model()
    loaded.device = "GPU:0"
    big.spec = replace(big.spec, device="GPU:0")
    loaded.room = Room(31 * MIB, 80 * MIB)
    live = LiveModel(loaded, host_memory=budget(1000 * MIB))
    whole = Write("big", Operation.SET, np.ones((8, MIB), np.float32))
    with pytest.raises(OutOfMemory, match=f"needs {32 * MIB} bytes of GPU:0 memory; {31 * MIB} "):
        live.assign([whole])
    assert big.array is not None
    assert big.array.sum() == 0
    loaded.room = Room(32 * MIB, 80 * MIB)
    assert live.assign([whole]).header.revision == 1


@pytest.mark.parametrize(("in_place", "brought"), [(False, 32), (True, 20)])
def test_many_regions_on_a_device_are_worked_out_on_the_host(in_place: bool, brought: int) -> None:
    """The whole is brought there for them, or those of its rows that they touch."""
    loaded, big = big_model(in_place=in_place)
    loaded.device = "GPU:0"
    big.spec = replace(big.spec, device="GPU:0")
    loaded.room = Room(1000 * MIB, 1000 * MIB)
    writes = [Write("big", Operation.SET, ROW, Rows(np.array([row]))) for row in range(5)]
    full = LiveModel(loaded, host_memory=budget(brought * MIB - 1))
    with pytest.raises(OutOfMemory, match=f"the write needs {brought * MIB} bytes of host memory"):
        full.assign(writes)
    live = LiveModel(loaded, host_memory=budget(brought * MIB))
    assert live.assign(writes).header.revision == 1
    assert (live.memory.host.reserved, live.memory.device.reserved) == (0, 0)


def on_device(loaded: FakeModel, *, room: int) -> FakeModel:
    loaded.device = "GPU:0"
    for variable in loaded.variables:
        variable.spec = replace(variable.spec, device="GPU:0")
    loaded.room = Room(room, 1000 * MIB)
    return loaded


def test_what_a_journal_keeps_is_brought_from_the_device() -> None:
    """What is written there needs room on the host for the journal; without one it does not."""

    def fill() -> dict[str, np.ndarray[Any, Any]]:
        return {}

    def made(available: int, **options: Any) -> LiveModel:
        loaded = on_device(big_model()[0], room=1000 * MIB)
        loaded.functions = [FakeFunction("fill", fill, writes=("big",))]
        return LiveModel(loaded, host_memory=budget(available), **options)

    whole = Write("big", Operation.SET, ALL.copy())
    for available, fits in ((32 * MIB - 1, False), (32 * MIB, True)):
        journal = Replica(SharedLog())
        journal.max_commit_bytes = 2**30
        live = made(available, journal=journal)
        if fits:
            assert live.assign([whole]).header.revision == 1
            assert live.run("fill", {}, {}).header.revision == 2
        else:
            with pytest.raises(OutOfMemory, match="what is kept of the write needs"):
                live.assign([whole])
            with pytest.raises(OutOfMemory, match="what is kept of function 'fill' needs"):
                live.run("fill", {}, {})
        assert (live.memory.host.reserved, live.memory.device.reserved) == (0, 0)
        live.close()
    alone = made(0)
    assert alone.assign([Write("big", Operation.SET, ALL.copy())]).header.revision == 1
    assert alone.run("fill", {}, {}).header.revision == 2


def test_a_part_of_the_past_on_a_device_needs_room_in_both_memories() -> None:
    """It is laid together on the host, and brought to the device."""
    loaded = on_device(big_model()[0], room=1000 * MIB)
    available = [1000 * MIB]
    live = LiveModel(loaded, host_memory=MemoryBudget("host", lambda: Room(available[0], 2**40)))
    live.assign([Write("big", Operation.SET, ROW, Rows(np.array([1])))])
    row = [Read("big", Rows(np.array([1])))]
    for host, device, short in ((4, 4, ""), (3, 4, "host"), (4, 3, "GPU:0")):
        available[0], loaded.room = host * MIB, Room(device * MIB, 1000 * MIB)
        if short:
            with pytest.raises(OutOfMemory, match=f"needs {4 * MIB} bytes of {short} memory"):
                live.timeline.read(row, 0)
        else:
            (entry,) = live.timeline.read(row, 0).entries
            assert entry.value is not None
            assert entry.value.numpy().sum() == 0
        assert (live.memory.host.reserved, live.memory.device.reserved) == (0, 0)


def test_what_a_device_does_not_keep_takes_host_memory() -> None:
    """Some dtypes are always on the host, whose memory they take: it may have room, or not."""
    loaded, big = big_model()
    loaded.device = "GPU:0"
    loaded.room = Room(0, 80 * MIB)

    def fill() -> dict[str, np.ndarray[Any, Any]]:
        big.array = np.ones((8, MIB), np.float32)
        return {}

    loaded.functions = [FakeFunction("fill", fill, writes=("big",))]
    region = Write("big", Operation.SET, ROW, Rows(np.array([2])))
    full = LiveModel(loaded, host_memory=budget(31 * MIB))
    with pytest.raises(OutOfMemory, match=f"the write needs {36 * MIB} bytes of host memory"):
        full.assign([region])
    with pytest.raises(OutOfMemory, match=f"'fill' needs {32 * MIB} bytes of host memory"):
        full.run("fill", {}, {})
    live = LiveModel(loaded, host_memory=budget(36 * MIB))
    assert live.assign([region]).header.revision == 1
    assert live.run("fill", {}, {}).header.revision == 2
    assert (live.memory.host.reserved, live.memory.device.reserved) == (0, 0)


@pytest.mark.parametrize("count", [4, 5])
def test_a_few_regions_on_a_device_are_laid_over_the_whole_there(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other, each into a copy; nothing is brought to the host, which is full."""
    loaded, big = big_model()
    on_device(loaded, room=1000 * MIB)
    laid: list[int] = []

    def overlay(base: Value, value: Value, region: Region) -> Value:
        laid.append(1)
        return FakeVariable.overlay(big, base, value, region)

    monkeypatch.setattr(big, "overlay", overlay)
    live = LiveModel(loaded, host_memory=budget(SMALL_BYTES))
    writes = [Write("big", Operation.SET, ROW, Rows(np.array([row]))) for row in range(count)]
    if count > FEW:
        with pytest.raises(OutOfMemory):
            live.assign(writes)
        return
    assert live.assign(writes).header.revision == 1
    assert len(laid) == count
    assert big.array is not None
    assert big.array.sum(axis=1).tolist() == [MIB] * count + [0] * (8 - count)
