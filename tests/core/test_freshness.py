"""Waiting until a replica is recent enough: told once, not early, and not for ever."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.core.test_following import add, made, replicas
from tests.waiting import until
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model.live_model import LiveModel


class Told:
    """What a waiter is told, and how often."""

    def __init__(self) -> None:
        self.answers: list[RequestError | None] = []

    def __call__(self, error: RequestError | None) -> None:
        self.answers.append(error)


def test_a_waiter_is_told_when_its_revision_is_there() -> None:
    """At once if it is, else by the commit that makes it; once, and not by one before it."""
    live = LiveModel(made())
    first, third = Told(), Told()
    newest = Told()
    live.freshness.wait_for_newest(newest)
    assert newest.answers == [None]
    live.freshness.wait(0, first)
    live.freshness.wait(3, third)
    assert (first.answers, third.answers) == ([None], [])
    add(live)
    add(live)
    assert third.answers == []
    add(live)
    add(live)
    assert third.answers == [None]
    live.close()


def test_a_waiter_at_a_replica_that_is_behind_waits_for_what_the_others_did() -> None:
    """It is told when this replica has followed."""
    with replicas(2, follows=False) as ((one, two), (_, journal)):
        told = Told()
        two.freshness.wait(2, told)
        add(one)
        add(one)
        assert not told.answers
        journal.follows = True
        until(lambda: told.answers == [None])
        assert two.header.revision == 2


def test_the_newest_is_that_of_all_replicas() -> None:
    """Whoever asks after a write at another replica waits until this one has it."""
    with replicas(2, follows=False) as ((one, two), (_, journal)):
        add(one)
        told = Told()
        two.freshness.wait_for_newest(told)
        add(one)  # later: need not be waited for, and may be
        journal.follows = True
        until(lambda: told.answers == [None])
        assert two.header.revision >= 1


def test_who_asks_where_there_is_no_thread_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused, not left to wait; the next one who asks is answered."""

    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with replicas(1) as ((live,), _):
        told, later = Told(), Told()
        with monkeypatch.context() as short:
            short.setattr(threading.Thread, "start", refused)
            live.freshness.wait_for_newest(told)
        (refusal,) = told.answers
        assert isinstance(refusal, RequestError)
        assert refusal.reason is Reason.STATE_STORE_UNAVAILABLE
        live.freshness.wait_for_newest(later)
        until(lambda: later.answers == [None])
        assert len(told.answers) == 1


def test_a_commit_in_the_making_is_not_there_yet() -> None:
    """Its revision is not counted before it is durable: it may become another replica's."""
    with replicas(1) as ((live,), (journal,)):
        seen: list[int] = []
        journal.before_append = lambda: seen.append(live.freshness.revision)
        add(live)
        assert (seen, live.freshness.revision) == ([0], 1)


def test_a_journal_that_is_away_fails_those_who_ask_for_the_newest() -> None:
    """With its reason, and the next one who asks may have luck."""
    with replicas(1) as ((live,), (journal,)):
        journal.unreachable = True
        told = Told()
        live.freshness.wait_for_newest(told)
        until(lambda: told.answers)
        error = told.answers[0]
        assert error is not None
        assert error.reason is Reason.STATE_STORE_UNAVAILABLE
        journal.unreachable = False
        again = Told()
        live.freshness.wait_for_newest(again)
        until(lambda: again.answers == [None])


@pytest.mark.parametrize("ask", ["wait", "newest"])
def test_the_end_of_a_model_ends_its_waiters(ask: str) -> None:
    """Each is told why, those who come later, too; one who has left is told nothing."""
    with replicas(1, follows=False) as ((live,), _):
        told, left, late = Told(), Told(), Told()

        def wait(then: Told) -> Any:
            if ask == "wait":
                return live.freshness.wait(9, then)
            return live.freshness.wait_for_newest(then)

        live.freshness.wait(9, told)
        live.freshness.leave(live.freshness.wait(9, left))
        live.close()
        wait(late)
        for each in (told, late):
            error = each.answers[0]
            assert error is not None
            assert error.reason is Reason.MODEL_NOT_READY
        assert not left.answers


def test_who_leaves_or_closes_while_the_journal_is_asked() -> None:
    """Who has left is told nothing; who still waits is told of the end, once."""
    with replicas(1, follows=False) as ((live,), (journal,)):
        asked, gate = threading.Event(), threading.Event()
        newest = journal.newest

        def slow(known: Any) -> Any:
            asked.set()
            assert gate.wait(30)
            return newest(known)

        journal.newest = slow  # type: ignore[method-assign]
        left, stays, ended = Told(), Told(), Told()
        waiter = live.freshness.wait_for_newest(left)
        live.freshness.wait_for_newest(stays)
        assert asked.wait(30)
        live.freshness.leave(waiter)
        gate.set()
        until(lambda: stays.answers == [None])
        assert left.answers == []
        asked.clear()
        gate.clear()
        live.freshness.wait_for_newest(ended)
        assert asked.wait(30)
        why = RequestError(Reason.MODEL_NOT_READY, "it goes")
        live.freshness.close(why)
        gate.set()
        until(lambda: ended.answers)
        assert ended.answers == [why]
        until(lambda: live.freshness._thread and not live.freshness._thread.is_alive())


def test_a_journal_that_cannot_be_gone_on_with() -> None:
    """The replica gives up, and those who asked are told to ask another one."""
    with replicas(1, follows=False) as ((live,), (journal,)):
        error = ValueError("a defect")

        def broken(known: Any) -> Any:
            raise error

        journal.newest = broken  # type: ignore[method-assign]
        told = Told()
        live.freshness.wait_for_newest(told)
        until(lambda: told.answers)
        assert told.answers[0] is not None
        assert "ask another one" in told.answers[0].message
        assert journal.gave_up == [error]


def test_many_who_ask_at_the_same_time_share_a_question() -> None:
    """All that come while the journal is asked are answered by one more question."""
    with replicas(1) as ((live,), (journal,)):
        gate, asked = threading.Event(), 0
        newest = journal.newest

        def slow(known: Any) -> Any:
            nonlocal asked
            asked += 1
            assert gate.wait(30)
            return newest(known)

        journal.newest = slow  # type: ignore[method-assign]
        everybody = [Told() for _ in range(50)]
        for told in everybody:
            live.freshness.wait_for_newest(told)
        gate.set()
        until(lambda: all(told.answers == [None] for told in everybody))
        assert asked <= 2
