"""Leases as rows, through the port: what is due and beside, and what a lost connection means."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import psycopg
import pytest

from tests.core.test_live_model import SET, array, value_of
from tests.locks import times_taken
from tests.postgres.conftest import Replica, Start
from tests.postgres.large import LARGE
from tests.postgres.large import kept as kept_blobs
from tests.postgres.large import made as large
from tests.postgres.server import Server, running
from tests.postgres.test_leases import made
from varserve_service.core.arrays.regions import Rows
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import JournalClosed, JournalError, StateStoreUnavailable
from varserve_service.core.ports.shared_journal import KeptLeases
from varserve_service.journal.postgres.blobs import BlobReader
from varserve_service.journal.postgres.connection import Connector
from varserve_service.journal.postgres.leases import LeaseRows

LONG = 60.0


@pytest.fixture
def one(database: str, replica: Start) -> Replica:
    """A replica whose own thread ends no lease."""
    live, journal = replica(database, made)
    live.leases.table.clear()
    return live, journal


def leased(one: Replica, name: str, *values: float, seconds: float = LONG, rows: Any = None) -> int:
    writes = [Write(name, SET, array(*values), rows)]
    return one[0].assign(writes, lease_seconds=seconds).header.revision


def kept(one: Replica) -> KeptLeases:
    return one[1].leases


def set_ends(database: str, **seconds: float) -> None:
    """When leases end, from now on: `_7=-1.0` ended a second ago."""
    with psycopg.connect(database, autocommit=True) as connection:
        for lease, offset in seconds.items():
            connection.execute(
                "UPDATE varserve_lease SET ends = clock_timestamp() + %s * interval '1 second' "
                "WHERE lease = %s",
                (offset, int(lease.removeprefix("_"))),
            )


def test_what_is_due_and_what_comes_next(one: Replica, database: str) -> None:
    """The longest due first; of the others the time until the first; each by itself, too."""
    assert (kept(one).count(), kept(one).due()) == (0, ([], None))
    for _ in range(4):
        leased(one, "a", 0, 0, 0)
    set_ends(database, _1=-1.0, _2=30.0, _3=-5.0, _4=50.0)
    due, soon = kept(one).due()
    assert due == [3, 1]
    assert soon is not None
    assert 29 < soon <= 30
    assert [lease for lease in (1, 2, 3, 4, 9) if kept(one).is_due(lease)] == [1, 3]
    assert kept(one).count() == 4


def test_a_renewal_begins_the_time_anew(one: Replica, database: str) -> None:
    """For the seconds that it was granted for, also where it is due; one that ended has none."""
    lease = leased(one, "a", 0, 0, 0, seconds=20.0)
    set_ends(database, **{f"_{lease}": -1.0})
    assert kept(one).renew(lease) == 20.0
    due, soon = kept(one).due()
    assert due == []
    assert soon is not None
    assert 19 < soon <= 20
    assert kept(one).renew(9) is None


def test_what_a_lease_holds(one: Replica) -> None:
    """The part, what was there before, and the revisions; of rows their indices."""
    leased(one, "a", 7, 8, 9)
    rows = Rows(np.array([2, 0]))
    one[0].assign([Write("table", SET, np.ones((2, 2), np.float32), rows)], lease_seconds=LONG)
    (whole,) = kept(one).held(1) or ()
    assert (whole.path, whole.own, whole.under, whole.part) == ("a", 1, 0, None)
    assert whole.previous.tolist() == [1, 2, 3]
    (some,) = kept(one).held(2) or ()
    assert isinstance(some.part, Rows)
    assert (some.part.indices.tolist(), some.previous.tolist()) == ([2, 0], [[0, 0], [0, 0]])
    assert kept(one).held(9) is None


def test_the_leases_beside_one_are_those_on_its_variables(one: Replica) -> None:
    """Not itself, and none where it has ended."""
    leased(one, "a", 0, 0, 0)
    leased(one, "b", 0, 0)
    leased(one, "a", 1, 1, 1)
    assert {lease: len(held) for lease, held in kept(one).beside(1).items()} == {3: 1}
    assert kept(one).beside(2) == {}
    assert kept(one).beside(9) == {}


def test_a_row_that_was_changed_is_damaged(one: Replica, database: str) -> None:
    """Its checksum is looked at whenever it is read."""
    leased(one, "a", 0, 0, 0)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("UPDATE varserve_lease SET crc = crc + 1")
    with pytest.raises(JournalError, match="the database is damaged: row lease 1"):
        kept(one).held(1)


def test_a_connection_that_ended_while_nobody_used_it(one: Replica, server: Server) -> None:
    """The question is asked again; what became of the first is nobody's concern."""
    leased(one, "a", 0, 0, 0)
    assert kept(one).count() == 1
    connection = one[1].leases._open
    assert connection is not None
    server.execute(f"SELECT pg_terminate_backend({connection.info.backend_pid}, 30000)")
    assert kept(one).count() == 1
    assert one[1].leases._open is not connection


