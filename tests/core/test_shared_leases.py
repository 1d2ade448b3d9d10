"""Leases that several processes look after: the first ends them, and no failure holds up others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from tests.core.shared_log import Leases, lost
from tests.core.test_following import count, made, replicas
from tests.core.test_live_model import ADD, SET, refusal, value_of
from tests.waiting import join, until
from varserve_service.core.change.writes import Write
from varserve_service.core.commit import leases
from varserve_service.core.commit import shared_leases as module
from varserve_service.core.commit.leases import lease_not_found
from varserve_service.core.commit.shared_leases import SharedLeases
from varserve_service.core.errors import (
    JournalClosed,
    OutOfMemory,
    Reason,
    StateStoreUnavailable,
)
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.commits import CommitKind
from varserve_service.core.ports.shared_journal import KeptHeld, LeaseChange

HELD = (KeptHeld("a", 1, 0, None, np.zeros(3, np.float32)),)


def granted(kept: Leases, *leases: int, seconds: float = 0.001) -> None:
    kept.change([LeaseChange(lease, HELD, seconds) for lease in leases])


@contextmanager
def looked_after(kept: Any, expire: Callable[[int], object]) -> Iterator[SharedLeases]:
    """Leases with their thread, which ends with the block."""
    before = set(threading.enumerate())
    shared = SharedLeases(kept, {}, expire, "fake")
    threads = set(threading.enumerate()) - before  # none, where it has ended already
    try:
        yield shared
    finally:
        shared.clear()
        join(threads)


def test_a_lease_that_cannot_be_ended_holds_up_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """The log has the reason once; that another process was faster is no failure."""
    kept, ended = Leases(), []
    granted(kept, 1, 2, 3)

    def expire(lease: int) -> None:
        ended.append(lease)
        if lease == 1:
            raise OutOfMemory("no room")
        kept.change([LeaseChange(lease, None)])
        if lease == 2:
            raise lease_not_found(lease)

    time.sleep(0.01)
    with looked_after(kept, expire) as shared:
        until(lambda: len(ended) == 3)
        for number in range(3):
            shared.grant(9, 0.0, (), {})  # has it look again
            until(lambda number=number: len(ended) >= 4 + number)
    assert ended[:4] == [1, 2, 3, 1]
    said = "model 'fake': lease 1 could not be ended; tried again: OutOfMemory: no room"
    assert caplog.messages == [said]


def test_leases_that_cannot_be_looked_at_are_looked_at_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the failure; the log has it once for as long as it lasts."""
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.0)
    away = [StateStoreUnavailable("away")] * 2 + [ValueError("a defect")]
    looks: list[int] = []

    class Failing(Leases):
        def due(self) -> tuple[Sequence[int], float | None]:
            looks.append(1)
            if away:
                raise away.pop(0)
            if len(looks) < 9:
                return [], None
            raise JournalClosed

    with looked_after(Failing(), lambda lease: None):
        until(lambda: len(looks) == 9)
    start = "model 'fake': its leases could not be looked after; tried again:"
    assert caplog.messages == [
        f"{start} StateStoreUnavailable: away",
        f"{start} ValueError: a defect",
    ]


def test_the_store_of_leases_that_goes_is_not_asked_for_each() -> None:
    """What cannot be written for one lease cannot be written for the next."""
    kept, ended = Leases(), []
    granted(kept, 1, 2)

    def expire(lease: int) -> None:
        ended.append(lease)
        raise StateStoreUnavailable("away")

    time.sleep(0.01)
    with looked_after(kept, expire):
        until(lambda: ended)
    assert ended == [1]


