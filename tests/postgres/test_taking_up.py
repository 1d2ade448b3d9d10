"""How a replica makes tables and reads what is kept, and what its close leaves open."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import psycopg
import pytest

from tests.core.test_live_model import SET
from tests.postgres.conftest import Start
from tests.postgres.large import LARGE, add, made, put
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import JournalClosed
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.journal import Position
from varserve_service.journal.postgres import PostgresState
from varserve_service.journal.postgres import journal as module
from varserve_service.journal.postgres.schema import prepare

LOCK = 0x7661727365727665
"""Of all services that ever made tables: older ones, too."""


def test_tables_are_made_by_one_at_a_time(database: str) -> None:
    """Under a lock from before the first look until all of them are there."""
    seen: list[bool] = []
    with psycopg.connect(database, autocommit=True) as other:

        class Watched(psycopg.Connection[tuple[Any, ...]]):
            def execute(self, query: Any, *arguments: Any, **options: Any) -> Any:
                result = super().execute(query, *arguments, **options)
                if "CREATE" in query or "varserve_format" in query:
                    free = other.execute("SELECT pg_try_advisory_xact_lock(%s)", (LOCK,))
                    seen.append(free.fetchone() == (True,))
                return result

        with Watched.connect(database, autocommit=True) as preparing:
            prepare(preparing)
            assert (len(seen) > 8, any(seen)) == (True, False)
            prepare(preparing)
        assert other.execute("SELECT pg_try_advisory_xact_lock(%s)", (LOCK,)).fetchone() == (True,)


def test_what_is_kept_is_read_some_rows_at_a_time(
    database: str, replica: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From one moment, however long it takes: the server does not end it as idle."""
    live, _ = replica(database, made)
    for _ in range(3):
        add(live)
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 2)
    at_once: list[int] = []

    class Noted(psycopg.ServerCursor[tuple[Any, ...]]):
        def close(self) -> None:
            at_once.append(self.itersize)
            super().close()

    def making(loaded: Any, *, journal: Any) -> LiveModel:
        idle = journal._snapshot.execute("SHOW idle_in_transaction_session_timeout")
        assert idle.fetchone() == ("0",)
        journal._snapshot.server_cursor_factory = Noted
        return LiveModel(loaded, journal=journal)

    late, journal = PostgresState(database).take_up(made, making)
    assert (late.header.revision, set(at_once)) == (3, {2})
    assert journal._snapshot is None
    late.close()


def test_the_bytes_that_are_kept(database: str, replica: Start) -> None:
    """Of the records, and of the values in rows and in blobs."""
    live, journal = replica(database, made)
    put(live, 1)
    add(live)
    assert journal.nbytes == 4 * LARGE + 8
    late, late_journal = replica(database, made)
    with psycopg.connect(database) as connection:
        (records,) = connection.execute(
            "SELECT sum(octet_length(record))::bigint FROM varserve_log"
        ).fetchone() or (0,)
    assert late_journal.nbytes == records + 4 * LARGE + 8
    late.assign([Write("count", SET, np.int64(7))])
    assert late_journal.nbytes == records + 4 * LARGE + 16


def test_a_close_leaves_no_connection(database: str, replica: Start) -> None:
    """Of all that ask, when each of them has asked."""
    live, journal = replica(database, made)
    put(live, 1)
    assert journal.leases.count() == 0
    assert journal.newest(Position(0)).revision == 1
    owners: list[Any] = [journal._appender, journal._listener, journal._prober, journal._leases]
    opened = [*(owner._open for owner in owners), *journal._stager._idle]
    assert len(opened) == 5
    live.close()
    assert [connection is None or connection.closed for connection in opened] == [True] * 5
    assert [owner._open for owner in owners] == [None] * 4
    assert journal._stager._idle == []
    with pytest.raises(JournalClosed):
        journal.check_round()
    with pytest.raises(JournalClosed):
        journal.leases.count()
    journal._house._thread.join(20)
    assert not journal._house._thread.is_alive()


def test_no_thread_keeps_the_process(database: str, replica: Start) -> None:
    """Those that look after the log and the connections are not waited for at its end."""
    replica(database, made)
    labels = PostgresState(database).labels
    labels.begin({})
    for name in ("varserve-follow", "varserve-guard", "varserve-house", "varserve-live"):
        named = [thread for thread in threading.enumerate() if thread.name == name]
        assert named
        assert all(thread.daemon for thread in named), name
    labels.leave()
