"""What whoever keeps figures of a model is told."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from tests.core.test_committer import MemoryJournal
from tests.core.test_lock import Holder, until
from tests.fakes import FakeFunction, FakeModel, FakeVariable, Gate
from varserve_service.core.change.writes import Write
from varserve_service.core.commit.history import History
from varserve_service.core.commit.lock import ReadersWriterLock
from varserve_service.core.errors import RequestError, StateStoreFull
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import Operation
from varserve_service.core.ports.messages import Conditions, Read


class Told:
    """Keeps what it is told; `lock_is_free` is asked whenever that is promised."""

    def __init__(self) -> None:
        self.waits: list[tuple[bool, float]] = []
        self.holds: list[float] = []
        self.commits: list[int] = []
        self.runs: list[float] = []
        self.syncs: list[int] = []
        self.live: LiveModel | None = None
        self.busy = 0

    def _ask(self) -> None:
        if self.live is not None:
            if self.live._parts.lock.acquire_shared_at_once():
                self.live._parts.lock.release_shared()
            else:
                self.busy += 1

    def lock_waited(self, seconds: float, *, exclusive: bool, ago: float = 0.0) -> None:
        self.waits.append((exclusive, seconds))

    def lock_held(self, seconds: float) -> None:
        self._ask()
        self.holds.append(seconds)

    def committed(self, nbytes: int) -> None:
        self._ask()
        self.commits.append(nbytes)

    def ran(self, seconds: float) -> None:
        self.runs.append(seconds)

    def synced(self, seconds: float, commits: int) -> None:
        assert 0 <= seconds < 60
        self.syncs.append(commits)


def model(told: Told, *functions: FakeFunction, **options: Any) -> LiveModel:
    variable = FakeVariable("a", np.zeros(4, np.float32))
    live = LiveModel(FakeModel([variable], list(functions)), observer=told, **options)
    told.live = live
    return live


def put(live: LiveModel, **options: Any) -> None:
    live.assign([Write("a", Operation.SET, np.ones(4, np.float32))], **options)


def test_a_commit_is_told_once_with_its_bytes_after_the_lock_is_free() -> None:
    """One pause and one commit of 16 bytes for one write, told while nobody waits for it."""
    told = Told()
    put(model(told))
    assert (len(told.holds), told.commits, told.busy) == (1, [16], 0)
    assert [exclusive for exclusive, _ in told.waits] == [True]


def test_a_refused_write_is_a_pause_and_no_commit() -> None:
    """A write whose condition does not hold took the lock and committed nothing."""
    told = Told()
    with pytest.raises(RequestError):
        put(model(told), conditions=Conditions(epoch="another"))
    assert (len(told.holds), told.commits) == (1, [])


def test_a_read_that_need_not_wait_waited_for_nothing() -> None:
    """An uncontended read is told as 0.0."""
    told = Told()
    model(told).read([Read("a")])
    assert told.waits == [(False, 0.0)]


@pytest.mark.parametrize("kind", ["shared", "exclusive"])
def test_who_gives_up_waiting_is_told_too(kind: str) -> None:
    """A wait that ends with the deadline counts: the longest waits must not be left out."""
    told = Told()
    lock = ReadersWriterLock(told)
    holder = Holder(lock, "exclusive", "held", order := [])
    until(lambda: order)
    began = time.monotonic()
    with pytest.raises(RequestError), getattr(lock, kind)(began + 0.05):
        pass
    ((exclusive, seconds),) = told.waits
    assert 0.04 <= seconds <= time.monotonic() - began
    holder.end()
    assert exclusive is (kind == "exclusive")


def test_who_waits_for_a_write_is_told_how_long() -> None:
    """A reader behind a writer is told with a time that is not 0."""
    told = Told()
    lock = ReadersWriterLock(told)
    writer = Holder(lock, "exclusive", "write", order := [])
    until(lambda: order)
    began = time.monotonic()
    reader = Holder(lock, "shared", "read", order)
    until(lambda: lock._readers_waiting == 1)
    writer.end()
    reader.end()
    (waited,) = [seconds for exclusive, seconds in told.waits if not exclusive]
    assert 0 < waited <= time.monotonic() - began


@pytest.mark.parametrize("fails", [False, True])
def test_every_run_is_told(fails: bool) -> None:
    """A run counts, whether it succeeds or fails."""
    told = Told()

    def call() -> dict[str, Any]:
        if fails:
            raise ArithmeticError("it fails")
        return {}

    live = model(told, FakeFunction("f", call))
    began = time.monotonic()
    if fails:
        with pytest.raises(RequestError):
            live.run("f", {}, {})
    else:
        live.run("f", {}, {})
    (seconds,) = told.runs
    assert 0 <= seconds <= time.monotonic() - began


def test_commits_of_one_sync_are_told_together() -> None:
    """Writes that queue up while the disk is busy are one sync of several commits."""
    told, journal, gate = Told(), MemoryJournal(), Gate()
    live = model(told, journal=journal)
    journal.before_sync = gate
    threads = [threading.Thread(target=put, args=(live,)) for _ in range(4)]
    threads[0].start()
    assert gate.reached.wait(60)
    for thread in threads[1:]:
        thread.start()
    until(lambda: len(live._parts.committer._queue) == 3)
    gate.opened.set()
    for thread in threads:
        thread.join(60)
    assert (sum(told.syncs), told.commits) == (4, [16] * 4)
    assert told.syncs[0] == 1
    assert len(told.syncs) < 4


def test_what_the_disk_refused_is_no_commit() -> None:
    """A commit that could not be kept is told neither as a sync nor as a commit."""
    told, journal = Told(), MemoryJournal()
    live = model(told, journal=journal)

    def full() -> None:
        raise StateStoreFull("no room")

    journal.before_sync = full
    with pytest.raises(StateStoreFull):
        put(live)
    assert (told.syncs, told.commits, live.timeline.last_write) == ([], [], None)


def test_the_time_of_the_last_write_is_that_of_the_last_commit() -> None:
    """Nothing before the first commit, then the commit's own time in ns."""
    live = model(Told())
    before = time.time_ns()
    put(live)
    last = live.timeline.last_write
    assert last is not None
    assert before <= last <= time.time_ns()


def test_the_time_of_a_write_that_is_too_large_for_the_history_is_known() -> None:
    """A commit whose values are not kept was made all the same, and is listed."""
    a = FakeVariable("a", np.zeros(100, np.float32))
    live = LiveModel(FakeModel([a]), history=History(max_bytes=10))
    before = time.time_ns()
    live.assign([Write("a", Operation.SET, np.ones(100, np.float32))])
    (commit,) = live.timeline.commits(1).commits
    assert commit.revision == live.timeline.commits(1).oldest == 1
    last = live.timeline.last_write
    assert last is not None
    assert before <= last <= time.time_ns()