def test_the_end_of_a_lease_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Known to another process alone, it ends within a second; known here, when its time comes."""
    kept, ended = Leases(), []

    def expire(lease: int) -> None:
        kept.change([LeaseChange(lease, None)])
        ended.append((lease, time.monotonic()))

    with looked_after(kept, expire) as shared:
        time.sleep(0.05)  # it has looked, and found nothing
        granted(kept, 1)
        until(lambda: len(ended) == 1)
        monkeypatch.setattr(module, "_LOOK_SECONDS", 600.0)
        granted(kept, 2, seconds=0.1)
        began = time.monotonic()
        shared.grant(2, 0.1, (), {})
        until(lambda: len(ended) == 2)
    assert ended[1][1] - began >= 0.1


def test_a_lease_on_what_the_model_does_not_have_is_told_so() -> None:
    """It cannot be put back; one that is not there is not found."""
    kept = Leases()
    granted(kept, 1, seconds=60)
    with looked_after(kept, lambda lease: None) as shared:
        with pytest.raises(Exception, match="a lease holds 'a', which this model does not have"):
            shared.held(1)
        for call in (shared.held, shared.renew):
            with pytest.raises(Exception, match="no lease 7"):
                call(7)
        assert (shared.renew(1), shared.why(1), shared.is_due(1)) == (60, "expired", False)
        shared.give_up(1, "memory")
        assert shared.renew(1) == 60


# Of live models that share a log.

LONG = 60.0


def leased(live: LiveModel, number: int, seconds: float = LONG) -> int:
    table = np.full((5, 2), number, np.float32)
    writes = [Write("table", SET, table), Write("count", ADD, np.ones((), np.int64))]
    return live.assign(writes, lease_seconds=seconds).header.revision


def table(live: LiveModel) -> float:
    values = value_of(live, "table")
    assert len(np.unique(values)) == 1
    return float(values[0, 0])


def test_any_replica_renews_and_ends_a_lease() -> None:
    """Whoever granted it: with all that it wrote, once, and the commit is everybody's."""
    with replicas(2) as ((one, two), (journal, _)):
        lease = leased(one, 5)
        until(lambda: two.header.revision == 1)
        assert two.leases.renew(lease) == LONG
        assert {spec.name for spec in two.leases.variables(lease)} == {"table", "count"}
        assert two.leases.revoke(lease).header.revision == 2
        until(lambda: one.header == two.header)
        assert [(table(live), count(live)) for live in (one, two)] == [(0, 0), (0, 0)]
        assert journal.leases.count() == 0
        for live in (one, two):
            assert refusal(live.leases.renew, lease).reason is Reason.LEASE_NOT_FOUND
            assert refusal(live.leases.revoke, lease).reason is Reason.LEASE_NOT_FOUND


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("keep", [False, True])
def test_leases_on_top_of_each_other(order: tuple[int, int], keep: bool) -> None:
    """What was there before both comes back with the last, unless the first was to be kept."""
    with replicas(2) as ((one, two), _):
        both = [leased(one, 5), leased(two, 6)]
        one.leases.revoke(both[order[0]], keep=keep)
        until(lambda: one.header == two.header)
        assert table(two) == (6 if keep or order == (0, 1) else 5)
        two.leases.revoke(both[order[1]])
        until(lambda: one.header == two.header)
        # Of two, the one that was kept stays under, or over, what the other takes back.
        expected = {(0, 1): 5.0, (1, 0): 6.0}[order] if keep else 0.0
        assert [table(live) for live in (one, two)] == [expected] * 2


def test_a_lease_that_is_over_is_ended_once() -> None:
    """By one of the replicas, with a commit of its own kind."""
    with replicas(3) as (models, (journal, *_)):
        leased(models[0], 5, seconds=0.05)
        until(lambda: all(live.header.revision == 2 for live in models))
        assert [table(live) for live in models] == [0.0] * 3
        assert journal.leases.count() == 0
        (commit,) = models[2].timeline.commits(1).commits
        assert (commit.kind, commit.origin.message) == (CommitKind.EXPIRE, "lease 1 expired")


def test_a_lease_that_is_renewed_at_the_last_moment_goes_on() -> None:
    """Whoever would end it looks once more, in its turn: neither its row nor its write changes."""
    with replicas(1) as ((live,), (journal,)):
        lease = leased(live, 5)
        live.leases._expire(lease)  # as a look does that came a moment before a renewal
        assert (table(live), live.header.revision, journal.leases.count()) == (5, 1, 1)
        with live._parts.lock.exclusive():  # nobody kept it
            pass
        live.leases.revoke(lease)
        assert table(live) == 0


def test_as_many_leases_as_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of all replicas count; a model that goes leaves its leases to the others."""
    monkeypatch.setattr(leases, "MAX_LEASES", 2)
    with replicas(2) as ((one, two), (journal, _)):
        leased(one, 5)
        leased(two, 6)
        assert refusal(leased, one, 7).reason is Reason.TOO_MANY_REQUESTS
        one.close()
        assert journal.leases.count() == 2
        assert table(two) == 6
        two.leases.revoke(1)
        assert leased(two, 8) == two.header.revision


def test_the_end_of_a_lease_whose_answer_was_lost() -> None:
    """It was no commit, so the log does not tell: the caller is told that nobody knows."""
    with replicas(1) as ((live,), (journal,)):
        lease = leased(live, 5)
        live.assign([Write("table", SET, np.full((5, 2), 6, np.float32))])
        live.assign([Write("count", SET, np.full((), 6, np.int64))])
        journal.after_append = lost
        error = refusal(live.leases.revoke, lease)
        journal.after_append = lambda: None
        assert (error.reason, error.metadata["done"]) == (Reason.STATE_STORE_UNAVAILABLE, "unknown")
        assert "the lease may have ended" in error.message
        assert (table(live), live.header.revision) == (6, 3)
        assert live.leases.waits
    assert not LiveModel(made()).leases.waits