def test_a_wait_for_standbys_that_was_ended(one: Replica) -> None:
    """A failover may take the renewal away: the caller is told to ask again."""
    lease = leased(one, "a", 0, 0, 0)
    assert kept(one).renew(lease) == LONG
    connection = one[1].leases._open
    assert connection is not None
    connection.execute(
        "CREATE FUNCTION pg_temp.warn() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE WARNING 'canceling the wait'; RETURN NEW; END $$"
    )
    connection.execute(
        "CREATE TRIGGER warn BEFORE UPDATE ON varserve_lease FOR EACH ROW "
        "EXECUTE FUNCTION pg_temp.warn()"
    )
    with pytest.raises(StateStoreUnavailable, match="does not say that it is durable"):
        kept(one).renew(lease)
    connection.execute("DROP TRIGGER warn ON varserve_lease")
    assert kept(one).renew(lease) == LONG
    assert not connection._notice_handlers


def test_a_database_that_is_away() -> None:
    """The caller is told to ask again, once it is not there; after a close it is the end."""
    with running() as server:
        rows = LeaseRows(Connector(server.address), ("fake", 1))
        with pytest.raises(StateStoreUnavailable, match="the leases cannot be reached"):
            rows.count()  # there are no tables
        assert rows._open is None
    with pytest.raises(StateStoreUnavailable, match="the leases cannot be reached"):
        rows.count()
    rows.close()
    with pytest.raises(JournalClosed):
        rows.count()
    rows.close()


def test_a_close_ends_a_question_in_progress(one: Replica) -> None:
    """It fails as one that comes after the close does."""
    rows = one[1].leases
    closing = threading.Timer(0.1, rows.close)

    def wait(connection: Any) -> Any:
        closing.start()
        return connection.execute("SELECT pg_sleep(120)").fetchall()

    began = time.monotonic()
    with pytest.raises(JournalClosed):
        rows._ask(wait)
    assert time.monotonic() - began < 60
    closing.join(60)
    assert rows._open is None


def test_a_question_comes_twice_at_most(one: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time by a new connection; then its caller is told that the database is away."""
    rows = one[1].leases
    assert rows.count() == 0
    tries: list[int] = []

    def away() -> Any:
        tries.append(1)
        assert len(tries) < 9, "it goes on and on"
        raise psycopg.OperationalError("away")

    connect = rows._connector.connect
    monkeypatch.setattr(rows._connector, "connect", away)
    assert rows._open is not None
    rows._open.close()
    for expected in (1, 2):
        with pytest.raises(StateStoreUnavailable, match="the leases cannot be reached"):
            rows.count()
        assert len(tries) == expected
    monkeypatch.setattr(rows._connector, "connect", connect)
    assert rows.count() == 0


def test_a_question_after_the_close(one: Replica) -> None:
    """No connection is made for it."""
    rows = one[1].leases
    rows.close()
    with pytest.raises(JournalClosed):
        rows.count()
    assert rows._open is None


def test_one_question_at_a_time(one: Replica) -> None:
    """Of all threads, by one connection; the close waits for it."""
    rows = one[1].leases
    assert times_taken(rows, "_one_at_a_time", rows.count) == 1
    assert times_taken(rows, "_one_at_a_time", rows.close) == 1


def test_what_a_lease_holds_is_read_at_one_moment(
    database: str, replica: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row, and the blobs that the row names: another replica may end it meanwhile."""
    live, journal = replica(database, large)
    live.leases.table.clear()
    value = np.ones(LARGE, np.float32)
    lease = live.assign([Write("large", SET, value)], lease_seconds=LONG).header.revision
    read, levels = BlobReader.read, []

    def reading(reader: BlobReader, record: Any, payload: bytes) -> Any:
        if reader._connection is journal.leases._open:  # and not the replica's, which follows
            levels.append(reader._connection.execute("SHOW transaction_isolation").fetchone())
        return read(reader, record, payload)

    monkeypatch.setattr(BlobReader, "read", reading)
    (held,) = journal.leases.held(lease) or ()
    assert (held.previous.sum(), levels) == (0, [("repeatable read",)])


def test_large_values_under_each_other_leave_no_chunk(database: str, replica: Start) -> None:
    """What a lease holds is written anew when the one under it ends; it goes with the last."""
    live, _ = replica(database, large)
    for number in (1, 2, 3):
        value = np.full(LARGE, number, np.float32)
        live.assign([Write("large", SET, value)], lease_seconds=None if number == 1 else LONG)
    assert kept_blobs(database) == [0, 0, 1, 2, 3]
    live.leases.revoke(2)
    assert kept_blobs(database) == [0, 1, 2, 3]
    live.leases.revoke(3)
    assert (value_of(live, "large") == 1).all()
    assert kept_blobs(database) == [1, 2, 3, 4]
