"""A synchronous standby: what was acknowledged is on it, and a failover loses none of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest

from tests.core.test_live_model import refusal
from tests.postgres.conftest import Start
from tests.postgres.server import Server, running
from tests.postgres.test_journal import add, count, make
from tests.waiting import join, until
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.ports.commits import WriteRequest
from varserve_service.journal.postgres import appending, committing, probing


@contextmanager
def cluster() -> Iterator[tuple[Server, Server]]:
    """A server, and a standby that every commit waits for."""
    with running() as primary, running(primary, "one") as standby:
        primary.execute("ALTER SYSTEM SET synchronous_standby_names = 'one'")
        primary.execute("SELECT pg_reload_conf()")
        query = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"
        until(lambda: primary.execute(query))
        yield primary, standby


def both(primary: Server, standby: Server) -> str:
    """The address of whichever of them takes writes."""
    hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
    return f"postgresql://varserve@{hosts}/postgres"


def waiting(primary: Server) -> list[tuple[object, ...]]:
    """The connections whose commit waits for the standby."""
    return primary.execute("SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'")


@pytest.mark.slow
@pytest.mark.parametrize(
    "ended_by",
    [
        "pg_cancel_backend",
        pytest.param("the watchdog", marks=pytest.mark.full),
        pytest.param("pg_terminate_backend", marks=pytest.mark.full),
    ],
)
def test_a_commit_that_is_on_no_standby_is_not_acknowledged(
    replica: Start, monkeypatch: pytest.MonkeyPatch, ended_by: str
) -> None:
    """However its wait ends, and whoever asks again, until a standby has it; then it is done once.

    The row may be seen by other replicas before: an answer waits for the standby.
    """
    monkeypatch.setattr(committing, "COMMIT_SECONDS", 1.0 if ended_by == "the watchdog" else 30.0)
    monkeypatch.setattr(appending, "_RESOLVE_SECONDS", 1.0)
    with cluster() as (primary, standby):
        one, _ = replica(primary.address, make)
        two, _ = replica(primary.address, make)
        assert add(one).header.revision == 1
        standby.stop()
        outcomes: list[RequestError] = []
        request = WriteRequest("r", b"")

        def write() -> None:
            outcomes.append(refusal(add, one, request=request))

        writer = threading.Thread(target=write)
        writer.start()
        until(lambda: waiting(primary))
        monkeypatch.setattr(committing, "COMMIT_SECONDS", 1.0)
        if ended_by != "the watchdog":
            for (pid,) in waiting(primary):
                primary.execute(f"SELECT {ended_by}({pid})")
        join([writer])
        assert outcomes[0].reason is Reason.STATE_STORE_UNAVAILABLE
        assert outcomes[0].metadata["done"] == "unknown"
        if ended_by != "the watchdog":
            # Another replica sees the row meanwhile; it does not acknowledge it either.
            until(lambda: count(two) == 2)
        error = refusal(add, two, request=request)
        assert error.reason is Reason.STATE_STORE_UNAVAILABLE
        standby.start()
        until(lambda: primary.execute("SELECT 1 FROM pg_stat_replication"), 60)
        assert add(two, request=request).header.revision == 2
        assert count(two) == 2
        assert add(one).header.revision == 3
        until(lambda: count(one) == count(two) == 3)


@pytest.mark.slow
def test_a_failover_loses_nothing_that_was_acknowledged(replica: Start) -> None:
    """The primary is killed under writers, the standby promoted: replicas go on by themselves."""
    with cluster() as (primary, standby):
        models = [replica(both(primary, standby), make)[0] for _ in range(2)]
        acknowledged: list[str] = []
        done = threading.Event()

        def write(number: int) -> None:
            mine = 0
            while not done.is_set():
                request = WriteRequest(f"{number}-{mine}", b"")
                try:
                    add(models[number % 2], request=request)
                except RequestError:
                    done.wait(0.05)
                else:
                    acknowledged.append(request.id)
                    mine += 1

        threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: len(acknowledged) > 50)
        primary.stop()
        standby.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
        standby.promote()
        before = len(acknowledged)
        until(lambda: len(acknowledged) > before + 50, 60)
        done.set()
        join(threads)
        late, _ = replica(both(primary, standby), make)
        until(lambda: models[0].header == models[1].header == late.header, 60)
        with psycopg.connect(standby.address) as connection:
            rows = connection.execute("SELECT record FROM varserve_log").fetchall()
        ids = [row[0].decode().split('"id":"', 1)[1].split('"', 1)[0] for row in rows]
        assert len(ids) == len(set(ids)) == late.header.revision == count(late)
        assert set(acknowledged) <= set(ids)
        assert [count(live) for live in models] == [count(late)] * 2


@pytest.mark.slow
def test_a_primary_that_comes_back_after_a_failover_is_left_alone(replica: Start) -> None:
    """It takes writes, and is listed first: no replica writes to it, one that starts neither."""
    with cluster() as (primary, standby):
        # So that it would acknowledge alone.
        primary.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
        primary.execute("SELECT pg_reload_conf()")
        address = both(primary, standby)
        one, _ = replica(address, make)
        assert add(one).header.revision == 1
        query = "SELECT 1 FROM varserve_log"
        until(lambda: standby.execute("SELECT 1 WHERE to_regclass('varserve_log') IS NOT NULL"))
        until(lambda: len(standby.execute(query)) == 1)
        primary.stop()
        standby.promote()
        until(lambda: not standby.execute("SELECT 1 WHERE pg_is_in_recovery()"))
        assert add(one).header.revision == 2
        primary.start()
        two, _ = replica(address, make)
        assert (count(two), two.header.revision) == (2, 2)
        assert add(two).header.revision == 3
        assert add(one).header.revision == 4
        assert len(primary.execute(query)) == 1
        assert len(standby.execute(query)) == 4
        # Alone again with the old one, a replica refuses writes and goes on reading.
        standby.stop()
        error = refusal(add, one)
        assert error.reason is Reason.STATE_STORE_UNAVAILABLE
        assert count(one) == 4
        assert len(primary.execute(query)) == 1


def test_a_start_says_what_a_commit_waits_for(
    server: Server, database: str, replica: Start, log_lines: Callable[[], str]
) -> None:
    """And warns where a crash of the machine may lose what was acknowledged."""
    with psycopg.connect(database, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = off')  # type: ignore[call-overload]
    one, _ = replica(database, make)
    assert "on this server alone" in log_lines()
    # A setting of the database does not weaken a commit of the service.
    connection = one._parts.journal._appender._connection()  # type: ignore[union-attr]
    assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)
    assert server.execute("SHOW fsync") == [("on",)]


@pytest.mark.slow
def test_a_primary_without_its_standby_answers_no_linearizable_read(
    replica: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been replaced: reads of what is here go on, and the newest is not told.

    With its standby it tells again, of whatever was written meanwhile.
    """
    monkeypatch.setattr(probing, "_PROBE_SECONDS", 1.0)
    with cluster() as (primary, standby):
        live, _ = replica(primary.address, make)
        add(live)
        told: list[RequestError | None] = []
        live.freshness.wait_for_newest(told.append)
        until(lambda: told == [None])
        standby.stop()
        live.freshness.wait_for_newest(told.append)
        until(lambda: len(told) == 2)
        error = told[1]
        assert error is not None
        assert error.reason is Reason.STATE_STORE_UNAVAILABLE
        assert count(live) == 1
        standby.start()

        def answered() -> bool:
            before = len(told)
            live.freshness.wait_for_newest(told.append)
            until(lambda: len(told) > before)
            return told[-1] is None

        until(answered, 60, 0.1)
