"""What commits promise when they are made durable together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from tests.fakes import FakeModel, FakeVariable, Gate
from tests.waiting import join, until
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import Reason, RequestError, StateStoreFull
from varserve_service.core.memory import MemoryBudget
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.commits import Origin, WriteRequest
from varserve_service.core.ports.journal import Entry, Position
from varserve_service.core.ports.loaded_model import Operation, Value
from varserve_service.core.ports.messages import Conditions, Read

ADD, SET = Operation.ADD, Operation.SET


class MemoryJournal:
    """Keeps commits in a list; `before_sync` runs before each append is done."""

    epoch = "memory"
    horizon = 0
    position = Position(0)
    shared = None
    inline_bytes = 64

    def __init__(self) -> None:
        self.appended: list[list[int]] = []
        self.staged = 0
        self.discarded = 0
        self.before_sync: Callable[[], None] = lambda: None

    def base(self) -> Iterator[Any]:
        return iter(())

    records = commits = answers = base

    def start(self) -> None:
        pass

    def discard(self) -> None:
        self.discarded += 1

    def stage(self, values: Mapping[str, Value], deadline: float | None) -> MemoryJournal:
        self.staged += 1
        return self

    def append(self, entries: Sequence[Entry]) -> None:
        self.before_sync()
        self.appended.append([entry.commit.revision for entry in entries])


def model(journal: MemoryJournal, size: int = 1) -> LiveModel:
    a, b = (FakeVariable(name, np.zeros(size, np.float32)) for name in "ab")
    return LiveModel(FakeModel([a, b]), journal=journal)  # type: ignore[arg-type]


def one_more(live: LiveModel, **options: Any) -> Any:
    return live.assign([Write("a", ADD, np.ones(1, np.float32))], **options)


def put(live: LiveModel, number: float = 7, **options: Any) -> Any:
    """A whole SET needs nothing of what is there, so it queues up while others wait for a sync."""
    return live.assign([Write("a", SET, np.full(1, number, np.float32))], **options)


def value(live: LiveModel) -> float:
    (entry,) = live.read([Read("a")]).entries
    assert entry.value is not None
    return float(entry.value.numpy()[0])


def in_threads(count: int, act: Callable[[int], None]) -> list[threading.Thread]:
    threads = [threading.Thread(target=act, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    return threads


def held_sync(journal: MemoryJournal) -> Gate:
    """The next sync waits at the gate; those after it do not."""
    gate = Gate()

    def once() -> None:
        journal.before_sync = lambda: None
        gate()

    journal.before_sync = once
    return gate


def test_commits_that_come_while_one_waits_for_the_disk_share_a_sync() -> None:
    """Seven that queue up behind a sync are one append, in one order, each with its revision."""
    journal = MemoryJournal()
    live, gate = model(journal), held_sync(journal)
    revisions: list[int] = []

    def act(number: int) -> None:
        revisions.append(put(live, number).header.revision)

    threads = in_threads(1, act)
    assert gate.reached.wait(30)
    threads += in_threads(7, act)
    until(lambda: len(live._parts.committer._queue) == 7)
    gate.opened.set()
    join(threads)
    assert journal.appended == [[1], [2, 3, 4, 5, 6, 7, 8]]
    assert sorted(revisions) == list(range(1, 9))


def test_a_revert_that_comes_with_a_write_takes_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queued behind one sync with a write before it, a revert takes that back, too."""
    journal = MemoryJournal()
    live = model(journal)
    put(live, 1)
    # It looks at the history first, when there is nothing to take back, and is then held.
    looked, reserve = Gate(), MemoryBudget.reserve

    def held(memory: MemoryBudget, nbytes: int, thing: str) -> Any:
        if thing == "what the revert replaces":
            looked()
        return reserve(memory, nbytes, thing)

    monkeypatch.setattr(MemoryBudget, "reserve", held)
    threads = in_threads(1, lambda _: live.revert(1))
    assert looked.reached.wait(30)
    gate = held_sync(journal)
    other = [Write("b", SET, np.ones(1, np.float32))]
    threads += in_threads(1, lambda _: live.assign(other))
    assert gate.reached.wait(30)
    threads += in_threads(1, lambda _: put(live, 3))
    until(lambda: len(live._parts.committer._queue) == 1)
    looked.opened.set()
    until(lambda: len(live._parts.committer._queue) == 2)
    gate.opened.set()
    join(threads)
    assert (value(live), live.header.revision) == (1, 4)


