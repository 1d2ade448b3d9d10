"""Memory is promised as far as there is some, and given back."""

from __future__ import annotations

import gc
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.core.shared_log import Replica, SharedLog
from tests.fakes import FakeFunction, FakeModel, FakeVariable
from tests.waiting import until
from varserve_service.core import memory as memory_module
from varserve_service.core.arrays.buffers import idle_bytes
from varserve_service.core.arrays.regions import Region, Rows, Slice, Slices
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import OutOfMemory, Reason, RequestError
from varserve_service.core.memory import SMALL_BYTES, MemoryBudget, Room
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import Operation, TensorSpec
from varserve_service.core.ports.messages import Read
from varserve_service.host_memory import HostMemory

MIB = 2**20


def budget(available: int, *, reserve: int = 0) -> MemoryBudget:
    return MemoryBudget("host", lambda: Room(available, 100 * MIB), reserve)


@pytest.mark.parametrize(("more", "fits"), [(-1, True), (0, True), (1, False)])
def test_what_is_left_is_promised_and_no_more(more: int, fits: bool) -> None:
    """Beside what was promised and what stays free, the last byte can be had."""
    memory = budget(50 * MIB, reserve=10 * MIB)
    with memory.reserve(15 * MIB, "one"):
        if fits:
            memory.reserve(25 * MIB + more, "another").used(25 * MIB + more)
        else:
            with pytest.raises(OutOfMemory) as caught:
                memory.reserve(25 * MIB + more, "another")
            assert caught.value.message == (
                f"another needs {25 * MIB + more} bytes of host memory; {25 * MIB} are available, "
                f"of {100 * MIB}; nothing was changed"
            )
            assert caught.value.metadata == {
                "needed": str(25 * MIB + more),
                "available": str(25 * MIB),
                "limit": str(100 * MIB),
            }
    assert memory.reserved == 0


