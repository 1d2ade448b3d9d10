"""What a replica does for the others and hears of them: news, where the log is, upkeep."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psycopg
import pytest

from tests.core.test_live_model import SET
from tests.fakes import FakeModel, FakeVariable
from tests.postgres.conftest import Replica, Start
from tests.postgres.server import Server
from tests.postgres.test_journal import add, make
from tests.waiting import join, until
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import JournalError
from varserve_service.core.ports.journal import Position
from varserve_service.journal import JournalOptions
from varserve_service.journal.postgres import following, housekeeping
from varserve_service.journal.postgres.connection import Connector
from varserve_service.journal.postgres.following import Listener
from varserve_service.journal.postgres.housekeeping import Housekeeper
from varserve_service.journal.postgres.schema import CHANNEL
from varserve_service.journal.postgres.telling import Sender, Teller

KEY = ("fake", 1)


@pytest.fixture
def writer(database: str, replica: Start) -> Replica:
    return replica(database, make, history_commits=10)


@pytest.fixture
def listener(database: str, writer: Replica) -> Iterator[Listener]:
    listener = Listener(Connector(database), KEY, Sender(KEY))
    yield listener
    listener.close()


class Own(following.Nothing):
    def __init__(self, last_append: str) -> None:
        super().__init__()
        self.last_append = last_append


def revisions(listener: Listener, known: Position) -> list[int]:
    return [commit.revision for commit in listener.news(known)]


def test_news_come_in_their_order_and_none_after_a_moment(
    writer: Replica, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that is there at once; without any the caller is not kept waiting."""
    for _ in range(3):
        add(writer[0])
    assert revisions(listener, Position(0)) == [1, 2, 3]
    last = writer[0]._parts.committer.position
    monkeypatch.setattr(following, "_NEWS_SECONDS", 0.3)
    began = time.monotonic()
    assert revisions(listener, last) == []
    assert 0.3 <= time.monotonic() - began < 30


