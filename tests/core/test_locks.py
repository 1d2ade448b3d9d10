"""What several threads share is touched under its lock, by every operation."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.core.shared_log import Leases as KeptLeases
from tests.core.shared_log import Replica, SharedLog
from tests.core.test_live_model import ADD, SET, array, refusal
from tests.fakes import FakeFunction, FakeModel, FakeVariable
from tests.locks import times_taken
from tests.waiting import until
from varserve_service.core.arrays.buffers import Recycler
from varserve_service.core.cancellation import Deadlines
from varserve_service.core.change.writes import Write
from varserve_service.core.commit.freshness import Freshness
from varserve_service.core.commit.history import History
from varserve_service.core.commit.leases import Leases
from varserve_service.core.commit.lock import ReadersWriterLock
from varserve_service.core.commit.partwise import PartwiseValue
from varserve_service.core.commit.queue import Queue
from varserve_service.core.commit.revisions import Revisions
from varserve_service.core.commit.shared_leases import SharedLeases
from varserve_service.core.commit.watchers import Watchers
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.holdings import Holdings
from varserve_service.core.memory import MemoryBudget, Room
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.registry import Models, ModelState
from varserve_service.core.ports.journal import Position
from varserve_service.core.ports.messages import Read

FAR = 3600.0
MIB = 2**20


def end() -> None:
    raise AssertionError("nothing is due")


def test_memory_that_is_used_again() -> None:
    """What is idle is looked through by all who take, and by the thread that gives it back."""
    it = Recycler(min_bytes=MIB)
    held: list[Any] = []
    # To look for some that is idle, and to count what is in use.
    assert times_taken(it, "_lock", lambda: held.append(it.take(MIB))) == 2
    assert times_taken(it, "_lock", it.idle_bytes) == 1


def test_deadlines() -> None:
    """What is added and removed is looked through meanwhile."""
    it = Deadlines()
    assert times_taken(it, "_changed", lambda: it.add(end, time.monotonic() + FAR)) == 1
    assert times_taken(it, "_changed", lambda: it.remove(end)) == 1


def test_leases() -> None:
    """The thread that ends them looks for the next one meanwhile."""
    it = Leases(lambda lease: end(), "fake")
    actions: list[Callable[[], Any]] = [
        lambda: it.grant(1, FAR, (), {}),
        lambda: it.renew(1),
        lambda: it.why(1),
        lambda: it.revisions,
        lambda: it.is_due(1),
        lambda: it.held(1),
        lambda: it.end(1, (), 2, keep=True),
        lambda: it.give_up(1, "why"),
        it.clear,
    ]
    assert [times_taken(it, "_changed", action) for action in actions] == [1] * len(actions)


def test_leases_of_many_processes() -> None:
    """The thread that looks for those that are due sleeps until it is told."""
    it = SharedLeases(KeptLeases(), {}, lambda lease: end(), "fake")
    assert times_taken(it, "_changed", lambda: it.grant(1, FAR, (), {})) == 1
    assert times_taken(it, "_changed", it.clear) == 1


def test_who_waits_for_a_revision() -> None:
    """Others come, go and are told meanwhile."""
    it = Freshness(Revisions("m", 1, ["a"], "epoch"), None, lambda: Position(0))
    waits: list[Any] = []

    def told(error: object) -> None:
        waits.append(error)

    # To join, and to see whether it is there already.
    assert times_taken(it, "_changed", lambda: waits.append(it.wait(1, told))) == 2
    assert times_taken(it, "_changed", lambda: it.leave(waits[0])) == 1
    assert times_taken(it, "_changed", it.moved) == 0  # nobody waits
    assert times_taken(it, "_changed", lambda: it.close(RequestError(Reason.INTERNAL, ""))) == 1
    assert len(waits) == 1


def test_who_asks_for_the_newest_revision() -> None:
    """All who ask while a thread does share its next question."""
    replica = Replica(SharedLog())
    it = Freshness(Revisions("m", 1, ["a"], "epoch"), replica, lambda: Position(0))
    told: list[Any] = []
    assert times_taken(it, "_changed", lambda: it.wait_for_newest(told.append)) == 1
    until(lambda: told == [None])
    it.close(RequestError(Reason.INTERNAL, ""))


def test_commits_of_others() -> None:
    """They and those of this process are made one after the other, in turn with who leads."""
    live = LiveModel(FakeModel([]), journal=Replica(SharedLog()))  # type: ignore[arg-type]
    assert (
        times_taken(live._parts.committer, "_turn", lambda: live._parts.committer.follow([])) == 1
    )
    live.close()


def test_a_value_that_is_read_by_parts() -> None:
    """One thread at a time brings the part that all have in memory."""
    table = FakeVariable("a", np.zeros((MIB, 2), np.float32), in_place=True)
    (entry,) = LiveModel(FakeModel([table])).read([Read("a")]).entries
    assert isinstance(entry.value, PartwiseValue)
    assert times_taken(entry.value, "_turn", lambda: entry.value.buffer(0, 8)) == 1


def test_watchers() -> None:
    """Who joins and leaves does so while others are looked through."""
    it = Watchers()
    joined: list[Any] = []
    assert times_taken(it, "_changing", lambda: joined.append(it.join(0))) == 1
    assert times_taken(it, "_changing", it.cut_slow) == 1
    assert times_taken(it, "_changing", lambda: it.leave(joined[0])) == 1
    assert not len(it)


def test_readers_of_a_history() -> None:
    """Readers hold the model's lock together when they attach themselves."""

    class Reader:
        def overtaken(self, changed: Any) -> None:
            end()

    it, reader = History(), Reader()
    assert times_taken(it, "_attaching", lambda: it.attach("v", reader)) == 1


