"""Writes that expire: what comes back, when, and when not."""

from __future__ import annotations

import gc
import threading
import time

import numpy as np
import pytest

from tests.core.test_live_model import ADD, SET, array, refusal, two, value_of
from tests.fakes import FakeModel, FakeVariable
from tests.waiting import until
from varserve_service.core.arrays.regions import Rows
from varserve_service.core.change.writes import Write
from varserve_service.core.commit import leases
from varserve_service.core.errors import OutOfMemory, Reason
from varserve_service.core.model.leasing import LeasedProposal
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.commits import CommitKind
from varserve_service.core.ports.messages import Read

LONG = 60.0


def leased(live: LiveModel, *writes: Write, seconds: float = LONG) -> int:
    return live.assign(writes, lease_seconds=seconds).header.revision


@pytest.mark.parametrize("in_place", [False, True])
def test_a_lease_that_is_not_renewed_takes_the_write_back(in_place: bool) -> None:
    """When its time is over, what the write replaced is back, as a commit of its own kind."""
    live, *_ = two(in_place)
    rows = Rows(np.array([2, 0]))
    lease = leased(
        live, Write("a", ADD, array(1, 1), rows), Write("b", SET, array(0, 0)), seconds=0.05
    )
    assert value_of(live, "a").tolist() == [2, 2, 4]
    until(lambda: live.header.revision == 2)
    assert (value_of(live, "a").tolist(), value_of(live, "b").tolist()) == ([1, 2, 3], [10, 20])
    (commit,) = live.timeline.commits(1).commits
    assert (commit.kind, commit.origin.message) == (CommitKind.EXPIRE, "lease 1 expired")
    assert refusal(live.leases.renew, lease).reason is Reason.LEASE_NOT_FOUND


def test_a_lease_that_is_renewed_goes_on() -> None:
    """Renewed in time, the write stays beyond its seconds; then it expires."""
    live, *_ = two()
    lease = leased(live, Write("a", SET, array(0, 0, 0)), seconds=1.5)
    end = time.monotonic() + 2.0
    while time.monotonic() < end:
        assert live.leases.renew(lease) == 1.5
        time.sleep(0.01)
    assert live.header.revision == 1
    until(lambda: live.header.revision == 2)
    assert value_of(live, "a").tolist() == [1, 2, 3]


def test_a_lease_that_is_renewed_at_the_last_moment_goes_on() -> None:
    """Its end waits for the model's lock already; it takes nothing back, and comes later."""
    live, *_ = two()
    lease = leased(live, Write("a", SET, array(0, 0, 0)), seconds=2.0)
    lock = live._parts.lock
    with lock.shared():
        until(lambda: lock._writers_waiting)
        live.leases.renew(lease)
    with lock.exclusive():
        pass
    assert live.header.revision == 1
    assert live.leases.renew(lease) == 2.0
    until(lambda: live.header.revision == 2)
    assert value_of(live, "a").tolist() == [1, 2, 3]


def test_a_lease_lasts_for_all_of_its_time() -> None:
    """It never ends before, not even by a part of a second."""
    ended: list[float] = []

    def expire(_: int) -> None:
        ended.append(time.monotonic())
        granted.clear()

    granted = leases.Leases(expire, "model")
    began = time.monotonic()
    granted.grant(1, 0.3, (), {})
    until(lambda: ended)
    assert ended[0] - began >= 0.3


def test_a_lease_keeps_what_it_brings_back_and_nothing_else() -> None:
    """Not the value that it wrote, nor the request: its subject is not charged for these."""
    live, *_ = two()
    lease = leased(live, Write("a", SET, array(7, 7, 7)))
    other = leased(live, Write("a", SET, array(8, 8, 8)))
    live.leases.revoke(lease, keep=True)
    gc.collect()
    table = live.leases.table
    proposals = [each for each in gc.get_objects() if isinstance(each, LeasedProposal)]
    assert [each for each in proposals if each._leases is table] == []
    (held,) = table.held(other)
    assert held.changed.previous is not None
    assert held.changed.value is held.changed.previous


