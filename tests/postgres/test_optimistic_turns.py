"""Commits of a replica that is alone, without a turn: one statement, and what may become of it."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest

from tests.core.test_live_model import SET, array, refusal
from tests.postgres.conftest import Replica, Start
from tests.postgres.cutting import Cut, CuttingProxy
from tests.postgres.server import Server
from tests.postgres.test_journal import add, count, make
from tests.postgres.test_leases import made
from tests.postgres.test_turns import AT_COMMIT, AT_ONCE, WARNING, hear_nothing, trigger, undecided
from tests.waiting import join, until
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import Reason
from varserve_service.core.ports.commits import WriteRequest
from varserve_service.core.ports.messages import Conditions
from varserve_service.journal.postgres import appending, committing
from varserve_service.journal.postgres.appending import Appender

COMMITS = appending._CALM_TURNS


@pytest.fixture
def optimistic(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each turn whether it was."""
    turns: list[bool] = []
    may_be = Appender._may_be_optimistic

    def noted(appender: Appender, *arguments: Any) -> bool:
        turns.append(may_be(appender, *arguments))
        return turns[-1]

    monkeypatch.setattr(Appender, "_may_be_optimistic", noted)
    return turns


@pytest.fixture
def one(database: str, replica: Start, optimistic: list[bool]) -> Replica:
    """A replica whose next turn is optimistic."""
    return alone(replica(database, make), optimistic)


def alone(one: Replica, optimistic: list[bool]) -> Replica:
    live, journal = one
    journal._appender._is_alive = lambda: True  # however slow this machine is
    for _ in range(COMMITS):
        add(live)
    optimistic.clear()
    return one


