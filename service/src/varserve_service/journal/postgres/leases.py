"""Leases as rows: what each holds, and when it ends by the clock of the database.

A lease is inserted, and deleted, in the transaction of a commit, under the lock of the head row;
only its end is moved beside that.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import psycopg

from varserve_service.core.commit.leases import lease_not_found
from varserve_service.core.errors import JournalClosed, StateStoreUnavailable
from varserve_service.core.ports.shared_journal import KeptHeld, LeaseChange
from varserve_service.core.values.host_value import HostValue
from varserve_service.journal.disk import log
from varserve_service.journal.payloads import Inline, Payloads
from varserve_service.journal.records import Record, Row
from varserve_service.journal.rows import change_record, read_change

from .blobs import OF_NO_COMMIT, BlobReader, BlobWriter, drop
from .connection import Connector, cut_after
from .guard import cut
from .head import OF_MODEL, Key
from .reading import one_moment
from .rows import decoded, placed, places_of
from .schema import Connection

T = TypeVar("T")

_SECONDS = 3.0
_READ_SECONDS = 120.0  # values may be large
_AT_ONCE = 100
_OF_LEASE = f"{OF_MODEL} AND lease = %s"
_PUT = """
    INSERT INTO varserve_lease VALUES (
        %s, %s, %s, %s, clock_timestamp() + %s * interval '1 second', %b, %b, %s
    ) ON CONFLICT (model, version, lease) DO UPDATE SET
        record = excluded.record, payload = excluded.payload, crc = excluded.crc
"""


def write_changes(connection: Connection, key: Key, changes: Sequence[LeaseChange]) -> None:
    """Part of a commit's transaction. Raises psycopg.Error, RequestError LEASE_NOT_FOUND."""
    for change in changes:
        if change.held is not None:
            if not change.seconds:
                _drop_blobs(connection, key, change.lease)
            row = _row(change.lease, change.held, BlobWriter(connection, key)).encoded()
            values = (*key, change.lease, change.seconds, change.seconds, *row)
            connection.execute(_PUT, values)
            continue
        due = " AND ends <= clock_timestamp()" if change.only_if_due else ""
        gone = connection.execute(
            f"DELETE FROM varserve_lease WHERE {_OF_LEASE}{due} RETURNING record",
            (*key, change.lease),
            binary=True,
        ).fetchone()
        if gone is None:
            raise lease_not_found(change.lease)
        drop(connection, key, _blobs(gone[0]))


def _drop_blobs(connection: Connection, key: Key, lease: int) -> None:
    query = f"SELECT record FROM varserve_lease WHERE {_OF_LEASE}"
    row = connection.execute(query, (*key, lease), binary=True).fetchone()
    if row is not None:
        drop(connection, key, _blobs(row[0]))


def _blobs(record: bytes) -> list[str]:
    """Names of the blobs that the record of a lease names."""
    places = places_of(json.loads(record)["held"])
    return [place["blob"] for place in places if "blob" in place]


