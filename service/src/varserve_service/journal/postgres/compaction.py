"""Compaction of the log in the database: its state at a later horizon becomes the base.

Any replica does it. What becomes the base is worked out and written first, from commits that do not
change any more; then, under the lock of the head row, the rows are put in place of the commits. A
follower that is behind the new horizon finds out and builds its state anew; it never skips commits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psycopg

from varserve_service.core.arrays.patches import fold
from varserve_service.core.errors import JournalError
from varserve_service.core.ports.journal import KeptChange
from varserve_service.core.values.host_value import HostValue
from varserve_service.journal import records
from varserve_service.journal.options import JournalOptions
from varserve_service.journal.payloads import Inline
from varserve_service.journal.records import Record, Row
from varserve_service.journal.rows import base_key, change_record, history_key, read_change

from .blobs import OF_NO_COMMIT, BlobReader, BlobWriter, drop, is_alone, keep, remove_chunks, sweep
from .head import OF_MODEL, Key
from .rows import LOG_COLUMNS, LogRow, decoded, placed, places_of, read_log_row
from .schema import Connection

_AT_ONCE = 1_000
_BYTES_AT_ONCE = 256 * 2**20
"""Commits, and bytes of their values, that are folded at once; one commit may be larger."""

_SIZES = f"""
    SELECT log.revision, octet_length(log.payload) + coalesce(large.nbytes, 0)::bigint AS nbytes,
        coalesce(large.staged > clock_timestamp() - %s * interval '1 second', false) AS is_recent
    FROM varserve_log AS log LEFT JOIN (
        SELECT revision, sum(nbytes) AS nbytes, max(staged) AS staged FROM varserve_blob
        WHERE {OF_MODEL} AND revision > {OF_NO_COMMIT} GROUP BY revision
    ) AS large USING (revision)
    WHERE {OF_MODEL} ORDER BY log.revision