def statements(journal: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the appending connection is asked from now on, but for what it tells others."""
    asked: list[str] = []
    connection = journal._appender._open
    execute = connection.execute

    def noted(query: str, *arguments: Any, **options: Any) -> Any:
        asked.append(query)
        return execute(query, *arguments, **options)

    monkeypatch.setattr(connection, "execute", noted)
    return asked


def test_each_append_has_an_id_of_its_own(
    one: Replica, database: str, optimistic: list[bool]
) -> None:
    """In a turn and without one, or two commits of one revision could be taken for the same."""
    live, _ = one
    for _ in range(2):
        add(live)
    assert optimistic == [True, True]
    with psycopg.connect(database) as connection:
        ids = [row[0] for row in connection.execute("SELECT append FROM varserve_log")]
    assert len(ids) == len(set(ids)) == COMMITS + 2


def test_a_commit_without_a_turn_is_one_statement(
    one: Replica, database: str, replica: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one write or of many together; and the others have it."""
    live, journal = one
    asked = statements(journal, monkeypatch)
    for _ in range(3):
        add(live)
    assert len(asked) == 3
    assert len(set(asked)) == 1
    assert "SKIP LOCKED" in asked[0]
    committer = live._parts.committer
    with committer._turn:
        threads = [threading.Thread(target=add, args=(live,), daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: len(committer._queue) == 4)
    join(threads)
    assert len(asked) == 4
    other, _ = replica(database, make)
    assert other.header == live.header
    assert count(other) == count(live) == COMMITS + 7


def test_a_replica_that_is_not_alone_takes_turns(
    one: Replica, database: str, replica: Start, optimistic: list[bool]
) -> None:
    """From the first commit of another one on, until some have come without."""
    live, _ = one
    other, _ = replica(database, make)
    add(other)
    until(lambda: live.header == other.header)
    optimistic.clear()
    for _ in range(COMMITS + 2):
        add(live)
    assert optimistic == [False] * COMMITS + [True] * 2
    until(lambda: other.header == live.header)


def test_a_wrong_guess_is_put_right(
    one: Replica,
    database: str,
    replica: Start,
    optimistic: list[bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another replica has committed, and this one has not heard of it."""
    live, journal = one
    other, _ = replica(database, make)
    hear_nothing(journal, monkeypatch)
    add(other)
    seen = other.header.revision
    optimistic.clear()
    assert add(live, conditions=Conditions(model_revision=seen)).header.revision == seen + 1
    assert count(live) == seen + 1
    assert optimistic == [True]


def test_a_lock_that_somebody_has_is_not_waited_for_with_the_models_own(
    one: Replica, database: str, optimistic: list[bool]
) -> None:
    """Readers go on; the turn comes when it is given back, and counts as the first of the calm."""
    live, _ = one
    before = count(live)
    with psycopg.connect(database) as other:
        other.execute("SELECT 1 FROM varserve_head FOR NO KEY UPDATE")
        writer = threading.Thread(target=add, args=(live,), daemon=True)
        writer.start()
        until(lambda: waiting_for_locks(database) == 1)
        assert count(live) == before
        assert writer.is_alive()
    join([writer])
    assert count(live) == before + 1
    for _ in range(COMMITS):
        add(live)
    assert optimistic == [True] + [False] * (COMMITS - 1) + [True]


def waiting_for_locks(database: str) -> int:
    query = "SELECT count(*) FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM "
    query += "pg_database WHERE datname = current_database()) OR NOT granted AND database IS NULL"
    with psycopg.connect(database) as connection:
        (found,) = connection.execute(query).fetchone() or (0,)
        return int(found)


def test_what_was_sent_and_comes_late_does_nothing(
    server: Server, database: str, replica: Start, optimistic: list[bool]
) -> None:
    """Its caller was told that it did not happen; the head row has another stamp since."""
    proxy = CuttingProxy(server.port)
    live, _ = alone(replica(proxy.address(database), make), optimistic)
    other, _ = replica(database, make)
    before = live.header
    answered = threading.Event()
    proxy.arm(Cut(None, True, late=0.3, after=answered))
    error = refusal(add, live)
    assert "did not happen" in error.message
    assert optimistic[0]
    answered.set()
    until(lambda: proxy.delivered == 1)
    assert log(database) == list(range(1, before.revision + 1))
    assert live.header == before
    assert add(live).header.revision == before.revision + 1
    until(lambda: other.header == live.header)
    assert count(other) == count(live)
    proxy.close()


def log(database: str) -> list[int]:
    with psycopg.connect(database) as connection:
        rows = connection.execute("SELECT revision FROM varserve_log ORDER BY revision").fetchall()
    return [revision for (revision,) in rows]


def test_a_disk_that_is_full(one: Replica, database: str) -> None:
    """The commit is refused as such, and nothing is looked up."""
    live, _ = one
    before = count(live)
    with trigger(database, AT_ONCE, "RAISE EXCEPTION 'no room' USING ERRCODE = '53100'"):
        assert refusal(add, live).reason is Reason.STATE_STORE_FULL
    assert count(live) == before
    assert add(live).header.revision == before + 1


@pytest.mark.parametrize("when", [AT_ONCE, AT_COMMIT])
def test_a_statement_that_fails(one: Replica, database: str, when: str) -> None:
    """Whether it happened is looked up: it did not, and the caller is told so."""
    live, _ = one
    before = count(live)
    with trigger(database, when, "RAISE EXCEPTION 'no'"):
        error = refusal(add, live)
    assert error.reason is Reason.STATE_STORE_UNAVAILABLE
    assert "did not happen" in error.message
    assert (count(live), add(live).header.revision) == (before, before + 1)


def test_a_commit_that_comes_with_a_warning(
    one: Replica, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wait for the standbys may have been ended: it is looked up, and was done once."""
    live, journal = one
    before = count(live)
    looks = undecided(journal, monkeypatch, fails=0)
    with trigger(database, AT_COMMIT, WARNING):
        assert add(live).header.revision == before + 1
    assert len(looks) == 1
    assert (count(live), add(live).header.revision) == (before + 1, before + 2)


def test_a_statement_that_takes_too_long_is_cut(
    one: Replica, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is undecided, and resolved when the server has noticed that nobody waits."""
    monkeypatch.setattr(committing, "COMMIT_SECONDS", 0.3)
    live, _ = one
    before = count(live)
    with trigger(database, AT_ONCE, "PERFORM pg_sleep(60)"):
        error = refusal(add, live)
    assert error.reason is Reason.STATE_STORE_UNAVAILABLE
    monkeypatch.undo()
    revision = add(live).header.revision
    assert revision == count(live) == before + 1


def test_a_server_that_ended_the_connection_meanwhile(
    one: Replica, server: Server, optimistic: list[bool]
) -> None:
    """The turn begins on a new one, and the caller does not notice."""
    live, journal = one
    before = count(live)
    pid = journal._appender._open.info.backend_pid  # type: ignore[union-attr]
    server.execute(f"SELECT pg_terminate_backend({pid}, 10000)")
    assert add(live).header.revision == before + 1
    assert optimistic == [False]


def test_a_database_that_is_silent_is_not_asked_without_a_turn(
    one: Replica, optimistic: list[bool]
) -> None:
    """Who waits for a turn is told sooner that there is none."""
    live, journal = one
    journal._appender._is_alive = lambda: False
    add(live)
    assert optimistic == [False]


def test_what_more_is_kept_of_takes_a_turn(
    database: str, replica: Start, optimistic: list[bool]
) -> None:
    """A lease; an answer that was given before and is to be durable."""
    live, _ = replica(database, made)
    request = WriteRequest("r", b"")
    for _ in range(COMMITS):
        live.assign([Write("a", SET, array(0, 0, 0))])
    live.assign([Write("a", SET, array(1, 1, 1))], request=request)
    optimistic.clear()
    lease = live.assign([Write("a", SET, array(0, 0, 0))], lease_seconds=60.0).header.revision
    assert live.leases.renew(lease) == 60.0
    again = live.assign([Write("a", SET, array(2, 2, 2))], request=request)
    assert again.header.revision == lease - 1