def test_what_somebody_wrote_since_stays() -> None:
    """A lease takes back only the variables whose last write is its own."""
    live, *_ = two()
    lease = leased(live, Write("a", SET, array(0, 0, 0)), Write("b", SET, array(0, 0)))
    live.assign([Write("a", SET, array(9, 9, 9))])
    assert live.leases.revoke(lease).header.revision == 3
    assert (value_of(live, "a").tolist(), value_of(live, "b").tolist()) == ([9, 9, 9], [10, 20])
    lease = leased(live, Write("b", SET, array(1, 1)))
    live.assign([Write("b", SET, array(2, 2))])
    assert live.leases.revoke(lease).header.revision == 5  # nothing to take back, and no commit


def test_a_lease_can_be_kept_for_good() -> None:
    """A lease that is revoked with `keep` leaves what was written."""
    live, *_ = two()
    lease = leased(live, Write("a", SET, array(0, 0, 0)))
    assert live.leases.revoke(lease, keep=True).header.revision == 1
    assert value_of(live, "a").tolist() == [0, 0, 0]
    assert refusal(live.leases.revoke, lease).reason is Reason.LEASE_NOT_FOUND


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_leases_on_top_of_each_other_leave_nothing_behind(order: tuple[int, int]) -> None:
    """Two leases on one variable, ended in either order: what was there before both is back."""
    live, *_ = two()
    both = [leased(live, Write("a", SET, array(n, n, n))) for n in (5, 6)]
    live.leases.revoke(both[order[0]])
    assert value_of(live, "a").tolist() == ([6, 6, 6] if order == (0, 1) else [5, 5, 5])
    live.leases.revoke(both[order[1]])
    assert value_of(live, "a").tolist() == [1, 2, 3]


def test_a_lease_on_nothing_is_refused() -> None:
    """A variable without a value has none to come back; the write does not happen."""
    live = LiveModel(FakeModel([FakeVariable("u", None, shape=(1,))]))
    error = refusal(leased, live, Write("u", SET, array(1)))
    assert (error.reason, live.header.revision) == (Reason.VARIABLE_UNINITIALIZED, 0)


def test_a_lease_is_of_its_epoch() -> None:
    """A lease of another life of the state is told so."""
    live, *_ = two()
    lease = leased(live, Write("a", SET, array(0, 0, 0)))
    assert refusal(live.leases.renew, lease, "another").reason is Reason.EPOCH_MISMATCH
    assert refusal(live.leases.revoke, lease, "another").reason is Reason.EPOCH_MISMATCH
    assert live.leases.renew(lease, live.header.epoch) == LONG


def test_what_could_not_be_taken_back_is_tried_again() -> None:
    """An expiry that fails for want of memory changes nothing, and comes again."""
    live, a, _ = two()
    leased(live, Write("a", SET, array(0, 0, 0)), seconds=0.1)
    a.fail_after = 0
    until(lambda: a.fail_after is None)
    assert value_of(live, "a").tolist() == [0, 0, 0]
    until(lambda: live.header.revision == 2)
    assert value_of(live, "a").tolist() == [1, 2, 3]