def test_two_ends_of_one_lease_do_not_share_a_sync() -> None:
    """Revoked twice behind one sync, it ends once, the other is told, and writes go on."""
    journal = MemoryJournal()
    live = model(journal)
    put(live, 1)
    lease = put(live, 2, lease_seconds=60).header.revision
    gate = held_sync(journal)
    told: list[object] = []

    def revoke(_: int) -> None:
        try:
            told.append(live.leases.revoke(lease).header.revision)
        except RequestError as error:
            told.append(error.reason)

    def other(_: int) -> None:
        live.assign([Write("b", SET, np.ones(1, np.float32))])

    threads = in_threads(1, other)
    assert gate.reached.wait(30)
    threads += in_threads(2, revoke)
    until(lambda: len(live._parts.committer._queue) == 2)
    gate.opened.set()
    join(threads)
    assert set(told) == {4, Reason.LEASE_NOT_FOUND}
    assert (value(live), put(live, 3).header.revision) == (1, 5)


def test_nobody_reads_what_is_not_durable() -> None:
    """A reader that comes during a sync waits, and sees the commit only when it is kept."""
    journal = MemoryJournal()
    live, gate = model(journal), held_sync(journal)
    seen: list[float] = []
    writer = in_threads(1, lambda _: one_more(live))
    assert gate.reached.wait(30)
    reader = in_threads(1, lambda _: seen.append(value(live)))
    until(lambda: live._parts.lock._readers_waiting == 1)
    assert seen == []
    gate.opened.set()
    join(writer + reader)
    assert seen == [1]


def test_a_full_disk_takes_back_all_that_shared_the_sync() -> None:
    """Values, revisions and request ids are as before; the same writes go through later."""
    journal = MemoryJournal()
    live, gate = model(journal), held_sync(journal)
    failed: list[RequestError] = []

    def act(number: int) -> None:
        try:
            put(live, number + 2, request=WriteRequest(f"r{number}", b""))
        except RequestError as error:
            failed.append(error)

    def full() -> None:
        raise StateStoreFull("full")

    first = in_threads(1, lambda _: one_more(live))
    assert gate.reached.wait(30)
    threads = in_threads(5, act)
    until(lambda: len(live._parts.committer._queue) == 5)
    journal.before_sync = full
    gate.opened.set()
    join(first + threads)
    assert [error.reason for error in failed] == [Reason.STATE_STORE_FULL] * 5
    assert (value(live), live.header.revision) == (1, 1)
    assert [v.revision for v in live.describe().variables] == [1, 0]
    journal.before_sync = lambda: None
    failed.clear()
    join(in_threads(5, act))
    assert (failed, live.header.revision) == ([], 6)
    assert value(live) >= 2


def test_one_that_is_refused_does_not_take_the_others_with_it() -> None:
    """Conditions are checked one after the other, each against what those before it left."""
    journal = MemoryJournal()
    live, gate = model(journal), held_sync(journal)
    outcomes: list[str] = []

    def act(_: int) -> None:
        try:
            put(live, conditions=Conditions(model_revision=1))
            outcomes.append("done")
        except RequestError as error:
            outcomes.append(error.reason.value)

    first = in_threads(1, lambda _: one_more(live))
    assert gate.reached.wait(30)
    threads = in_threads(4, act)
    until(lambda: len(live._parts.committer._queue) == 4)
    gate.opened.set()
    join(first + threads)
    assert sorted(outcomes) == ["REVISION_MISMATCH"] * 3 + ["done"]
    assert (value(live), live.header.revision) == (7, 2)


def test_the_same_request_twice_in_the_queue_is_done_once() -> None:
    """The second waits until the first is durable, and gets its answer."""
    journal = MemoryJournal()
    live, gate = model(journal), held_sync(journal)
    answers: list[Any] = []
    request = WriteRequest("r", b"")
    first = in_threads(1, lambda _: one_more(live))
    assert gate.reached.wait(30)
    threads = in_threads(3, lambda _: answers.append(put(live, request=request)))
    until(lambda: len(live._parts.committer._queue) == 3)
    gate.opened.set()
    join(first + threads)
    assert answers[0] is answers[1] is answers[2]
    assert (value(live), journal.appended) == (7, [[1], [2]])


def test_a_deadline_that_passes_in_the_queue_withdraws_the_write() -> None:
    """What was not begun in time is never done."""
    journal = MemoryJournal()
    live, gate = model(journal), held_sync(journal)
    first = in_threads(1, lambda _: one_more(live))
    assert gate.reached.wait(30)
    with pytest.raises(RequestError) as caught:
        put(live, deadline=time.monotonic() + 0.05)
    assert caught.value.reason is Reason.DEADLINE_EXCEEDED
    gate.opened.set()
    join(first)
    one_more(live)
    assert (value(live), journal.appended) == (2, [[1], [2]])


