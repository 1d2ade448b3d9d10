"""Compaction of the log in the database: its state at a later horizon becomes the base.

Any replica does it, under the lock of the head row, in one transaction. A follower that is behind
the new horizon finds out and builds its state anew; it never skips commits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from varserve_service.core.arrays.patches import fold
from varserve_service.core.ports.journal import KeptChange
from varserve_service.journal import records
from varserve_service.journal.options import JournalOptions
from varserve_service.journal.payloads import Inline
from varserve_service.journal.records import Record, Row
from varserve_service.journal.rows import base_key, change_record, commit_key, history_key

from .rows import decoded, kept_change
from .schema import Connection

_AT_ONCE = 1_000
"""Commits that are folded in one transaction, which keeps writers waiting."""
_WHERE = "model = %s AND version = %s"

Key = tuple[str, int]


def is_due(connection: Connection, key: Key, options: JournalOptions) -> bool:
    """Whether the log is a tenth beyond its bounds. Raises psycopg.Error."""
    row = connection.execute(
        "SELECT count(*), coalesce(sum(octet_length(payload)), 0) "
        f"FROM varserve_log WHERE {_WHERE}",
        key,
    ).fetchone()
    assert row is not None
    return bool(
        row[0] * 10 > options.history_commits * 11 or row[1] * 10 > options.history_bytes * 11
    )


def compact(connection: Connection, key: Key, options: JournalOptions) -> int:
    """Move the horizon to where the log is within its bounds; the commits that this folds.

    Raises JournalError, psycopg.Error, with nothing changed.
    """
    with connection.transaction():
        head = connection.execute(
            f"SELECT horizon, description FROM varserve_head WHERE {_WHERE} FOR NO KEY UPDATE", key
        ).fetchone()
        assert head is not None
        horizon = _next_horizon(connection, key, head[0], options)
        if horizon == head[0]:
            return 0
        gone = _changes_until(connection, key, horizon)
        last_gone = _keep_records(connection, key, horizon, options)
        shapes = {path: variable["begins_as"] for path, variable in head[1]["variables"].items()}
        _fold_into_base(connection, key, gone, shapes)
        connection.execute(
            "UPDATE varserve_head SET horizon = %s, horizon_append = (SELECT append FROM "
            f"varserve_log WHERE {_WHERE} AND revision = %s) WHERE {_WHERE}",
            (horizon, *key, horizon, *key),
        )
        for table, until in (("log", horizon), ("history", last_gone)):
            connection.execute(
                f"DELETE FROM varserve_{table} WHERE {_WHERE} AND revision <= %s", (*key, until)
            )
        return int(horizon - head[0])


def _next_horizon(connection: Connection, key: Key, horizon: int, options: JournalOptions) -> int:
    rows = connection.execute(
        "SELECT revision, octet_length(payload) "
        f"FROM varserve_log WHERE {_WHERE} ORDER BY revision",
        key,
    ).fetchall()
    count, nbytes = len(rows), sum(size for _, size in rows)
    for revision, size in rows[:_AT_ONCE]:
        if count <= options.history_commits and nbytes <= options.history_bytes:
            break
        horizon, count, nbytes = revision, count - 1, nbytes - size
    return horizon


def _changes_until(
    connection: Connection, key: Key, horizon: int
) -> dict[str, list[tuple[int, KeptChange]]]:
    """By path, the changes of the commits that go, oldest first."""
    gone: dict[str, list[tuple[int, KeptChange]]] = {}
    for revision, record, payload, crc in connection.execute(
        "SELECT revision, record, payload, crc FROM varserve_log "
        f"WHERE {_WHERE} AND revision <= %s ORDER BY revision",
        (*key, horizon),
        binary=True,
    ):
        row = decoded(commit_key(revision), record, payload, crc)
        for change in row.record["changes"]:
            kept = kept_change(change, payload)
            gone.setdefault(kept.path, []).append((revision, kept))
    return gone


def _keep_records(connection: Connection, key: Key, horizon: int, options: JournalOptions) -> int:
    """Keep who made the commits that go, when and why; the last commit of which nothing stays."""
    row = connection.execute(f"SELECT revision FROM varserve_head WHERE {_WHERE}", key).fetchone()
    assert row is not None
    last_gone = int(row[0]) - options.history_commits
    remains = []
    for revision, record, payload, crc in connection.execute(
        f"SELECT revision, record, payload, crc FROM varserve_log WHERE {_WHERE} "
        "AND revision <= %s AND revision > %s",
        (*key, horizon, last_gone),
        binary=True,
    ):
        kept = records.history_record(decoded(commit_key(revision), record, payload, crc).record)
        remains.append((*key, revision, *Row(history_key(revision), kept, b"").encoded()))
    _insert(connection, "history", remains)
    return last_gone


def _fold_into_base(
    connection: Connection,
    key: Key,
    gone: Mapping[str, Sequence[tuple[int, KeptChange]]],
    shapes: Mapping[str, Any],
) -> None:
    new = []
    for path, changes in gone.items():
        row = connection.execute(
            f"DELETE FROM varserve_base WHERE {_WHERE} AND path = %s "
            "RETURNING record, payload, crc",
            (*key, path),
            binary=True,
        ).fetchone()
        before = []
        if row is not None:
            record = decoded(base_key(path), *row).record
            before = [kept_change(record["change"], row[1])]
        shape = None if shapes[path] is None else tuple(shapes[path])
        patches = [*before, *(change for _, change in changes)]
        part, value = fold(patches, shape)
        inline = Inline()
        places = {path: inline.add(np.asarray(value))}
        change: Record = change_record(path, part, places, inline)
        base = Row(base_key(path), {"revision": changes[-1][0], "change": change}, inline.payload())
        new.append((*key, path, *base.encoded()))
    _insert(connection, "base", new)


def _insert(connection: Connection, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(f"INSERT INTO varserve_{table} VALUES (%s, %s, %s, %b, %b, %s)", rows)
