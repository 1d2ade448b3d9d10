"""A value that moves to other memory stays what it is."""

from __future__ import annotations

import numpy as np
import pytest

from tests.core.test_history import at
from tests.core.test_live_model import SET, value_of
from tests.fakes import FakeModel, FakeVariable
from varserve_service.core.change.writes import Write
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


def test_a_move_does_not_wait() -> None:
    """While somebody reads for long it does not happen, and nothing is said of it."""
    variable = FakeVariable("v", np.zeros(2, np.float32))
    live = LiveModel(FakeModel([variable]))
    other = np.zeros(2, np.float32)
    with live._parts.lock.shared():
        move(live._parts, variable, 0, other)
    assert variable.array is not None
    assert not np.shares_memory(variable.array, other)
