"""How far behind the log a replica says that it is."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import psycopg
import pytest

from tests.core.test_live_model import refusal
from tests.postgres.test_journal import Start, add, make
from varserve_service.core.errors import Reason
from varserve_service.core.ports.journal import Position
from varserve_service.journal.postgres import appending, following, reading
from varserve_service.journal.postgres.connection import Connector
from varserve_service.journal.postgres.following import Listener, Nothing
from varserve_service.journal.postgres.telling import Sender

KEY = ("fake", 1)
COMMITS = 5
PAUSE = 10.0


class Clock:
    """Goes on when it is told to, and a little at each look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def own() -> Nothing:
    return Nothing()


@pytest.fixture
def listener(
    database: str, replica: Start, monkeypatch: pytest.MonkeyPatch, clock: Clock, own: Nothing
) -> Iterator[Listener]:
    """Of a log of five commits, two of which are read at a time."""
    live, _ = replica(database, make)
    for _ in range(COMMITS):
        add(live)
    monkeypatch.setattr(reading, "AT_ONCE", 2)
    monkeypatch.setattr(following, "time", SimpleNamespace(monotonic=clock))
    monkeypatch.setattr(following, "_NEWS_SECONDS", 0.0)
    listener = Listener(Connector(database), KEY, Sender(KEY), own)
    yield listener
    listener.close()


def test_a_replica_is_behind_until_it_has_taken_all(listener: Listener, clock: Clock) -> None:
    """Infinitely until it had all once; then by its age when the log was read last."""
    known = Position(0)
    while known.revision < COMMITS:
        assert listener.standing.behind_seconds == float("inf")
        known = listener.news(known)[-1].position
    assert listener.standing.behind_seconds == float("inf")  # the last are not taken yet
    assert not listener.news(known)
    assert listener.standing.behind_seconds < 1
    clock.now += PAUSE
    # While it is silent nothing is known of how far behind it is.
    standing = listener.standing
    assert standing.silent_seconds > PAUSE > standing.behind_seconds


def test_a_replica_for_which_there_is_always_more_is_not_behind(
    listener: Listener, database: str, replica: Start, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    """Each time it took all that there was; it needs no look at the log that finds nothing."""
    monkeypatch.setattr(reading, "AT_ONCE", 2 * COMMITS)
    live, _ = replica(database, make)
    known = Position(0)
    for _ in range(3):
        clock.now += PAUSE
        add(live)
        known = listener.news(known)[-1].position
    assert known.revision == COMMITS + 3
    assert PAUSE <= listener.standing.behind_seconds < 2 * PAUSE


def test_a_log_that_is_out_of_reach_makes_no_replica_old(
    listener: Listener, clock: Clock, database: str, replica: Start
) -> None:
    """When it is back, it is as far behind as before, and what is not taken then counts again."""
    known = Position(0)
    while commits := listener.news(known):
        known = commits[-1].position
    connection = listener._open
    assert connection is not None
    clock.now += PAUSE  # nobody asks while an own commit is found out
    with psycopg.connect(database) as other:
        query = "SELECT pg_terminate_backend(%s, 30000)"
        assert other.execute(query, (connection.info.backend_pid,)).fetchone() == (True,)
    assert not listener.news(known)
    live, _ = replica(database, make)
    add(live)
    clock.now += PAUSE
    assert listener.standing.silent_seconds > PAUSE
    (missed,) = listener.news(known)
    assert listener.standing.silent_seconds < 1
    assert listener.standing.behind_seconds < 1
    clock.now += PAUSE
    assert listener.news(known)
    assert listener.standing.behind_seconds > PAUSE
    assert not listener.news(missed.position)
    assert listener.standing.behind_seconds < 1


def test_commits_that_are_not_taken_keep_a_replica_behind(listener: Listener, clock: Clock) -> None:
    """By more and more, as often as they are read, until they are taken."""
    first = Position(0)
    known = first
    while commits := listener.news(known):
        known = commits[-1].position
    handed, before = listener.news(first), listener.standing.behind_seconds
    clock.now += PAUSE
    assert [c.revision for c in listener.news(first)] == [c.revision for c in handed]
    assert listener.standing.behind_seconds > before + PAUSE
    listener.news(known)
    assert listener.standing.behind_seconds < 1


def test_a_replica_that_waits_to_append_is_not_older_for_it(
    listener: Listener, clock: Clock, own: Nothing, database: str, replica: Start
) -> None:
    """It takes nothing meanwhile, and more comes; what it takes too slowly counts as before."""
    known = Position(0)
    while commits := listener.news(known):
        known = commits[-1].position
    live, _ = replica(database, make)
    for waited, behind in ((PAUSE, 0.0), (0.0, PAUSE), (PAUSE, PAUSE)):
        add(live)
        (commit,) = listener.news(known)
        add(live)
        own.waited += waited
        clock.now += waited + behind
        (last,) = listener.news(commit.position)
        assert behind <= listener.standing.behind_seconds < behind + 1
        known = last.position
        assert not listener.news(known)
        assert listener.standing.behind_seconds < 1


def test_turns_that_come_to_nothing_are_counted(
    database: str, replica: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time until a writer gives up is waited; that of a commit is not."""
    monkeypatch.setattr(appending, "_TURN_SECONDS", 0.3)
    live, journal = replica(database, make)
    add(live)
    assert journal._appender.waited == 0
    with psycopg.connect(database) as other:
        other.execute("SELECT FROM varserve_head FOR NO KEY UPDATE")
        assert refusal(add, live).reason is Reason.STATE_STORE_UNAVAILABLE
    waited = journal._appender.waited
    assert waited >= 0.3
    add(live)
    assert journal._appender.waited == waited
