"""A call that would not fit into memory is refused before it begins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.core.test_memory import MIB, budget
from tests.core.test_running import Scattering
from tests.fakes import FakeFunction, FakeModel, FakeVariable
from varserve_service.core.arrays.regions import Region, Rows, Slice, Slices
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import OutOfMemory
from varserve_service.core.memory import MemoryBudget, Room
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import Operation, TensorSpec
from varserve_service.core.ports.messages import Read


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


def test_a_sum_with_a_whole_needs_room_for_the_sum() -> None:
    """What was there stays where it is, and is what the history keeps."""
    loaded, _ = big_model()
    add = Write("big", Operation.ADD, ALL.copy())
    full = LiveModel(loaded, host_memory=budget(32 * MIB - 1))
    with pytest.raises(OutOfMemory, match=f"the write needs {32 * MIB} bytes of host memory"):
        full.assign([add])
    live = LiveModel(loaded, host_memory=budget(32 * MIB))
    assert live.assign([Write("big", Operation.ADD, ALL.copy())]).header.revision == 1


def test_a_function_that_writes_known_rows_needs_room_for_two_copies_of_them() -> None:
    """What they were and what they are then; the rest of the table takes nothing."""
    _, big = big_model(in_place=True)
    loaded = FakeModel([big], [Scattering(big, [1, 5], name="big")])
    full = LiveModel(loaded, host_memory=budget(16 * MIB - 1))
    with pytest.raises(OutOfMemory, match=f"function 'scatter' needs {16 * MIB} bytes"):
        full.run("scatter", {}, {})
    live = LiveModel(loaded, host_memory=budget(16 * MIB))
    assert live.run("scatter", {}, {}).header.revision == 1


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