class LeaseRows:
    """Implements the core's KeptLeases, by a connection of its own."""

    def __init__(self, connector: Connector, key: Key) -> None:
        self._connector = connector
        self._key = key
        self._one_at_a_time = threading.Lock()
        self._closed = False
        self._open: Connection | None = None

    def count(self) -> int:
        query = f"SELECT count(*) FROM varserve_lease WHERE {OF_MODEL}"
        return int(self._ask(lambda c: c.execute(query, self._key).fetchall())[0][0])

    def renew(self, lease: int) -> float | None:
        query = (
            "UPDATE varserve_lease SET ends = clock_timestamp() + seconds * interval '1 second' "
            f"WHERE {_OF_LEASE} RETURNING seconds"
        )
        notices: list[str] = []

        def renew(connection: Connection) -> list[tuple[Any, ...]]:
            def note(diagnostic: psycopg.errors.Diagnostic) -> None:
                notices.append(diagnostic.message_primary or "")

            connection.add_notice_handler(note)
            try:
                return connection.execute(query, (*self._key, lease)).fetchall()
            finally:
                connection.remove_notice_handler(note)

        rows = self._ask(renew)
        if notices:  # a wait for the standbys was ended: a failover may take the renewal away
            raise StateStoreUnavailable("the database does not say that it is durable; retry")
        return float(rows[0][0]) if rows else None

    def due(self) -> tuple[Sequence[int], float | None]:
        query = (
            "SELECT lease, extract(epoch FROM ends - clock_timestamp())::float8 "
            f"FROM varserve_lease WHERE {OF_MODEL} ORDER BY ends LIMIT {_AT_ONCE}"
        )
        rows = self._ask(lambda c: c.execute(query, self._key).fetchall())
        later = [seconds for _, seconds in rows if seconds > 0]
        return [lease for lease, seconds in rows if seconds <= 0], min(later, default=None)

    def is_due(self, lease: int) -> bool:
        query = f"SELECT 1 FROM varserve_lease WHERE {_OF_LEASE} AND ends <= clock_timestamp()"
        return bool(self._ask(lambda c: c.execute(query, (*self._key, lease)).fetchall()))

    def held(self, lease: int) -> Sequence[KeptHeld] | None:
        return self._read([lease]).get(lease)

    def beside(self, lease: int) -> Mapping[int, Sequence[KeptHeld]]:
        query = f"SELECT lease, record FROM varserve_lease WHERE {OF_MODEL}"
        rows = self._ask(lambda c: c.execute(query, self._key, binary=True).fetchall())
        # The values are large, and only those that may change are read.
        paths = {
            other: {each["path"] for each in json.loads(record)["held"]} for other, record in rows
        }
        mine = paths.pop(lease, set())
        return self._read([other for other, theirs in paths.items() if theirs & mine])

    def _read(self, leases: Sequence[int]) -> dict[int, Sequence[KeptHeld]]:
        if not leases:
            return {}
        query = (
            "SELECT lease, record, payload, crc FROM varserve_lease "
            f"WHERE {OF_MODEL} AND lease = ANY(%s)"
        )
        values = (*self._key, list(leases))

        def read(connection: Connection) -> dict[int, Sequence[KeptHeld]]:
            with one_moment(connection):
                reader = BlobReader(connection, self._key)
                rows = connection.execute(query, values, binary=True).fetchall()
                return {row[0]: _held(reader, *row) for row in rows}

        return self._ask(read, seconds=_READ_SECONDS)

    def _ask(self, question: Callable[[Connection], T], *, seconds: float = _SECONDS) -> T:
        with self._one_at_a_time:
            reused = self._open is not None
            while not self._closed:
                try:
                    if self._open is None:
                        self._open = self._connector.connect()
                    self._connector.check(self._open)
                    with cut_after(self._open, seconds):
                        return question(self._open)
                except psycopg.Error as error:
                    self._drop()
                    if not (reused or self._closed):
                        log.warning(
                            "leases are not known", database=self._connector.name, error=str(error)
                        )
                        raise StateStoreUnavailable(
                            "the database that keeps the leases cannot be reached; retry"
                        ) from error
                    reused = False  # it ended while nobody used it; all questions may come twice
        raise JournalClosed

    def _drop(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def close(self) -> None:
        """Close the connection. A question in progress fails."""
        self._closed = True
        asked = self._open
        if asked is not None:
            cut(asked)
        with self._one_at_a_time:
            self._drop()


def _key_of(lease: int) -> str:
    return f"lease {lease}"


def _row(lease: int, held: Sequence[KeptHeld], blobs: BlobWriter) -> Row:
    inline = Inline()
    values = {each.path: HostValue(each.previous) for each in held}
    parts = {each.path: each.part for each in held}
    places = placed(values, parts, inline, blobs, OF_NO_COMMIT)
    entries: list[Record] = [
        change_record(each.path, each.part, places, inline) | {"own": each.own, "under": each.under}
        for each in held
    ]
    return Row(_key_of(lease), {"held": entries}, inline.payload())


def _held(
    payloads: Payloads, lease: int, record: bytes, payload: bytes, crc: int
) -> tuple[KeptHeld, ...]:
    row = decoded(_key_of(lease), record, payload, crc)
    held = []
    for each in row.record["held"]:
        kept = read_change(each, payload, payloads)
        held.append(KeptHeld(kept.path, each["own"], each["under"], kept.part, kept.value))
    return tuple(held)