def test_a_notification_ends_the_wait(
    writer: Replica, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log is looked at when it comes, and not at the next poll."""
    monkeypatch.setattr(following, "_NEWS_SECONDS", 600.0)
    monkeypatch.setattr(following, "_POLL_SECONDS", 600.0)
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.extend(revisions(listener, Position(0))))
    thread.start()
    until(lambda: listener._look_at)  # it listens, and has found nothing
    add(writer[0])
    join([thread])
    assert found == [1]


def test_where_the_log_is(
    writer: Replica, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How far behind, how long nothing was heard, and whether a standby has the commits."""
    add(writer[0])
    first = writer[0]._parts.committer.position
    for _ in range(2):
        add(writer[0])
    time.sleep(0.2)
    assert listener.standing.silent_seconds >= 0.2
    began = time.monotonic()
    listener.news(first)
    standing = listener.standing
    assert standing.silent_seconds <= time.monotonic() - began
    assert (standing.behind, standing.synchronous) == (2, False)
    # Now and then alone.
    listener.news(writer[0]._parts.committer.position)
    assert listener.standing.behind == 2
    monkeypatch.setattr(listener, "_look_at", 0.0)
    listener.news(writer[0]._parts.committer.position)
    assert listener.standing.behind == 0
    # Of a server that waits for standbys, and of this one, which does not.
    where = following._WHERE_THE_LOG_IS
    for query, synchronous in ((where.replace("<> ''", "= ''"), True), (where, False)):
        monkeypatch.setattr(following, "_WHERE_THE_LOG_IS", query)
        listener._look_at = 0.0
        listener.news(writer[0]._parts.committer.position)
        assert listener.standing.synchronous is synchronous


def test_a_connection_that_goes_is_made_again(
    writer: Replica, listener: Listener, server: Server
) -> None:
    """No news this time; the next look has them all."""
    add(writer[0])
    assert revisions(listener, Position(0)) == [1]
    assert listener._open is not None
    server.execute(f"SELECT pg_terminate_backend({listener._open.info.backend_pid}, 30000)")
    assert revisions(listener, Position(0)) == []
    assert listener._open is None
    assert revisions(listener, Position(0)) == [1]


def test_a_listener_that_is_closed_keeps_no_connection(listener: Listener, database: str) -> None:
    """Also one that was made while it closed."""
    listener.news(Position(0))
    opened = listener._open
    assert opened is not None
    listener.close()
    assert opened.closed
    made = psycopg.connect(database)
    listener._open = made
    with pytest.raises(JournalError, match="closed"):
        listener.news(Position(0))
    assert made.closed


class Waits(threading.Event):
    """Notes how long somebody waits, and lets nobody wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout)
        return self.is_set()


def test_a_log_that_cannot_be_read_is_asked_for_again(
    writer: Replica,
    listener: Listener,
    monkeypatch: pytest.MonkeyPatch,
    log_lines: Callable[[], str],
) -> None:
    """After a pause, and with more patience up to a bound; the log says so once."""
    add(writer[0])
    listener._closed = waits = Waits()
    bounds: list[float] = []
    bound = listener._guard.cut_after

    def noted(connection: psycopg.Connection, seconds: float) -> object:
        bounds.append(seconds)
        return bound(connection, seconds)

    def fails(*_: object) -> None:
        raise psycopg.OperationalError("no answer")

    monkeypatch.setattr(listener._guard, "cut_after", noted)
    with monkeypatch.context() as patched:
        patched.setattr(listener, "_look", fails)
        for _ in range(4):
            assert revisions(listener, Position(0)) == []
            assert listener._open is None
    assert waits.waits == [following._POLL_SECONDS] * 4
    assert bounds == [3.0, 3.0, 6.0, 6.0, 12.0, 12.0, 14.0, 14.0]
    assert log_lines().count("the log is not followed") == 1
    for _ in range(2):
        assert revisions(listener, Position(0)) == [1]
    assert bounds[-3:] == [14.0, 14.0, 3.0]
    assert log_lines().count("the log is followed again") == 1


def test_a_failure_of_a_listener_that_is_being_closed(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, log_lines: Callable[[], str]
) -> None:
    """Nobody waits for it, and it is nobody's concern."""
    listener._closed = waits = Waits()

    def fails(*_: object) -> None:
        listener.close()
        raise psycopg.OperationalError("cut")

    monkeypatch.setattr(listener, "_look", fails)
    assert revisions(listener, Position(0)) == []
    assert (waits.waits, "not followed" in log_lines()) == ([], False)


def test_a_connection_that_is_closed_is_not_used(writer: Replica, listener: Listener) -> None:
    """News come by a new one, at once."""
    add(writer[0])
    assert revisions(listener, Position(0)) == [1]
    assert listener._open is not None
    listener._open.close()
    assert revisions(listener, Position(0)) == [1]


@pytest.mark.parametrize(("size", "expected"), [(3, [1]), (2**19, [])])
def test_what_a_replica_has_just_written_is_not_read(
    database: str, replica: Start, size: int, expected: list[int]
) -> None:
    """Large values of its own, and once: it may not know that it wrote them."""
    live, _ = replica(database, lambda: FakeModel([FakeVariable("v", np.zeros(size))]))
    live.assign([Write("v", SET, np.ones(size))])
    own = live._parts.committer.position.append
    listener = Listener(Connector(database), KEY, Sender(KEY), Own(own))
    listener._closed = waits = Waits()
    try:
        assert revisions(listener, Position(0)) == expected
        assert waits.waits == [following._OWN_SECONDS] * (not expected)
        assert revisions(listener, Position(0)) == [1]
        other = Listener(Connector(database), KEY, Sender(KEY), Own("another"))
        assert revisions(other, Position(0)) == [1]
        other.close()
    finally:
        listener.close()


@pytest.fixture
def keeper(
    database: str, writer: Replica, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Housekeeper]:
    monkeypatch.setattr(housekeeping, "_LOOK_SECONDS", 0.2)
    keeper = Housekeeper(Connector(database), KEY, JournalOptions(history_commits=10))
    yield keeper
    keeper.close()
    keeper._thread.join(20)
    assert not keeper._thread.is_alive()


def test_the_others_are_told_of_each_commit(writer: Replica, database: str) -> None:
    """In a turn or not; a replica knows what it told itself, and what is of another model."""
    live, journal = writer
    with psycopg.connect(database, autocommit=True) as other:
        other.execute(f"LISTEN {CHANNEL}")
        for _ in range(5):
            revision = add(live).header.revision
            (told,) = other.notifies(timeout=10, stop_after=1)
            assert told.channel == CHANNEL
            assert Sender(KEY).news(told.payload) == revision
            assert journal._listener._sender.news(told.payload) == 0
            assert [Sender(key).news(told.payload) for key in (("fake", 2), ("f", 1))] == [0, 0]
    assert [Sender(KEY).news(each) for each in ("fake", "other", "", "a b c d")] == [0] * 4


def test_a_commit_of_its_own_does_not_wake_a_replica(
    writer: Replica, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks at the log as often as without any."""
    live, journal = writer
    monkeypatch.setattr(following, "_POLL_SECONDS", 20.0)
    looks: list[int] = []
    waits: list[int] = []
    rows_after, wait = following.rows_after, journal._listener._wait

    def counted(*arguments: object) -> object:
        looks.append(1)
        return rows_after(*arguments)  # type: ignore[arg-type]

    def waiting(*arguments: Any) -> None:
        waits.append(1)
        wait(*arguments)

    monkeypatch.setattr(following, "rows_after", counted)
    monkeypatch.setattr(journal._listener, "_wait", waiting)
    until(lambda: waits)
    before = len(looks)
    with psycopg.connect(database, autocommit=True) as other:
        other.execute(f"LISTEN {CHANNEL}")
        for _ in range(20):
            add(live)
            assert len(list(other.notifies(timeout=10, stop_after=1))) == 1
        assert len(looks) == before
        for revision in (live.header.revision, live.header.revision + 1):
            assert len(looks) == before
            told = f"{Sender(KEY).message} {revision}"
            other.execute("SELECT pg_notify(%s, %s)", (CHANNEL, told))
        until(lambda: len(looks) > before, 10)


def test_a_connection_that_tells_is_ready_when_it_has_been_heard(database: str) -> None:
    """Whatever the server says: that it cannot, or that the connection is over."""
    with psycopg.connect(database, autocommit=True) as connection:
        teller = Teller("x" * 9_000)  # longer than a message may be
        for _ in range(2):
            teller.tell(connection, 1)
            teller.settle(connection)
            assert connection.execute("SELECT 1").fetchone() == (1,)
        with psycopg.connect(database, autocommit=True) as other:
            pid = connection.info.backend_pid
            other.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,))
        with pytest.raises(psycopg.OperationalError):
            teller.settle(connection)


def test_the_log_is_compacted_when_it_is_due(
    keeper: Housekeeper, writer: Replica, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whoever looks first, within a period; nobody asks for it."""
    monkeypatch.setattr(housekeeping, "_LOOK_SECONDS", 100.0)
    monkeypatch.setattr(housekeeping.random, "random", lambda: 0.001)
    for _ in range(12):
        add(writer[0])
    keeper.start()
    with psycopg.connect(database, autocommit=True) as connection:
        query = "SELECT horizon FROM varserve_head"
        until(lambda: connection.execute(query).fetchone() == (2,))


def test_upkeep_that_fails_is_tried_again(
    keeper: Housekeeper, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log has the reason, and the thread goes on, at the soonest in a second."""
    failures: list[float] = []

    def is_due(*_: object) -> bool:
        failures.append(time.monotonic())
        if len(failures) == 1:
            raise JournalError("damaged")
        return False

    monkeypatch.setattr(housekeeping.compaction, "is_due", is_due)
    keeper.start()
    until(lambda: len(failures) >= 2)
    assert failures[1] - failures[0] >= 0.99
