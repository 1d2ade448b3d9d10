"""A value that moves to other memory stays what it is."""

from __future__ import annotations

import numpy as np
import pytest

from tests.core.test_history import at
from tests.core.test_live_model import SET, value_of
from tests.fakes import FakeModel, FakeVariable
from varserve_service.core.arrays.regions import Rows
from varserve_service.core.change.writes import Write
from varserve_service.core.commit.history import History
from varserve_service.core.memory import Room
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.moving import is_movable, move


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
def test_what_may_move(on_device: bool, in_place: bool) -> None:
    """What lives on the host, and is not written in place."""
    variable = FakeVariable("v", np.zeros(2, np.float32), in_place=in_place)
    loaded = FakeModel([variable])
    if on_device:
        loaded.room = Room(2**30, 2**30)
    live = LiveModel(loaded)
    assert is_movable(live._parts, variable) is not (on_device or in_place)


def test_a_value_moves_unless_it_was_written_since() -> None:
    """It is no commit, and earlier revisions stay what they were."""
    variable = FakeVariable("v", np.zeros(2, np.float32))
    live = LiveModel(FakeModel([variable]))
    live.assign([Write("v", SET, np.ones(2, np.float32))])
    other = np.ones(2, np.float32)
    move(live._parts, variable, 0, np.full(2, 9, np.float32))
    assert value_of(live, "v").tolist() == [1, 1]
    move(live._parts, variable, 1, other)
    assert variable.array is not None
    assert np.shares_memory(variable.array, other)
    assert (live.header.revision, value_of(live, "v").tolist()) == (1, [1, 1])
    assert [at(live, "v", revision) for revision in (0, 1)] == [[0, 0], [1, 1]]


@pytest.mark.parametrize("commits", [1, 2, 3])
def test_the_history_does_not_keep_the_memory_that_a_value_left(commits: int) -> None:
    """Of the last write of the variable, wherever it is among the commits; not of its regions."""
    variable, other = (FakeVariable(name, np.zeros(2, np.float32)) for name in ("v", "w"))
    live = LiveModel(FakeModel([variable, other]))
    for number in range(commits):
        live.assign([Write("v", SET, np.full(2, number, np.float32))])
    live.assign([Write("w", SET, np.ones(2, np.float32))])
    moved = np.full(2, commits - 1, np.float32)
    move(live._parts, variable, commits, moved)

    def kept() -> list[bool]:
        history = live.timeline._history
        found = [c for commit in history.after(0) for c in commit.changed if c.variable.path == "v"]
        return [np.shares_memory(changed.value.numpy(), moved) for changed in found]

    assert kept() == [False] * (commits - 1) + [True]
    live.assign([Write("v", SET, np.full(1, 9, np.float32), Rows(np.array([1])))])
    move(live._parts, variable, commits + 2, np.array([commits - 1, 9], np.float32))
    assert at(live, "v", commits) == [commits - 1] * 2
    assert value_of(live, "v").tolist() == [commits - 1, 9]


def test_a_value_that_the_history_does_not_have_moves_all_the_same() -> None:
    """As loaded, or written before all that is kept."""
    variable = FakeVariable("v", np.zeros(2, np.float32))
    live = LiveModel(FakeModel([variable]), history=History(max_commits=1))
    as_loaded = np.zeros(2, np.float32)
    move(live._parts, variable, 0, as_loaded)
    assert variable.array is not None
    assert np.shares_memory(variable.array, as_loaded)
    for number in (1, 2):
        live.assign([Write("v", SET, np.full(2, number, np.float32))])
    (commit,) = live.timeline._history.after(1)
    assert commit.revision == 2


def test_a_move_does_not_wait() -> None:
    """While somebody reads for long it does not happen, and nothing is said of it."""
    variable = FakeVariable("v", np.zeros(2, np.float32))
    live = LiveModel(FakeModel([variable]))
    other = np.zeros(2, np.float32)
    with live._parts.lock.shared():
        move(live._parts, variable, 0, other)
    assert variable.array is not None
    assert not np.shares_memory(variable.array, other)