def test_large_values_are_on_disk_before_the_lock_is_taken() -> None:
    """Readers go on while they are written, and what no commit needs is let go of."""
    journal = MemoryJournal()
    live = model(journal, size=100)
    stage, seen = journal.stage, []

    def reading(values: Mapping[str, Value], deadline: float | None) -> MemoryJournal:
        seen.append(value(live))
        return stage(values, deadline)

    journal.stage = reading  # type: ignore[method-assign]
    live.assign([Write("a", SET, np.ones(100, np.float32))])
    assert (seen, journal.staged, value(live)) == ([0], 1, 1)
    with pytest.raises(RequestError):
        live.assign(
            [Write("a", SET, np.ones(100, np.float32))], conditions=Conditions(model_revision=7)
        )
    assert (journal.staged, journal.discarded) == (1, 1)


@pytest.mark.parametrize(("size", "staged"), [(16, 0), (17, 1)])
def test_values_are_staged_beyond_what_goes_into_a_row(size: int, staged: int) -> None:
    """All that a commit writes counts together; what is not staged has nothing to let go of."""
    journal = MemoryJournal()
    live = model(journal, size=size)
    live.assign([Write("a", SET, np.zeros(size, np.float32))])
    assert (journal.staged, journal.discarded) == (staged, staged)
    live.assign([Write(name, SET, np.zeros(size, np.float32)) for name in "ab"])
    assert (journal.staged, journal.discarded) == (staged + 1, staged + 1)


def test_what_was_done_before_or_fails_is_not_left_staged() -> None:
    """A request that comes again writes nothing; a write that fails lets go of what it wrote."""
    journal = MemoryJournal()
    live = model(journal, size=100)
    request = WriteRequest("r", b"")
    for _ in range(2):
        live.assign([Write("a", SET, np.ones(100, np.float32))], request=request)
    assert (journal.staged, journal.discarded, journal.appended) == (1, 1, [[1]])
    journal.before_sync = full
    with pytest.raises(StateStoreFull):
        live.assign([Write("a", SET, np.zeros(100, np.float32))])
    assert (journal.staged, journal.discarded) == (2, 2)
    with live._parts.lock.exclusive():
        error = RequestError(Reason.INTERNAL, "")
        try:
            live.assign([Write("a", SET, np.ones(100, np.float32))], deadline=time.monotonic())
        except RequestError as caught:
            error = caught
    assert error.reason is Reason.DEADLINE_EXCEEDED
    assert journal.staged == 2


def full() -> None:
    raise StateStoreFull("no room")


def test_a_defect_of_the_journal_is_not_taken_for_an_answer() -> None:
    """Whoever leads gets it, with nothing changed, and the next write goes through."""
    journal = MemoryJournal()
    live = model(journal)

    def broken() -> None:
        raise ValueError("a defect")

    journal.before_sync = broken
    with pytest.raises(ValueError, match="a defect"):
        one_more(live)
    assert (value(live), live.header.revision) == (0, 0)
    journal.before_sync = lambda: None
    assert one_more(live).header.revision == 1


def test_commits_are_told_to_who_listens_and_no_others() -> None:
    """Each with its own; a write that changes nothing, or comes again, tells nobody."""
    live = model(MemoryJournal())
    told: list[tuple[int, int]] = []

    def listener(header: Any, commit: Any) -> None:
        told.append((header.revision, commit.revision))

    request = WriteRequest("r", b"")
    for _ in range(2):
        one_more(live, request=request, on_commit=listener)
    one_more(live, on_commit=listener)
    live.revert(2, on_commit=listener)
    assert told == [(1, 1), (2, 2)]


def test_what_fails_after_a_commit_is_durable_is_told_and_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is a defect: who leads gets it; the others have their answers, and the model goes on."""
    journal = MemoryJournal()
    live = model(journal)
    add = live._parts.history.add

    def broken(commit: Any) -> None:
        raise ValueError("a defect")

    monkeypatch.setattr(live._parts.history, "add", broken)
    with pytest.raises(ValueError, match="a defect"):
        one_more(live)
    assert (value(live), live.header.revision, journal.appended) == (1, 1, [[1]])
    monkeypatch.setattr(live._parts.history, "add", add)
    assert one_more(live).header.revision == 2


def test_a_lease_that_cannot_be_made_durable_is_not_charged() -> None:
    """Neither to its subject, nor is there anything to end."""
    journal = MemoryJournal()
    live = model(journal, size=2**15)
    journal.before_sync = full
    with pytest.raises(StateStoreFull):
        live.assign(
            [Write("a", SET, np.ones(2**15, np.float32))],
            lease_seconds=60,
            origin=Origin("ann"),
        )
    assert live.memory.host.holdings.held_by("ann") == 0
    assert live.leases.table.revisions == []
    journal.before_sync = lambda: None
    live.assign(
        [Write("a", SET, np.ones(2**15, np.float32))], lease_seconds=60, origin=Origin("ann")
    )
    assert live.memory.host.holdings.held_by("ann") == 2**17
