"""The statement that appends commits to the log and moves the head row to the last of them.

It returns a stamp for each row of the log, the transaction that wrote it; or none, where the head
row is not where it was expected.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from varserve_service.core.ports.journal import Position

from .head import OF_MODEL, Key

_IN_TURN = f"""
    UPDATE varserve_head SET revision = %s, append = %s
    WHERE {OF_MODEL} AND revision = %s AND append = %s
    RETURNING model, version
"""
# It waits for nobody: the model's own lock is held meanwhile.
_OPTIMISTIC = f"""
    UPDATE varserve_head SET revision = %s, append = %s
    WHERE {OF_MODEL} AND EXISTS (
        SELECT FROM varserve_head
        WHERE {OF_MODEL} AND revision = %s AND append = %s AND xmin = %s
        FOR NO KEY UPDATE SKIP LOCKED
    )
    RETURNING model, version
"""
_ONE_ROW = """
    SELECT head.model, head.version, %s::bigint, %s, %b::bytea, %b::bytea, %s::bigint FROM head
"""
_ROWS = """
    SELECT head.model, head.version, row.revision, %s, row.record, row.payload, row.crc
    FROM head, unnest(%s::bigint[], %b::bytea[], %b::bytea[], %s::bigint[])
        AS row (revision, record, payload, crc)
"""


def appending(
    key: Key,
    known: Position,
    append: str,
    rows: Sequence[tuple[int, bytes, bytes, int]],
    stamp: str | None = None,
) -> tuple[str, tuple[Any, ...]]:
    """The statement and its parameters, for rows of the log under the name `append`.

    `stamp`: the head row is not locked, has to have this stamp, and is left alone where others lock
    it.
    """
    move: tuple[Any, ...] = (rows[-1][0], append, *key)
    if stamp is None:
        update, move = _IN_TURN, (*move, known.revision, known.append)
    else:
        update, move = _OPTIMISTIC, (*move, *key, known.revision, known.append, stamp)
    if len(rows) == 1:
        revision, *rest = rows[0]
        return _with(update, _ONE_ROW), (*move, revision, append, *rest)
    return _with(update, _ROWS), (*move, append, *map(list, zip(*rows, strict=True)))


def _with(update: str, rows: str) -> str:
    return f"WITH head AS ({update}) INSERT INTO varserve_log {rows} RETURNING xmin::text"
