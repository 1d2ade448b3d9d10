"""What becomes of a call whose deadline passes while the model's lock is held by another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from tests.core.test_committer import MemoryJournal, held_sync
from tests.core.test_live_model import array, refusal, value_of
from tests.fakes import FakeFunction, FakeModel, FakeVariable, Gate
from tests.waiting import join, until
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import Operation
from varserve_service.core.ports.messages import Read

ADD, SET = Operation.ADD, Operation.SET
SOON = 0.1
# The lock is held far longer than a call may take to find that its time is over.
BOUND = 20.0

Held = tuple[LiveModel, Gate]


def model(gate: Gate, journal: MemoryJournal | None, *, writes: bool) -> LiveModel:
    """Two variables, a function that holds the lock at the gate, and one that writes `b`."""
    a, b, c = (FakeVariable(name, array(*range(100))) for name in "abc")

    def hold() -> dict[str, Any]:
        gate()
        return {}

    def write() -> dict[str, Any]:
        assert b.array is not None
        b.array = b.array + 1
        return {}

    functions = [
        FakeFunction("hold", hold, writes=("c",) if writes else ()),
        FakeFunction("write", write, writes=("b",)),
    ]
    return LiveModel(FakeModel([a, b, c], functions), journal=journal)  # type: ignore[arg-type]


@contextmanager
def held(journal: MemoryJournal | None, *, exclusively: bool) -> Iterator[Held]:
    """A model whose lock a function holds, shared or exclusively, until the gate is opened."""
    gate = Gate()
    live = model(gate, journal, writes=exclusively)
    live.assign([Write("a", SET, array(*[7] * 100))], lease_seconds=3600)
    holder = threading.Thread(target=lambda: live.run("hold", {}, {}))
    gate.opened.clear()
    holder.start()
    assert gate.reached.wait(BOUND)
    try:
        yield live, gate
    finally:
        gate.opened.set()
        join([holder])


ONE = np.ones(100, np.float32)
WRITES: dict[str, Callable[[LiveModel, float], object]] = {
    "set": lambda live, deadline: live.assign([Write("b", SET, ONE)], deadline=deadline),
    "add": lambda live, deadline: live.assign([Write("b", ADD, ONE)], deadline=deadline),
    "run": lambda live, deadline: live.run("write", {}, {}, deadline=deadline),
    "revert": lambda live, deadline: live.revert(0, deadline=deadline),
    "revoke": lambda live, deadline: live.leases.revoke(1, deadline=deadline),
}
READS: dict[str, Callable[[LiveModel, float], object]] = {
    "read": lambda live, deadline: live.read([Read("a")], deadline=deadline),
    "describe": lambda live, deadline: live.describe(deadline),
    "run": lambda live, deadline: live.run("hold", {}, {}, deadline=deadline),
}


def given_up_in_time(
    live: LiveModel, call: Callable[[LiveModel, float], object], seconds: float = SOON
) -> None:
    began = time.monotonic()
    assert refusal(call, live, began + seconds).reason is Reason.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 5, "it waited for the lock and not for its deadline"


@pytest.mark.parametrize("journal", [None, MemoryJournal], ids=["memory", "journal"])
@pytest.mark.parametrize("exclusively", [False, True], ids=["shared", "exclusive"])
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_write_gives_up_at_its_deadline_while_the_lock_is_held(
    write: Callable[[LiveModel, float], object], exclusively: bool, journal: Any
) -> None:
    """Whoever holds the lock, a write is over when its time is, and is never done afterwards."""
    with held(journal and journal(), exclusively=exclusively) as (live, _):
        given_up_in_time(live, write)
    assert value_of(live, "a").tolist() == [7] * 100
    assert value_of(live, "b").tolist() == list(range(100))
    revision = live.header.revision
    write(live, time.monotonic() + BOUND)
    assert live.header.revision == revision + 1


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_read_gives_up_at_its_deadline_while_somebody_writes(
    read: Callable[[LiveModel, float], object],
) -> None:
    """A read, a description and a run wait for the writer until their deadline, and no longer."""
    with held(MemoryJournal(), exclusively=True) as (live, _):
        given_up_in_time(live, read)


@pytest.mark.parametrize("journal", [None, MemoryJournal], ids=["memory", "journal"])
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_write_whose_time_is_over_is_not_done(
    write: Callable[[LiveModel, float], object], journal: Any
) -> None:
    """Also where nobody holds the lock: an answer that nobody waits for is no reason to write."""
    live = model(Gate(), journal and journal(), writes=False)
    live.assign([Write("a", SET, array(*[7] * 100))], lease_seconds=3600)
    assert refusal(write, live, time.monotonic() - 1).reason is Reason.DEADLINE_EXCEEDED
    assert (live.header.revision, value_of(live, "a").tolist()) == (1, [7] * 100)
    assert value_of(live, "b").tolist() == list(range(100))


def test_one_that_leads_and_gives_up_leaves_the_others_in_the_queue() -> None:
    """The first in the queue waits for the lock; when its time is over, the next one leads."""
    journal = MemoryJournal()
    journal.inline_bytes = 2**20  # nothing is staged, which takes the lock beforehand
    done: list[int] = []
    with held(journal, exclusively=False) as (live, _):
        leader = threading.Thread(target=lambda: given_up_in_time(live, WRITES["set"], 2))
        leader.start()
        until(lambda: len(live._parts.committer._queue) == 1)

        def follow() -> None:
            done.append(live.assign([Write("b", SET, ONE)]).header.revision)

        followers = [threading.Thread(target=follow) for _ in range(3)]
        for follower in followers:
            follower.start()
        until(lambda: len(live._parts.committer._queue) == 4)
        join([leader], BOUND)
        assert done == []
    join(followers)
    assert sorted(done) == [2, 3, 4]
    assert live.header.revision == 4


def test_a_deadline_beyond_all_time_is_none() -> None:
    """Who may wait for longer than a system can waits; nobody is left in the queue."""
    journal = MemoryJournal()
    journal.inline_bytes = 2**20  # nothing is staged, which takes the lock beforehand
    live = model(Gate(), journal, writes=False)
    gate, done = held_sync(journal), list[int]()

    def write(name: str, deadline: float | None) -> None:
        done.append(live.assign([Write(name, SET, ONE)], deadline=deadline).header.revision)

    first = threading.Thread(target=write, args=("b", None))
    first.start()
    assert gate.reached.wait(BOUND)
    later = [threading.Thread(target=write, args=("a", far)) for far in (4e11, 1e300, 4e11)]
    for thread in later:
        thread.start()
    until(lambda: len(live._parts.committer._queue) == 3)
    gate.opened.set()
    join([first, *later], BOUND)
    assert sorted(done) == [1, 2, 3, 4]


def test_one_that_expires_behind_a_sync_is_not_made_by_the_next_leader() -> None:
    """A write whose time passes while another's sync takes long is withdrawn at that moment."""
    journal = MemoryJournal()
    live = model(Gate(), journal, writes=False)
    gate = held_sync(journal)
    first = threading.Thread(target=lambda: live.assign([Write("b", SET, ONE)]))
    first.start()
    assert gate.reached.wait(BOUND)
    reasons: list[Reason] = []

    def late() -> None:
        try:
            live.assign([Write("a", SET, 2 * ONE)], deadline=time.monotonic() + SOON)
        except RequestError as error:
            reasons.append(error.reason)

    waiting = [threading.Thread(target=late) for _ in range(3)]
    for thread in waiting:
        thread.start()
    join(waiting, 5)
    gate.opened.set()
    join([first])
    assert reasons == [Reason.DEADLINE_EXCEEDED] * 3
    assert (live.header.revision, value_of(live, "a").tolist()) == (1, list(range(100)))


def test_one_that_is_being_made_when_its_time_passes_is_done() -> None:
    """It is in another's sync already: its caller hears what became of it, a little late."""
    journal = MemoryJournal()
    journal.inline_bytes = 2**20  # nothing is staged, which takes the lock beforehand
    live = model(Gate(), journal, writes=False)
    gate, answers = held_sync(journal), []
    deadline = time.monotonic() + 1.0

    def write(name: str, deadline: float | None) -> None:
        answers.append(live.assign([Write(name, SET, ONE)], deadline=deadline).header.revision)

    threads = [threading.Thread(target=write, args=each) for each in (("b", None), ("a", deadline))]
    with live._parts.lock.exclusive():
        for number, thread in enumerate(threads, 1):
            thread.start()
            until(lambda number=number: len(live._parts.committer._queue) == number)
    assert gate.reached.wait(BOUND)
    until(lambda: time.monotonic() > deadline + 0.1)
    assert threads[1].is_alive()
    assert answers == []
    gate.opened.set()
    join(threads)
    assert sorted(answers) == [1, 2]
    assert value_of(live, "a").tolist() == [1] * 100