def test_holdings() -> None:
    """Of many subjects, in one memory."""
    it = Holdings()
    held: list[Any] = []
    assert times_taken(it, "_changed", lambda: held.append(it.hold("a", MIB, "it", end))) == 1
    assert times_taken(it, "_changed", held[0].release) == 1
    assert it.held_by("a") == 0
    given_up: list[Any] = []

    def give_up() -> None:
        given_up.append(1)
        held[1].release()

    held.append(it.hold("a", MIB, "it", give_up))
    held[1].touched_at -= FAR
    # To find the idle ones, to release it, to see that it is gone, and that there are no more.
    assert times_taken(it, "_changed", lambda: list(it.relief())) == 4
    assert given_up == [1]


def test_memory() -> None:
    """What is reserved and given back counts for all calls."""
    it = MemoryBudget("host", lambda: Room(100 * MIB, 100 * MIB))
    reserved: list[Any] = []
    assert times_taken(it, "_lock", lambda: reserved.append(it.reserve(50 * MIB, "it"))) == 1
    reservation = reserved[0]
    assert times_taken(it, "_lock", lambda: reservation.used(10 * MIB)) == 1
    assert times_taken(reservation, "_turn", lambda: reservation.add(10 * MIB, "it")) == 1
    assert times_taken(reservation, "_turn", lambda: reservation.used(10 * MIB)) == 1
    assert it.reserved == 40 * MIB
    assert times_taken(reservation, "_turn", lambda: reservation.__exit__(None, None, None)) == 2
    assert it.reserved == 0


def test_models() -> None:
    """What changes the names that resolve is one step after the other."""
    it, live = Models([]), LiveModel(FakeModel([]))
    actions: list[Callable[[], Any]] = [
        lambda: it.note("m", 1, ModelState.LOADING),
        lambda: it.serve(live),
        lambda: it.withdraw(live.name),
        lambda: it.forget("m", 1),
    ]
    assert [times_taken(it, "_changing", action) for action in actions] == [1] * 4


def test_the_queue_of_commits() -> None:
    """Who comes, who leads and who gives up agree on who is in it."""

    def proposal(deadline: float | None) -> Any:
        terms = SimpleNamespace(deadline=deadline, request=None)
        return SimpleNamespace(terms=terms, needs_history=False, needs_turn=False)

    it, first = Queue(), proposal(None)
    assert times_taken(it, "_changing", lambda: it.enter(first)) == 1
    # To join it, and to leave it again since its time is over.
    late = proposal(time.monotonic())
    assert times_taken(it, "_changing", lambda: refusal(it.enter, late)) == 2
    taken: list[Any] = []
    # For the one that waits, and to see that there is no other.
    assert times_taken(it, "_changing", lambda: taken.extend(it.take())) == 2
    assert taken == [first]
    assert times_taken(it, "_changing", lambda: it.withdraw(first)) == 1
    assert times_taken(it, "_changing", it.leave) == 1
    assert len(it) == 0


def test_the_readers_writer_lock() -> None:
    """Its own counts are changed under one lock of the standard library."""
    it = ReadersWriterLock()
    actions: list[Callable[[], Any]] = [
        it.acquire_shared_at_once,
        lambda: it.acquire_shared(None),
        it.release_shared,
        it.release_shared,
    ]
    assert [times_taken(it, "_mutex", action) for action in actions] == [1] * 4

    def alone() -> None:
        with it.exclusive():
            pass

    assert times_taken(it, "_mutex", alone) == 2


class Holds(ReadersWriterLock):
    """Notes how it is held."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[str] = []

    def acquire_shared(self, deadline: float | None) -> None:
        super().acquire_shared(deadline)
        self.held.append("shared")

    def exclusive(self, deadline: float | None = None) -> Any:
        self.held.append("exclusive")
        return super().exclusive(deadline)


def model() -> tuple[LiveModel, list[str]]:
    lock = Holds()
    one = FakeVariable("a", np.zeros(2, np.float32))
    two = FakeVariable("b", np.zeros(2, np.float32), in_place=True)

    def change() -> dict[str, Any]:
        one.array = np.ones(2, np.float32)
        return {}

    functions = [FakeFunction("look", dict), FakeFunction("change", change, writes=("a",))]
    return LiveModel(FakeModel([one, two], functions), lock=lock), lock.held


@pytest.mark.parametrize(
    ("operation", "held"),
    [
        (lambda live: live.describe(), ["shared"]),
        (lambda live: live.read([Read("a"), Read("b")]), ["shared"]),
        (lambda live: live.timeline.read([Read("a")], 0), ["shared"]),
        (lambda live: live.timeline.commits(9), ["shared"]),
        (lambda live: live.timeline.watch(0), ["shared"]),
        (lambda live: live.run("look", {}, {}), ["shared"]),
        (lambda live: live.run("change", {}, {}), ["exclusive"]),
        (lambda live: live.assign([Write("a", SET, array(1, 2))]), ["exclusive"]),
        (lambda live: live.assign([Write("a", ADD, array(1, 2))]), ["shared", "exclusive"]),
        (lambda live: live.revert(0), ["shared", "exclusive"]),
        (lambda live: live.leases.revoke(1), ["exclusive"]),
    ],
)
def test_each_operation_holds_the_lock(
    operation: Callable[[LiveModel], Any], held: list[str]
) -> None:
    """Shared to look, exclusively to change, and not once more than that."""
    live, found = model()
    live.assign([Write("a", SET, array(5, 5))], lease_seconds=FAR)
    found.clear()
    operation(live)
    assert found == held