"""


def is_due(connection: Connection, key: Key, options: JournalOptions) -> bool:
    """Whether the log is a tenth beyond its bounds. Raises psycopg.Error."""
    row = connection.execute(
        f"SELECT count(*), coalesce(sum(nbytes), 0) FROM ({_SIZES}) AS sizes",
        (options.blob_seconds, *key, *key),
    ).fetchone()
    assert row is not None
    return bool(
        row[0] * 10 > options.history_commits * 11 or row[1] * 10 > options.history_bytes * 11
    )


def compact(connection: Connection, key: Key, options: JournalOptions) -> int:
    """Move the horizon to where the log is within its bounds; the commits that this folds.

    0 also where another replica was faster. Raises JournalError, psycopg.Error, with nothing
    changed.
    """
    head = connection.execute(
        f"SELECT revision, horizon, description FROM varserve_head WHERE {OF_MODEL}", key
    ).fetchone()
    assert head is not None
    last, before, description = head
    horizon = _next_horizon(connection, key, before, options)
    if horizon == before:
        return 0
    shapes = {path: variable["begins_as"] for path, variable in description["variables"].items()}
    blobs, done = BlobWriter(connection, key), False
    try:
        gone = _read(connection, key, horizon, last - options.history_commits)
        base = _fold(connection, key, gone, shapes, blobs)
        with connection.transaction():
            if not _is_at(connection, key, before):
                return 0
            _keep_records(connection, key, gone)
            _replace_base(connection, key, base, blobs)
            _move_horizon(connection, key, before, horizon, base)
        done = True
    finally:
        if blobs.names and not done:
            with suppress(psycopg.Error):  # they are swept later
                sweep(connection, key, 0, blobs.names)
    remove_chunks(connection, key)
    return int(horizon - before)


@dataclass(slots=True, eq=False)
class _Gone:
    """The commits that go: what remains of them, and what their variables are made of."""

    last_forgotten: int
    history: list[tuple[Any, ...]] = field(default_factory=list)
    changes: dict[str, list[tuple[LogRow, Record]]] = field(default_factory=dict)
    """By path, from the last whole value on, oldest first."""


@dataclass(frozen=True, slots=True, eq=False)
class _Base:
    """The rows of the base that are new, by path, and blobs of the log that they name."""

    rows: Mapping[str, Row]
    blobs: Sequence[str]


def _next_horizon(connection: Connection, key: Key, horizon: int, options: JournalOptions) -> int:
    rows = connection.execute(_SIZES, (options.blob_seconds, *key, *key)).fetchall()
    count, nbytes, folded = len(rows), sum(size for _, size, _ in rows), 0
    first = horizon + 1
    for revision, size, is_recent in rows[:_AT_ONCE]:
        if count <= options.history_commits and nbytes <= options.history_bytes:
            break
        folded += size
        if is_recent or (folded > _BYTES_AT_ONCE and revision > first):
            break
        horizon, count, nbytes = revision, count - 1, nbytes - size
    return horizon


def _read(connection: Connection, key: Key, horizon: int, last_forgotten: int) -> _Gone:
    gone = _Gone(last_forgotten)
    for columns in connection.execute(
        f"SELECT {LOG_COLUMNS} FROM varserve_log WHERE {OF_MODEL} AND revision <= %s "
        "ORDER BY revision",
        (*key, horizon),
        binary=True,
    ):
        row = read_log_row(*columns)
        if row.revision > last_forgotten:
            kept = Row(history_key(row.revision), records.history_record(row.row.record), b"")
            gone.history.append((*key, row.revision, *kept.encoded()))
        for change in row.row.record["changes"]:
            if change["part"] is None:
                gone.changes[change["path"]] = []
            gone.changes.setdefault(change["path"], []).append((row, change))
    return gone


def _fold(
    connection: Connection, key: Key, gone: _Gone, shapes: Mapping[str, Any], blobs: BlobWriter
) -> _Base:
    """Write what is large, and give the rest as rows. Raises JournalError, psycopg.Error."""
    reader, rows, reused = BlobReader(connection, key), {}, []
    for path, changes in gone.changes.items():
        last, only = changes[-1]
        payload = b""
        if len(changes) == 1 and only["part"] is None and is_alone(only["value"]):
            # The blob is the whole value, and becomes the base's.
            reused.append(only["value"]["blob"])
            change = only
        else:
            patches = [read_change(each, row.row.payload, reader) for row, each in changes]
            if patches[0].part is not None:
                patches = _base_before(connection, key, path, reader) + patches
            shape = None if shapes[path] is None else tuple(shapes[path])
            part, array = fold(patches, shape)
            inline, value = Inline(), HostValue(np.asarray(array, order="C"))
            places = placed({path: value}, {path: part}, inline, blobs, None)
            change = change_record(path, part, places, inline)
            payload = inline.payload()
        rows[path] = Row(base_key(path), {"revision": last.revision, "change": change}, payload)
    return _Base(rows, reused)


def _base_before(
    connection: Connection, key: Key, path: str, reader: BlobReader
) -> list[KeptChange]:
    row = connection.execute(
        f"SELECT record, payload, crc FROM varserve_base WHERE {OF_MODEL} AND path = %s",
        (*key, path),
        binary=True,
    ).fetchone()
    if row is None:
        return []
    record = decoded(base_key(path), *row).record
    return [read_change(record["change"], row[1], reader)]


def _is_at(connection: Connection, key: Key, horizon: int) -> bool:
    """Take the lock; whether the horizon is where it was."""
    row = connection.execute(
        f"SELECT horizon FROM varserve_head WHERE {OF_MODEL} FOR NO KEY UPDATE", key
    ).fetchone()
    return row is not None and row[0] == horizon


def _keep_records(connection: Connection, key: Key, gone: _Gone) -> None:
    """Keep who made the commits that go, when and why, and forget the oldest."""
    _insert(connection, "history", gone.history)
    connection.execute(
        f"DELETE FROM varserve_history WHERE {OF_MODEL} AND revision <= %s",
        (*key, gone.last_forgotten),
    )


def _replace_base(connection: Connection, key: Key, base: _Base, blobs: BlobWriter) -> None:
    replaced = connection.execute(
        f"DELETE FROM varserve_base WHERE {OF_MODEL} AND path = ANY(%s) "
        "RETURNING path, record, payload, crc",
        (*key, list(base.rows)),
        binary=True,
    ).fetchall()
    before = [decoded(base_key(path), *columns).record["change"] for path, *columns in replaced]
    drop(connection, key, [place["blob"] for place in places_of(before) if "blob" in place])
    if not keep(connection, key, dict.fromkeys(blobs.names, OF_NO_COMMIT)):
        raise JournalError("compaction took so long that what it had staged was swept")
    _insert(connection, "base", [(*key, path, *row.encoded()) for path, row in base.rows.items()])


def _move_horizon(connection: Connection, key: Key, before: int, horizon: int, base: _Base) -> None:
    connection.execute(
        "UPDATE varserve_head SET horizon = %s, horizon_append = (SELECT append FROM "
        f"varserve_log WHERE {OF_MODEL} AND revision = %s) WHERE {OF_MODEL}",
        (horizon, *key, horizon, *key),
    )
    connection.execute(
        f"DELETE FROM varserve_log WHERE {OF_MODEL} AND revision <= %s", (*key, horizon)
    )
    connection.execute(
        f"DELETE FROM varserve_blob WHERE {OF_MODEL} AND revision > %s AND revision <= %s "
        "AND NOT blob = ANY(%s)",
        (*key, before, horizon, list(base.blobs)),
    )


def _insert(connection: Connection, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(f"INSERT INTO varserve_{table} VALUES (%s, %s, %s, %b, %b, %s)", rows)
