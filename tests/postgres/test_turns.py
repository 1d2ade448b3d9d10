"""The turn in which a replica appends: what ends it, what refuses it, and what comes after that."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import pytest

from tests.core.test_live_model import SET, array, refusal
from tests.postgres.conftest import Replica, Start
from tests.postgres.large import made as large
from tests.postgres.large import put
from tests.postgres.server import Server
from tests.postgres.test_journal import add, count, make
from tests.postgres.test_leases import made
from tests.waiting import join, until
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import JournalError, Reason, StateStoreUnavailable
from varserve_service.core.ports.commits import WriteRequest
from varserve_service.core.ports.journal import KeptCommit, Position
from varserve_service.core.ports.messages import Read
from varserve_service.core.ports.shared_journal import LeaseChange
from varserve_service.journal.postgres import appending, committing
from varserve_service.journal.postgres.journal import PostgresJournal


@pytest.fixture
def one(database: str, replica: Start) -> Replica:
    return replica(database, make)


@contextmanager
def trigger(database: str, when: str, does: str, table: str = "varserve_log") -> Iterator[None]:
    """The server does something of its own at each change of a table."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "CREATE OR REPLACE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN {does}; RETURN NEW; END $$"
        )
        connection.execute(f"CREATE {when.format(table=table)} EXECUTE FUNCTION act()")
        yield
        connection.execute(f"DROP TRIGGER act ON {table}")


AT_ONCE = "TRIGGER act BEFORE INSERT ON {table} FOR EACH ROW"
BEFORE_UPDATE = "TRIGGER act BEFORE UPDATE ON {table} FOR EACH ROW"
LATE = "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
AT_COMMIT = f"CONSTRAINT TRIGGER act AFTER INSERT OR UPDATE ON {{table}} {LATE}"


def test_a_database_whose_disk_is_full(one: Replica, database: str) -> None:
    """The commit is refused as such; with room the next one goes through."""
    live, _ = one
    with trigger(database, AT_ONCE, "RAISE EXCEPTION 'no room' USING ERRCODE = '53100'"):
        assert refusal(add, live).reason is Reason.STATE_STORE_FULL
    assert (count(live), add(live).header.revision) == (0, 1)


def test_a_commit_that_fails_at_its_very_end(one: Replica, database: str) -> None:
    """Whether it happened is looked up: it did not, and the caller is told so."""
    live, _ = one
    add(live)
    with trigger(database, AT_COMMIT, "RAISE EXCEPTION 'no'"):
        error = refusal(add, live)
    assert error.reason is Reason.STATE_STORE_UNAVAILABLE
    assert "did not happen" in error.message
    assert (count(live), add(live).header.revision) == (1, 2)


WARNING = "RAISE WARNING 'canceling the wait'"


