"""No value is spread over a shape that is not its own, whatever way a write goes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from tests.core.test_live_model import refusal, value_of
from tests.fakes import FakeModel, FakeVariable
from varserve_service.core.arrays.regions import Region, Rows, Slice, Slices
from varserve_service.core.change import changes
from varserve_service.core.change.ways import FEW, AddByParts
from varserve_service.core.change.writes import Write
from varserve_service.core.commit import partwise
from varserve_service.core.errors import Reason
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import Operation

ADD, SET, SUB = Operation.ADD, Operation.SET, Operation.SUB
START = np.arange(12, dtype=np.float32).reshape(6, 2)
SHAPES = {"static": (6, 2), "rows of any number": (None, 2), "any shape": None}
COUNTS = (1, 2, FEW + 1)

everywhere = [
    pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES),
    pytest.mark.parametrize("in_place", [False, True], ids=["replaced", "in place"]),
    pytest.mark.parametrize("count", COUNTS),
]


def every_way(test: Any) -> Any:
    for mark in everywhere:
        test = mark(test)
    return test


def model(shape: Any, in_place: bool) -> LiveModel:
    variable = FakeVariable("v", START.copy(), shape=shape, in_place=in_place)
    return LiveModel(FakeModel([variable]))


def regions(count: int) -> list[Region]:
    """Rows and slices that overlap."""
    every = itertools.cycle(
        [Rows(np.array([4, 0])), Slices((Slice(0, 2, 1),)), Rows(np.array([1, 4]))]
    )
    return list(itertools.islice(every, count))


def index_of(region: Region) -> Any:
    return region.indices if isinstance(region, Rows) else region.index()


@every_way
@pytest.mark.parametrize("operation", [SET, ADD, SUB])
def test_regions_are_written_as_numpy_writes_them(
    count: int, in_place: bool, shape: Any, operation: Operation
) -> None:
    """Writes of one commit are made in their order, each over what those before it left."""
    live, expected, writes = model(shape, in_place), START.copy(), []
    for number, region in enumerate(regions(count), 1):
        value = np.full((2, 2), number, np.float32) + np.arange(4, dtype=np.float32).reshape(2, 2)
        writes.append(Write("v", operation, value, region))
        index, sign = index_of(region), {ADD: 1, SUB: -1}.get(operation)
        expected[index] = value if sign is None else expected[index] + sign * value
    live.assign(writes)
    assert value_of(live, "v").tolist() == expected.tolist()


@every_way
@pytest.mark.parametrize("wrong", [(), (1,), (2,), (1, 2), (2, 1), (1, 1), (3, 2), (2, 2, 1)])
@pytest.mark.parametrize("operation", [SET, ADD])
def test_a_value_of_another_shape_than_its_region_is_refused(
    count: int, in_place: bool, shape: Any, operation: Operation, wrong: tuple[int, ...]
) -> None:
    """Also where numpy would spread it, and as the last of several writes; nothing is changed."""
    live = model(shape, in_place)
    *good, last = regions(count)
    writes = [Write("v", SET, np.ones((2, 2), np.float32), region) for region in good]
    writes.append(Write("v", operation, np.ones(wrong, np.float32), last))
    error = refusal(live.assign, writes)
    assert error.reason is Reason.SHAPE_MISMATCH
    assert str(list(wrong)) in str(error)
    assert (live.header.revision, value_of(live, "v").tolist()) == (0, START.tolist())


@every_way
@pytest.mark.parametrize("wrong", [(), (2,), (1, 2), (6, 1), (6, 2, 1)])
def test_a_sum_of_another_shape_than_the_whole_is_refused(
    count: int, in_place: bool, shape: Any, wrong: tuple[int, ...]
) -> None:
    """What is added to the whole has its shape, as the only write and after others."""
    live = model(shape, in_place)
    writes = [Write("v", SET, np.ones((2, 2), np.float32), each) for each in regions(count - 1)]
    writes.append(Write("v", ADD, np.ones(wrong, np.float32)))
    assert refusal(live.assign, writes).reason is Reason.SHAPE_MISMATCH
    assert (live.header.revision, value_of(live, "v").tolist()) == (0, START.tolist())


@pytest.mark.parametrize("in_place", [False, True])
def test_regions_of_a_scalar_are_the_scalar(in_place: bool) -> None:
    """It has no rows: one write or several, it is its one element that they change."""
    variable = FakeVariable("s", np.zeros((), np.float32), in_place=in_place)
    live = LiveModel(FakeModel([variable]))
    scalar, one = Slices(()), np.ones((), np.float32)
    live.assign([Write("s", SET, one * 5, scalar)])
    live.assign([Write("s", ADD, one, scalar), Write("s", ADD, one, scalar)])
    live.assign([Write("s", SET, one * 9, scalar), Write("s", ADD, one, scalar)])
    assert float(value_of(live, "s")) == 10
    events = live.timeline.watch(0).events
    previous = [float(c.previous.value.numpy()) for e in events for c in e.changes if c.previous]
    assert previous == [0, 5, 7]
    live.revert(1)
    assert float(value_of(live, "s")) == 5


@pytest.mark.parametrize("meanwhile", ["nothing", "rows", "the whole"])
@pytest.mark.parametrize("operation", [ADD, SUB])
def test_a_sum_with_a_large_whole_is_worked_out_by_parts(
    monkeypatch: pytest.MonkeyPatch, operation: Operation, meanwhile: str
) -> None:
    """What others write meanwhile is in it; no whole is read, and what was before comes back."""
    monkeypatch.setattr(partwise, "PART_BYTES", 32)  # four rows, and the other two
    monkeypatch.setattr(changes, "_SWAPPED_BYTES", 16)
    variable = FakeVariable("v", START.copy(), in_place=True)
    live = LiveModel(FakeModel([variable]))
    sign, expected = (1 if operation is ADD else -1), START.copy()
    worked_out = AddByParts.work_out
    others = {
        "nothing": [],
        "rows": [Write("v", SET, np.full((2, 2), 50, np.float32), Rows(np.array([4, 1])))],
        "the whole": [Write("v", SET, np.full((6, 2), 60, np.float32))],
    }[meanwhile]

    def overtaken(self: AddByParts) -> Any:
        change = worked_out(self)
        while others:
            live.assign([others.pop()])
        return change

    monkeypatch.setattr(AddByParts, "work_out", overtaken)
    if meanwhile == "rows":
        expected[[4, 1]] = 50
    elif meanwhile == "the whole":
        expected[:] = 60
    before = expected.copy()
    expected += sign * np.arange(12, dtype=np.float32).reshape(6, 2) * 10
    added = np.arange(12, dtype=np.float32).reshape(6, 2) * 10
    answer = live.assign([Write("v", operation, added)])
    assert answer.header.revision == (1 if meanwhile == "nothing" else 2)
    assert value_of(live, "v").tolist() == expected.tolist()
    live.revert(answer.header.revision - 1)
    assert value_of(live, "v").tolist() == before.tolist()