def test_what_could_not_be_taken_back_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One line for each reason, however often it is tried: the model, the lease, the reason."""
    monkeypatch.setattr(leases, "_RETRY_SECONDS", 0.0)
    live, a, _ = two()
    failures = [OutOfMemory("no room"), OutOfMemory("no room"), ValueError("a defect")]

    def write(*_: object) -> None:
        if failures:
            raise failures.pop(0)
        del a.write  # type: ignore[method-assign]
        raise ValueError("a defect")

    leased(live, Write("a", SET, array(0, 0, 0)), seconds=0.1)
    a.write = write  # type: ignore[method-assign]
    until(lambda: live.header.revision == 2)
    start = "model 'fake': lease 1 could not be ended; tried again:"
    assert caplog.messages == [f"{start} OutOfMemory: no room", f"{start} ValueError: a defect"]


def test_a_lease_that_is_renewed_while_its_expiry_fails_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is tried again after a failure is what is due then, and not what was renewed."""
    monkeypatch.setattr(leases, "_RETRY_SECONDS", 0.0)
    ended: list[int] = []

    def expire(lease: int) -> None:
        ended.append(lease)
        if lease == 1:
            held.renew(lease)
            raise MemoryError
        held.end(lease, (), 3, keep=False)

    held = leases.Leases(expire, "fake")
    held.grant(1, LONG, (), {})
    held.grant(2, 0.2, (), {})
    held._leases[1].end = 0.0
    until(lambda: 2 in ended)
    assert ended == [1, 2]
    held.clear()
    until(lambda: held._thread is None)


def test_a_lease_that_no_thread_can_be_had_for_is_a_commit_like_any_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The write is done, the history has it, and the lease ends when somebody can wait for it."""
    live, *_ = two()

    def fail(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as exhausted:
        exhausted.setattr(leases.threading.Thread, "start", fail)
        lease = leased(live, Write("a", SET, array(0, 0, 0)), seconds=0.05)
    live.assign([Write("b", SET, array(1, 1))])
    past = live.timeline.read([Read("a"), Read("b")], 0).entries
    assert [each.value.numpy().tolist() for each in past if each.value] == [[1, 2, 3], [10, 20]]
    live.leases.renew(lease)
    until(lambda: live.header.revision == 3)
    assert value_of(live, "a").tolist() == [1, 2, 3]
    until(lambda: live.leases.table._thread is None)


def test_leases_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is refused, with nothing changed; there is room again when one has ended."""
    monkeypatch.setattr(leases, "MAX_LEASES", 2)
    live, *_ = two()
    first, _ = (leased(live, Write("a", SET, array(n, n, n))) for n in (5, 6))
    error = refusal(leased, live, Write("a", SET, array(7, 7, 7)))
    assert (error.reason, error.metadata["limit"]) == (Reason.TOO_MANY_REQUESTS, "2")
    assert (live.header.revision, value_of(live, "a").tolist()) == (2, [6, 6, 6])
    live.assign([Write("b", SET, array(1, 1))])
    live.leases.revoke(first)
    leased(live, Write("a", SET, array(7, 7, 7)))
    assert value_of(live, "a").tolist() == [7, 7, 7]
    live.close()
    until(lambda: live.leases.table._thread is None)


def test_what_is_remembered_of_leases_that_were_given_up_has_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The oldest are forgotten; of the others a renewal is told why. One that is gone is left."""
    monkeypatch.setattr(leases, "MAX_LEASES", 2)
    held = leases.Leases(lambda lease: held.end(lease, (), 9, keep=True), "fake")
    for lease in (1, 2, 3):
        held.grant(lease, LONG, (), {})
    for lease in (1, 2, 3, 7):
        held.give_up(lease, f"ended: {lease}")
    until(lambda: not held.revisions)
    said = [refusal(held.renew, lease).message for lease in (1, 2, 3, 7)]
    gone = "it has ended, or the write at that revision came with none"
    assert said == [
        f"no lease 1: {gone}",
        "no lease 2: it ended: 2",
        "no lease 3: it ended: 3",
        f"no lease 7: {gone}",
    ]


def test_many_leases_take_one_thread_and_none_when_they_have_ended() -> None:
    """The thread that waits is one, and ends with the last lease."""
    live, *_ = two()
    before = set(threading.enumerate())
    for _ in range(50):
        leased(live, Write("a", ADD, array(1, 1, 1)), seconds=0.3)
    assert len(set(threading.enumerate()) - before) == 1
    until(lambda: set(threading.enumerate()) <= before)
    assert value_of(live, "a").tolist() == [1, 2, 3]