def test_a_commit_that_comes_with_a_warning(
    one: Replica, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wait for the standbys may have been ended: it is looked up, and was done once."""
    live, journal = one
    looks = undecided(journal, monkeypatch, fails=0)
    with trigger(database, AT_COMMIT, WARNING):
        assert add(live).header.revision == 1
    assert len(looks) == 1
    assert (count(live), add(live).header.revision) == (1, 2)
    assert len(looks) == 1
    assert not journal._appender._connection()._notice_handlers


def test_a_commit_that_no_look_makes_durable(
    one: Replica, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the log, and may be on no standby: its caller is told that nobody knows."""
    monkeypatch.setattr(appending, "_RESOLVE_SECONDS", 0.1)
    live, _ = one
    request = WriteRequest("r", b"")
    with trigger(database, AT_COMMIT, WARNING, "varserve_head"):
        error = refusal(add, live, request=request)
        assert (error.reason, error.metadata["done"]) == (Reason.STATE_STORE_UNAVAILABLE, "unknown")
        # A replica that has it in its memory does not vouch for it either.
        error = refusal(add, live, request=request)
        assert "does not say that it is durable" in error.message
    assert add(live, request=request).header.revision == 1
    assert add(live).header.revision == 2


def test_a_confirmation_that_fails_leaves_no_transaction(one: Replica, database: str) -> None:
    """The write that was done before is not vouched for; the next turn begins as any other."""
    live, _ = one
    request = WriteRequest("r", b"")
    add(live, request=request)
    with trigger(database, BEFORE_UPDATE, "RAISE EXCEPTION 'no'", "varserve_head"):
        assert refusal(add, live, request=request).reason is Reason.STATE_STORE_UNAVAILABLE
    assert add(live).header.revision == 2
    assert add(live, request=request).header.revision == 1


def test_a_commit_that_takes_too_long_is_cut(
    one: Replica, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it was sent nothing has happened, and its caller does not wait for the server."""
    live, _ = one
    with monkeypatch.context() as short, trigger(database, AT_ONCE, "PERFORM pg_sleep(60)"):
        short.setattr(committing, "COMMIT_SECONDS", 0.2)
        began = time.monotonic()
        assert refusal(add, live).reason is Reason.STATE_STORE_UNAVAILABLE
        assert time.monotonic() - began < 30
    assert add(live).header.revision == 1


def test_a_commit_that_the_server_rolls_back(one: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers a commit, and not with an error: nothing was changed, and the caller is told."""
    live, journal = one
    add(live)
    connection = journal._appender._open
    assert connection is not None
    execute = connection.execute

    def failed_before(query: str, *arguments: object, **options: object) -> object:
        if query == "COMMIT":
            with suppress(psycopg.errors.DivisionByZero):
                execute("SELECT 1 / 0")
        return execute(query, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(connection, "execute", failed_before)
    error = refusal(add, live)
    assert error.reason is Reason.STATE_STORE_UNAVAILABLE
    assert "rolled the commit back; nothing was changed" in error.message
    monkeypatch.undo()
    assert (count(live), add(live).header.revision) == (1, 2)


def test_a_large_value_that_cannot_be_kept(database: str, replica: Start) -> None:
    """Its commit is refused with the reason, by a connection that is not used again."""
    live, journal = replica(database, large)
    put(live, 1)
    connection = journal._appender._open
    does = "RAISE EXCEPTION 'no room' USING ERRCODE = '53100'"
    with trigger(database, BEFORE_UPDATE, does, "varserve_blob"):
        assert refusal(put, live, 7).reason is Reason.STATE_STORE_FULL
    assert connection is not None
    assert connection.closed
    assert put(live, 8) == 2


def test_a_value_that_was_swept_before_its_commit(
    database: str, replica: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit is refused, and its caller is told to do it again."""
    live, journal = replica(database, large)
    stage = journal.stage

    def slowly(*arguments: Any) -> Any:
        staged = stage(*arguments)
        assert journal.sweep(0) == 1
        return staged

    with monkeypatch.context() as patched:
        patched.setattr(journal, "stage", slowly)
        error = refusal(put, live, 7)
    assert error.reason is Reason.STATE_STORE_UNAVAILABLE
    assert "they were swept; nothing was changed; retry" in error.message
    assert (live.header.revision, put(live, 8)) == (0, 1)


def test_a_turn_that_the_server_does_not_give_is_cut(
    one: Replica, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that says nothing, when it should have said that others have the lock."""
    live, _ = one
    add(live)
    with monkeypatch.context() as short, psycopg.connect(database) as other:
        short.setattr(appending, "_TURN_SECONDS", 60.0)
        short.setattr(appending, "_ANSWER_SECONDS", 0.2 - appending._LOCK_SECONDS)
        other.execute("SELECT 1 FROM varserve_head FOR NO KEY UPDATE")
        began = time.monotonic()
        assert refusal(add, live).reason is Reason.STATE_STORE_UNAVAILABLE
        assert time.monotonic() - began < 30
    assert add(live).header.revision == 2


def test_a_lease_that_takes_too_long_is_cut(
    database: str, replica: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the commit that it came with."""
    monkeypatch.setattr(committing, "COMMIT_SECONDS", 0.2)
    live, _ = replica(database, made)
    with trigger(database, AT_ONCE, "PERFORM pg_sleep(60)", "varserve_lease"):
        write = Write("a", SET, array(0, 0, 0))
        began = time.monotonic()
        error = refusal(live.assign, [write], lease_seconds=60.0)
        assert time.monotonic() - began < 30
    assert (error.reason, live.header.revision) == (Reason.STATE_STORE_UNAVAILABLE, 0)


def hear_nothing(journal: PostgresJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is followed any more; the last look has ended."""
    looks: list[int] = []

    def news(_: Position) -> list[KeptCommit]:
        looks.append(1)
        time.sleep(0.01)
        return []

    monkeypatch.setattr(journal._listener, "news", news)
    until(lambda: looks)


def test_a_page_of_the_log_that_does_not_come_is_cut(
    one: Replica, database: str, replica: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All replicas wait while it is read under the lock."""
    live, journal = one
    add(live)
    hear_nothing(journal, monkeypatch)
    add(replica(database, make)[0])
    with monkeypatch.context() as patch, psycopg.connect(database) as other:
        patch.setattr(committing, "COMMIT_SECONDS", 0.2)
        patch.setattr(appending, "_LOCKED_BYTES", 1_000)
        other.execute("LOCK TABLE varserve_log")
        began = time.monotonic()
        assert refusal(add, live).reason is Reason.STATE_STORE_UNAVAILABLE
        assert time.monotonic() - began < 9
    assert add(live).header.revision == 3


def test_a_server_that_was_replaced_is_not_written_to(one: Replica) -> None:
    """Its connection is there already, and not used any more."""
    live, journal = one
    add(live)
    journal._connector._newest += 1
    assert refusal(add, live).reason is Reason.STATE_STORE_UNAVAILABLE
    journal._connector._newest -= 1
    assert add(live).header.revision == 2


@pytest.mark.parametrize(("most", "kept"), [(8, True), (7, False)])
def test_answers_are_kept_up_to_their_bound(
    database: str, replica: Start, most: int, kept: bool
) -> None:
    """A replica that comes later gives them again; of a larger one it knows that it was done."""
    live, _ = replica(database, make, answer_bytes=most)
    request = WriteRequest("r", b"")
    add(live, request=request, read_back=Read("count"))
    late, _ = replica(database, make, answer_bytes=most)
    if kept:
        answer = add(late, request=request, read_back=Read("count"))
        assert (answer.header.revision, answer.values["count"].numpy()) == (1, 1)
    else:
        assert refusal(add, late, request=request).reason is Reason.ANSWER_NOT_KEPT
    assert count(late) == 1


def test_large_commits_have_more_time(
    one: Replica, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their bytes."""
    monkeypatch.setattr(committing, "COMMIT_SECONDS", 1.0)
    monkeypatch.setattr(appending, "_BYTES_PER_SECOND", 0.5)
    live, journal = one
    before = journal.nbytes
    with trigger(database, AT_ONCE, "PERFORM pg_sleep(1.5)"):
        assert add(live).header.revision == 1  # 8 bytes
    assert journal.nbytes == before + 8


def test_a_connection_that_ended_while_nobody_used_it(one: Replica, server: Server) -> None:
    """The turn begins on a new one, and the caller does not notice."""
    live, journal = one
    add(live)
    connection = journal._appender._open
    assert connection is not None
    server.execute(f"SELECT pg_terminate_backend({connection.info.backend_pid}, 30000)")
    assert add(live).header.revision == 2
    assert journal._appender._open is not connection


@pytest.mark.parametrize("deadline", [0.2, None])
def test_a_turn_that_others_have(
    one: Replica, database: str, monkeypatch: pytest.MonkeyPatch, deadline: float | None
) -> None:
    """It is waited for until the deadline, or as long as anybody waits."""
    live, _ = one
    add(live)
    monkeypatch.setattr(appending, "_TURN_SECONDS", 0.3)
    with psycopg.connect(database) as other:
        other.execute("SELECT 1 FROM varserve_head FOR NO KEY UPDATE")
        began = time.monotonic()
        error = refusal(add, live, deadline=None if deadline is None else began + deadline)
        assert time.monotonic() - began >= 0.2
    expected = Reason.STATE_STORE_UNAVAILABLE if deadline is None else Reason.DEADLINE_EXCEEDED
    assert error.reason is expected
    assert add(live).header.revision == 2


def test_a_turn_that_others_have_for_long_is_asked_for_again(
    one: Replica, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the same connection, until they give it back."""
    live, journal = one
    add(live)
    monkeypatch.setattr(appending, "_LOCK_SECONDS", 0.1)
    monkeypatch.setattr(appending, "_ANSWER_SECONDS", 30.0)
    connection = journal._appender._open
    with psycopg.connect(database) as other:
        other.execute("SELECT 1 FROM varserve_head FOR NO KEY UPDATE")
        writer = threading.Thread(target=add, args=(live,), daemon=True)
        writer.start()
        time.sleep(0.5)
        assert writer.is_alive()
    join([writer])
    assert live.header.revision == 2
    assert journal._appender._open is connection


def test_a_deadline_far_away_does_not_lengthen_the_wait(one: Replica, database: str) -> None:
    """Of one piece of the wait; one that is over gives the least."""
    _, journal = one
    appender = journal._appender
    for seconds, expected in ((3600.0, "2s"), (-1.0, "1ms"), (1.5, None)):
        connection = appender._connection()
        appender._lock_head(connection, time.monotonic() + seconds)
        (found,) = connection.execute("SHOW lock_timeout").fetchone() or ("",)
        connection.execute("ROLLBACK")
        assert found == expected if expected else 1400 < int(found.removesuffix("ms")) <= 1500


def test_a_state_that_was_removed_or_began_anew(
    one: Replica, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No turn is given on it."""
    _, journal = one
    for statement in ("UPDATE varserve_head SET epoch = 'another'", "DELETE FROM varserve_head"):
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute(statement)
        with (
            pytest.raises(JournalError, match="removed or began anew"),
            journal.turn(P0, None, sure=True),
        ):
            pass
    assert journal._appender._open is None  # its transaction is not left open


P0 = Position(0)


def test_a_turn_that_is_not_used_is_given_back(one: Replica, database: str) -> None:
    """At once, also where what it was for fails."""
    _, journal = one
    with psycopg.connect(database, autocommit=True) as other:
        lock = "SELECT 1 FROM varserve_head FOR NO KEY UPDATE NOWAIT"
        with (
            pytest.raises(psycopg.errors.LockNotAvailable),
            journal.turn(P0, None, sure=True),
        ):
            other.execute(lock)  # while the turn lasts
        other.execute(lock)
        with journal.turn(P0, None, sure=True) as turn:
            assert turn.missed == []
        other.execute(lock)
        with journal.turn(P0, None, sure=True) as turn:
            turn.confirm()
        other.execute(lock)
    assert journal._appender._open is not None


def test_a_turn_that_ended_is_not_given_back_again(
    one: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing more is asked after its commit; one that is not used is rolled back, once."""
    live, journal = one
    with journal.turn(P0, None, sure=True):
        pass
    connection = journal._appender._open
    assert connection is not None
    execute, asked = connection.execute, []

    def noted(query: Any, *arguments: Any, **options: Any) -> Any:
        asked.append(query)
        return execute(query, *arguments, **options)

    monkeypatch.setattr(connection, "execute", noted)
    add(live)
    assert asked[-1] == "COMMIT"
    known = live._parts.committer.position
    with journal.turn(known, None, sure=True) as turn:
        turn.confirm()
    assert asked[-1] == "COMMIT"
    with journal.turn(known, None, sure=True):
        pass
    assert (asked[-1], asked.count("ROLLBACK")) == ("ROLLBACK", 1)


def test_a_turn_whose_connection_goes_is_over(one: Replica, server: Server) -> None:
    """Nothing can be given back on it; the next turn has a new one."""
    live, journal = one
    with journal.turn(P0, None, sure=True):
        connection = journal._appender._open
        assert connection is not None
        server.execute(f"SELECT pg_terminate_backend({connection.info.backend_pid}, 30000)")
    assert journal._appender._open is None
    assert add(live).header.revision == 1


def test_what_a_journal_is_asked_by_its_port(one: Replica) -> None:
    """The newest commit of the database, and how this replica stands to it."""
    live, journal = one
    add(live)
    assert journal.newest(P0) == live._parts.committer.position
    # It looks now and then, and may have looked between the commit and its end here.
    until(lambda: journal.standing.silent_seconds < 5 and journal.standing.behind == 0)


def test_a_turn_after_the_close(one: Replica) -> None:
    """The caller is told that the model goes."""
    live, journal = one
    live.close()
    with (
        pytest.raises(StateStoreUnavailable, match="being closed"),
        journal.turn(P0, None, sure=True),
    ):
        pass
    with pytest.raises(StateStoreUnavailable, match="may have been done"):
        journal.resolve(P0)


def test_an_append_to_what_is_not_the_head_is_refused(
    one: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the revision, or of the append: nothing is changed, and the next one goes through."""
    live, journal = one
    add(live)
    lock_head = journal._appender._lock_head
    for at, wrong in ((1, 7), (2, "another")):

        def other(*arguments: object, at: int = at, wrong: object = wrong) -> tuple[object, ...]:
            head = lock_head(*arguments)  # type: ignore[arg-type]
            return (*head[:at], wrong, *head[at + 1 :])

        monkeypatch.setattr(journal._appender, "_lock_head", other)
        monkeypatch.setattr(journal._appender, "_missed", lambda *_: [])
        error = refusal(add, live)
        monkeypatch.undo()
        assert error.reason is Reason.STATE_STORE_UNAVAILABLE
        assert "another replica committed; nothing was changed" in error.message
    assert add(live).header.revision == 2


def test_the_end_of_a_lease_that_another_replica_ended(database: str, replica: Start) -> None:
    """It is refused, and with it the commit that would have put its values back."""
    live, journal = replica(database, made)
    lease = live.assign([Write("a", SET, array(0, 0, 0))], lease_seconds=60.0).header.revision
    for change in (LeaseChange(lease, None, only_if_due=True), LeaseChange(9, None)):
        with journal.turn(live._parts.committer.position, None, sure=True) as turn:
            error = refusal(turn.append, [], [change])
        assert error.reason is Reason.LEASE_NOT_FOUND
    assert journal.leases.count() == 1
    with journal.turn(live._parts.committer.position, None, sure=True) as turn:
        assert turn.append([], [LeaseChange(lease, None)]) == live._parts.committer.position
    assert journal.leases.count() == 0


def test_a_lease_that_cannot_be_written_takes_its_commit_with_it(
    database: str, replica: Start
) -> None:
    """Neither is there; the connection is made again."""
    live, _ = replica(database, made)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("ALTER TABLE varserve_lease ADD CONSTRAINT no CHECK (seconds < 0)")
        write = Write("a", SET, array(0, 0, 0))
        error = refusal(live.assign, [write], lease_seconds=60.0)
        assert (error.reason, live.header.revision) == (Reason.STATE_STORE_UNAVAILABLE, 0)
        connection.execute("ALTER TABLE varserve_lease DROP CONSTRAINT no")
    assert live.assign([Write("a", SET, array(0, 0, 0))], lease_seconds=60.0).header.revision == 1


def undecided(journal: PostgresJournal, monkeypatch: pytest.MonkeyPatch, fails: int) -> list[int]:
    """So many looks at what became of a commit fail."""
    looks: list[int] = []
    resolve = journal._appender._resolve

    def failing(known: Position) -> object:
        looks.append(1)
        if len(looks) <= fails:
            raise psycopg.OperationalError("away")
        return resolve(known)

    monkeypatch.setattr(journal._appender, "_resolve", failing)
    return looks


def test_what_became_of_a_commit_is_asked_until_it_is_told(
    one: Replica, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as the database is away, and no longer than the bound; then nobody knows."""
    monkeypatch.setattr(appending, "_RETRY_SECONDS", 0.01)
    live, journal = one
    looks = undecided(journal, monkeypatch, fails=3)
    request = WriteRequest("r", b"")
    with trigger(database, AT_COMMIT, WARNING):
        assert add(live, request=request).header.revision == 1
        assert len(looks) == 4
        monkeypatch.undo()
        monkeypatch.setattr(appending, "_RESOLVE_SECONDS", 0.1)
        undecided(journal, monkeypatch, fails=10**9)
        error = refusal(add, live, request=WriteRequest("s", b""))
    assert (error.reason, error.metadata["done"]) == (Reason.STATE_STORE_UNAVAILABLE, "unknown")
    monkeypatch.undo()
    assert add(live, request=WriteRequest("s", b"")).header.revision == 2
    assert count(live) == 2


def test_a_close_ends_the_question_what_became_of_a_commit(
    one: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Soon, and without an answer."""
    _, journal = one
    monkeypatch.setattr(appending, "_RETRY_SECONDS", 20.0)
    looks = undecided(journal, monkeypatch, fails=10**9)
    errors: list[StateStoreUnavailable] = []
    thread = threading.Thread(
        target=lambda: errors.append(refusal(journal.resolve, P0))  # type: ignore[arg-type]
    )
    thread.start()
    until(lambda: looks)
    journal.close()
    join([thread], 10)
    assert errors[0].metadata["done"] == "unknown"