def test_many_small_ones_count_as_what_they_are() -> None:
    """One that is small is let in unseen; a thousand of one call are not."""
    memory = budget(0)
    memory.reserve(SMALL_BYTES - 1, "small")
    held = memory.reserve(0, "all")
    for _ in range(3):
        held.add(SMALL_BYTES // 4, "small")
    with pytest.raises(OutOfMemory):
        held.add(SMALL_BYTES // 4, "small")


def test_used_bytes_are_promised_no_more() -> None:
    """What was written to is in the system's own figures: it does not count twice."""
    memory = budget(100 * MIB)
    with memory.reserve(60 * MIB, "one") as held:
        held.used(40 * MIB)
        assert memory.reserved == 20 * MIB
        held.used(90 * MIB)
        assert memory.reserved == 0
    assert memory.reserved == 0


def test_who_goes_on_after_its_call_is_promised_nothing() -> None:
    """A thread whose caller has gone gets no more, and what it had asked for is given back."""
    memory = budget(100 * MIB)
    with memory.reserve(0, "a call") as held:
        pass
    with pytest.raises(RequestError) as refused:
        held.add(60 * MIB, "what comes too late")
    assert refused.value.reason is Reason.DEADLINE_EXCEEDED
    assert memory.reserved == 0


def test_threads_do_not_promise_the_same_bytes() -> None:
    """Of many who ask at once, as many get theirs as there is room for."""
    memory = budget(100 * MIB)
    got: list[object] = []
    start = threading.Barrier(16)

    def ask() -> None:
        start.wait(30)
        for _ in range(20):
            try:
                got.append(memory.reserve(7 * MIB, "some"))
            except OutOfMemory:
                return

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(got) == 14
    assert memory.reserved == 98 * MIB


def test_memory_is_trimmed_after_the_last_that_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at once, and for all who ask until then; who asks while it is done is not forgotten."""
    times: list[float] = []
    began, go_on = threading.Event(), threading.Event()

    def trim() -> None:
        times.append(time.monotonic())
        began.set()
        go_on.wait(30)

    monkeypatch.setattr(memory_module, "trim", trim)
    late = memory_module.LateTrim(0.05)
    first = time.monotonic()
    for _ in range(3):
        late.ask()
    assert began.wait(30)
    assert times[0] - first >= 0.05
    late.ask()
    go_on.set()
    until(lambda: len(times) == 2)
    late.ask()
    until(lambda: len(times) == 3)


def test_what_was_freed_is_returned_where_the_library_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it; another C library has no such function, or is not there."""
    trimmed: list[int] = []
    found: Any = SimpleNamespace(malloc_trim=trimmed.append)
    monkeypatch.setattr(memory_module.ctypes, "CDLL", lambda name: found)
    memory_module.trim()
    assert trimmed == [0]
    found = SimpleNamespace()
    memory_module.trim()

    def absent(name: str) -> Any:
        raise OSError(name)

    monkeypatch.setattr(memory_module.ctypes, "CDLL", absent)
    memory_module.trim()


# What a model's calls take.


def big_model(
    *, in_place: bool = False, shape: tuple[int | None, ...] = ()
) -> tuple[FakeModel, FakeVariable]:
    big = FakeVariable("big", np.zeros((8, MIB), np.float32), in_place=in_place, shape=shape)
    give = FakeFunction(
        "give",
        lambda: {"y": np.zeros((5, MIB), np.float32)},
        outputs={"y": TensorSpec("float32", (5, MIB))},
    )
    return FakeModel([big], [give]), big


ROW = np.ones((1, MIB), np.float32)


@pytest.mark.parametrize("shape", [(8, MIB), (None, MIB)], ids=["fixed", "of any size"])
def test_a_write_that_copies_its_variable_needs_room_for_the_copy(
    shape: tuple[int | None, ...],
) -> None:
    """A region of a variable that is written as a whole, and what it replaces, which is kept.

    A whole one takes no more than itself. Of a variable of any size the present one counts.
    """
    loaded, big = big_model(shape=shape)
    live = LiveModel(loaded, host_memory=budget(35 * MIB))
    region = Write("big", Operation.SET, ROW, Rows(np.array([2])))
    with pytest.raises(OutOfMemory, match=f"the write needs {36 * MIB} bytes of host memory"):
        live.assign([region])
    assert big.array is not None
    assert (big.array.sum(), live.header.revision) == (0, 0)
    live.assign([Write("big", Operation.SET, np.ones((8, MIB), np.float32))])
    roomy = LiveModel(loaded, host_memory=budget(36 * MIB))
    assert roomy.assign([region]).header.revision == 1
    assert roomy.memory.host.reserved == 0


ALL = np.ones((8, MIB), np.float32)
COLUMN = Slices((Slice(), Slice(0, 1)))
EVEN = Rows(np.arange(0, 8, 2))


@pytest.mark.parametrize("shape", [(8, MIB), (None, MIB)], ids=["fixed", "of any size"])
@pytest.mark.parametrize(
    ("writes", "copies"),
    [
        # What they replace is a copy, since what is there is written over.
        ([(Operation.SET, ALL[:1], Rows(np.array([2])))], [1]),
        ([(Operation.SET, ALL[:4], EVEN)], [4]),
        ([(Operation.SET, ALL, None)], [8]),
        # All rows are gathered, to be cut.
        ([(Operation.SET, ALL[:, :1], COLUMN)], [8]),
        # A sum is worked out of a copy of what is there, into another one.
        ([(Operation.ADD, ALL[:1], Rows(np.array([2])))], [1, 2]),
        ([(Operation.SET, ALL[:1], Rows(np.array([n]))) for n in (2, 3, 2)], [2, 4]),
        (
            [
                (Operation.SET, ALL[:1], Slices((Slice(2, 3),))),
                (Operation.ADD, ALL[:4], EVEN),
            ],
            [4, 8],
        ),
        ([(Operation.SET, ALL, None), (Operation.ADD, ALL[:4], EVEN)], [16]),
    ],
)
def test_what_is_written_in_place_needs_room_for_what_it_replaces(
    writes: list[tuple[Operation, np.ndarray[Any, Any], Region | None]],
    copies: list[int],
    shape: tuple[int | None, ...],
) -> None:
    """And for what is worked out first: rows of an embedding cost the rows, and not the whole."""
    needed = 4 * MIB * sum(copies)
    loaded, big = big_model(in_place=True, shape=shape)
    asked = [Write("big", operation, value.copy(), region) for operation, value, region in writes]
    live = LiveModel(loaded, host_memory=budget(needed - 1))
    with pytest.raises(OutOfMemory, match="the write"):
        live.assign(asked)
    assert big.array is not None
    assert (big.array.sum(), live.header.revision, live.memory.host.reserved) == (0, 0, 0)
    enough = LiveModel(loaded, host_memory=budget(needed))
    assert enough.assign(asked).header.revision == 1
    assert enough.memory.host.reserved == 0


def test_outputs_of_known_shapes_need_room_before_they_are_computed() -> None:
    """A function whose outputs do not fit is not run."""
    loaded, _ = big_model()
    live = LiveModel(loaded, host_memory=budget(19 * MIB))
    with pytest.raises(OutOfMemory, match=f"function 'give' needs {20 * MIB} bytes"):
        live.run("give", {}, {})
    enough = LiveModel(loaded, host_memory=budget(20 * MIB))
    assert enough.run("give", {}, {}).values["y"].shape == (5, MIB)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_function_that_writes_needs_room_for_what_it_writes(in_place: bool) -> None:
    """What was there is kept until nobody can want it back; of an embedding that is a copy."""
    loaded, big = big_model(in_place=in_place)
    ran = []

    def fill() -> dict[str, np.ndarray[Any, Any]]:
        ran.append(1)
        big.array = np.ones((8, MIB), np.float32)
        return {}

    loaded.functions = [FakeFunction("fill", fill, writes=("big",))]
    needed = 32 * MIB
    live = LiveModel(loaded, host_memory=budget(needed - 1))
    with pytest.raises(OutOfMemory, match=f"function 'fill'( replaces)? needs {needed} bytes"):
        live.run("fill", {}, {})
    assert (ran, live.header.revision) == ([], 0)
    enough = LiveModel(loaded, host_memory=budget(needed))
    assert enough.run("fill", {}, {}).header.revision == 1
    assert enough.memory.host.reserved == 0


def test_a_function_that_writes_small_ones_in_place_needs_room_for_two_copies_of_each() -> None:
    """What was there, and what is there then: both are read, and kept."""
    names = ("a", "b", "c")
    small = [FakeVariable(name, np.zeros(MIB, np.uint8), in_place=True) for name in names]
    loaded = FakeModel(small, [FakeFunction("fill", dict, writes=names)])
    live = LiveModel(loaded, host_memory=budget(6 * MIB - 1))
    with pytest.raises(OutOfMemory, match=f"function 'fill' needs {6 * MIB} bytes"):
        live.run("fill", {}, {})
    enough = LiveModel(loaded, host_memory=budget(6 * MIB))
    assert enough.run("fill", {}, {}).header.revision == 1


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


def test_a_revert_needs_room_for_what_it_works_out() -> None:
    """A whole that is laid together again from regions is a copy."""
    loaded, big = big_model()
    available = [100 * MIB]
    memory = MemoryBudget("host", lambda: Room(available[0], 100 * MIB))
    live = LiveModel(loaded, host_memory=memory)
    for row in (1, 2):
        live.assign([Write("big", Operation.SET, ROW, Rows(np.array([row])))])
    available[0] = 31 * MIB
    with pytest.raises(OutOfMemory, match="the revert needs"):
        live.revert(0)
    assert live.header.revision == 2
    available[0] = 32 * MIB
    live.revert(0)
    assert big.array is not None
    assert (big.array.sum(), memory.reserved) == (0, 0)


@pytest.mark.parametrize(("in_place", "copies"), [(False, 0), (True, 2)])
def test_a_revert_of_regions_needs_room_for_them_alone(in_place: bool, copies: int) -> None:
    """Of an embedding: the rows that were written, copied, put together, and replaced."""
    loaded, big = big_model(in_place=in_place)
    available = [100 * MIB]
    live = LiveModel(loaded, host_memory=MemoryBudget("host", lambda: Room(available[0], 2**40)))
    for region in (Slices((Slice(1, 2),)), Rows(np.array([1, 5]))):
        value = np.ones((1 if isinstance(region, Slices) else 2, MIB), np.float32)
        live.assign([Write("big", Operation.SET, value, region)])
    needed = copies * 2 * 4 * MIB or 32 * MIB
    available[0] = needed - 1
    with pytest.raises(OutOfMemory, match=f"the revert needs {needed} bytes"):
        live.revert(0)
    available[0] = needed
    live.revert(0)
    assert big.array is not None
    assert (big.array.sum(), live.memory.host.reserved) == (0, 0)


@pytest.mark.parametrize(("in_place", "copies"), [(False, 1), (True, 2)])
def test_a_part_of_the_past_needs_room_for_its_rows(in_place: bool, copies: int) -> None:
    """They are laid together again, of an embedding from a copy; the whole is left alone."""
    loaded, _ = big_model(in_place=in_place)
    available = [100 * MIB]
    live = LiveModel(loaded, host_memory=MemoryBudget("host", lambda: Room(available[0], 2**40)))
    live.assign([Write("big", Operation.SET, ROW, Rows(np.array([1])))])
    row = [Read("big", Rows(np.array([1])))]
    available[0] = copies * 4 * MIB - 1
    with pytest.raises(OutOfMemory, match=f"revision 0 needs {4 * MIB} bytes of host memory"):
        live.timeline.read(row, 0)
    # What was not written since is not laid together.
    assert live.timeline.read(row, 1).entries[0].value is not None
    available[0] = copies * 4 * MIB
    (entry,) = live.timeline.read(row, 0).entries
    assert entry.value is not None
    assert (entry.value.numpy().sum(), live.memory.host.reserved) == (0, 0)


# What the system tells.

MEMINFO = "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 800 kB\n"


def system(root: Path, files: dict[str, str]) -> HostMemory:
    for name, text in {"proc/meminfo": MEMINFO, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return HostMemory(root=root, idle=lambda: 0)


def group(folder: str, limit: str, usage: int, inactive: int) -> dict[str, str]:
    return {
        f"sys/fs/cgroup/{folder}/memory.max": f"{limit}\n",
        f"sys/fs/cgroup/{folder}/memory.current": f"{usage}\n",
        f"sys/fs/cgroup/{folder}/memory.stat": f"anon 5\nfile 9\ninactive_file {inactive}\n",
    }


def old_group(folder: str, limit: int, usage: int, inactive: int) -> dict[str, str]:
    return {
        f"sys/fs/cgroup/memory/{folder}/memory.limit_in_bytes": f"{limit}\n",
        f"sys/fs/cgroup/memory/{folder}/memory.usage_in_bytes": f"{usage}\n",
        f"sys/fs/cgroup/memory/{folder}/memory.stat": (
            f"cache 9\ninactive_file 1\ntotal_inactive_file {inactive}\n"
        ),
    }


@pytest.mark.parametrize(
    ("files", "room"),
    [
        ({}, Room(800 * 1024, 1000 * 1024)),
        ({"proc/self/cgroup": "0::/\n", **group(".", "max", 9, 3)}, Room(800 * 1024, 1000 * 1024)),
        ({"proc/self/cgroup": "0::/\n", **group(".", "5000", 4000, 100)}, Room(1100, 5000)),
        (
            {
                "proc/self/cgroup": "0::/pod/c\n",
                **group("pod/c", "max", 10, 0),
                **group("pod", "900", 500, 0),
            },
            Room(400, 900),
        ),
        # The path is of outside the container: the mount is the group itself.
        ({"proc/self/cgroup": "0::/../x\n", **group(".", "5000", 6000, 0)}, Room(0, 5000)),
        (
            {
                "proc/self/cgroup": "4:memory:/pod\n1:cpu:/\n0::/\n",
                **old_group("pod", 7000, 6000, 50),
                **old_group(".", 2**63 - 4096, 10**9, 0),
            },
            Room(1050, 7000),
        ),
    ],
)
def test_the_least_of_all_limits_counts(files: dict[str, str], room: Room, tmp_path: Path) -> None:
    """The machine's memory, and that of each control group of either kind that has a limit."""
    assert system(tmp_path, files)() == room


def test_a_limit_that_changes_is_seen(tmp_path: Path) -> None:
    """A container's limit may be moved while it runs."""
    found = system(tmp_path, {"proc/self/cgroup": "0::/\n", **group(".", "5000", 4000, 0)})
    assert found() == Room(1000, 5000)
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("6000\n")
    assert found() == Room(2000, 6000)


def test_memory_that_is_kept_for_the_next_value_is_free(tmp_path: Path) -> None:
    """What the process has and does not use may be taken, whatever the system counts."""
    system(tmp_path, {})
    assert HostMemory(root=tmp_path, idle=lambda: 7)() == Room(800 * 1024 + 7, 1000 * 1024)


def test_a_system_that_tells_nothing(tmp_path: Path) -> None:
    """Without any figures nothing is refused."""
    assert HostMemory(root=tmp_path)() is None
    MemoryBudget("host", HostMemory(root=tmp_path)).reserve(2**60, "much")


def test_memory_that_is_used_is_seen() -> None:
    """On this machine, 64 MiB that are written to are gone from what the process may take."""
    gc.collect()
    until(lambda: idle_bytes() == 0)  # what other tests left is given back in the meantime
    memory_module.trim()
    limit = HostMemory(2**40)
    before = limit._own()
    array = np.ones(64 * MIB, np.uint8)  # not of memory that is kept for the next value
    after = limit._own()
    assert before is not None
    assert after is not None
    assert before.limit == after.limit == 2**40
    assert 60 * MIB < before.available - after.available < 80 * MIB
    assert array[-1] == 1
