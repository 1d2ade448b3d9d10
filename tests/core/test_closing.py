"""Whoever waits for a model when it is closed gets an answer, and so does whoever comes later."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.core.test_committer import MemoryJournal, held_sync
from tests.core.test_deadlines import BOUND, held
from tests.fakes import FakeModel, FakeVariable
from tests.waiting import join, until
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import Operation
from varserve_service.core.ports.messages import Read

ONE = np.ones(100, np.float32)
CALLS: dict[str, Callable[[LiveModel], object]] = {
    "read": lambda live: live.read([Read("a")]),
    "describe": lambda live: live.describe(),
    "set": lambda live: live.assign([Write("b", Operation.SET, ONE)]),
    "add": lambda live: live.assign([Write("b", Operation.ADD, ONE)]),
    "run that writes": lambda live: live.run("write", {}, {}),
    "revert": lambda live: live.revert(0),
    "past": lambda live: live.timeline.read([Read("a")], 0),
}


class Journal(MemoryJournal):
    closed = 0

    def close(self) -> None:
        self.closed += 1


def ends_of(live: LiveModel) -> tuple[list[threading.Thread], dict[str, str]]:
    """Threads that each make a call, and what becomes of it, by the call's name."""
    ends: dict[str, str] = {}

    def make(name: str) -> None:
        try:
            CALLS[name](live)
            ends[name] = "done"
        except RequestError as error:
            ends[name] = error.reason.value

    threads = [threading.Thread(target=make, args=(name,), name=name) for name in CALLS]
    for thread in threads:
        thread.start()
    return threads, ends


@pytest.mark.parametrize("journal", [None, Journal], ids=["memory", "journal"])
@pytest.mark.parametrize("exclusively", [False, True], ids=["shared", "exclusive"])
def test_nobody_waits_for_a_model_that_is_closed(exclusively: bool, journal: Any) -> None:
    """Readers and writers that wait while it closes are served or told; later ones are told."""
    kept = journal and journal()
    with held(kept, exclusively=exclusively) as (live, gate):
        closing = threading.Thread(target=live.close, name="close")
        closing.start()
        waiting, ends = ends_of(live)
        until(lambda: live._parts.lock._writers_waiting or live._parts.committer._queue)
        gate.opened.set()
        join([closing, *waiting], BOUND)
        assert set(ends) == set(CALLS)
        assert set(ends.values()) <= {"done", Reason.MODEL_NOT_READY.value}
        later, ends = ends_of(live)
        join(later, BOUND)
        assert set(ends.values()) == {Reason.MODEL_NOT_READY.value}
        live.close()
        assert kept is None or kept.closed == 1


def test_writers_that_queue_behind_a_sync_get_an_answer_when_it_closes() -> None:
    """The close comes after the sync; what was queued is durable, or refused, and never half."""
    journal = Journal()
    with held(journal, exclusively=False) as (live, gate):
        gate.opened.set()
        revision = live.header.revision
        sync = held_sync(journal)
        first = threading.Thread(target=lambda: CALLS["set"](live))
        first.start()
        assert sync.reached.wait(BOUND)
        waiting, ends = ends_of(live)
        closing = threading.Thread(target=live.close, name="close")
        closing.start()
        sync.opened.set()
        join([first, closing, *waiting], BOUND)
        assert set(ends.values()) <= {"done", Reason.MODEL_NOT_READY.value}
        done = [
            name for name in ("set", "add", "run that writes", "revert") if ends[name] == "done"
        ]
        synced = sum(len(revisions) for revisions in journal.appended)
        # The first write of all, the one that was held, and the end of the lease.
        assert synced >= len(done) + 2
        assert live.header.revision >= revision + len(done) + 1


def test_a_close_takes_leases_back_before_it_ends() -> None:
    """What a lease wrote is gone with it, as a commit that the journal has."""
    journal = Journal()
    with held(journal, exclusively=False) as (live, gate):
        gate.opened.set()
        until(lambda: live._parts.lock._readers == 0)
        assert live.header.revision == 1
        began = time.monotonic()
        live.close()
        assert time.monotonic() - began < BOUND
        assert live.header.revision == 2
        assert journal.appended == [[1], [2]]
        assert live._parts.by_path["a"].array.tolist() == list(range(100))


def test_a_lease_that_cannot_be_taken_back_does_not_keep_a_model() -> None:
    """The others are, and the model is closed."""
    a, b = (FakeVariable(name, np.zeros(2, np.float32)) for name in "ab")
    live = LiveModel(FakeModel([a, b]))
    for name in "ab":
        live.assign([Write(name, Operation.SET, np.ones(2, np.float32))], lease_seconds=60)
    b.fail_after = 0  # the newest is the first to end
    live.close()
    assert a.array is not None
    assert b.array is not None
    assert (a.array.tolist(), b.array.tolist()) == ([0, 0], [1, 1])
    with pytest.raises(RequestError) as closed:
        live.read([Read("a")])
    assert closed.value.reason is Reason.MODEL_NOT_READY
    live.close()  # does nothing
