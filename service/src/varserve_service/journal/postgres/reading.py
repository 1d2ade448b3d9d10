"""Reading the log after a position, and the check that this replica is not on a fork."""

from __future__ import annotations

from typing import Any

from varserve_service.core.errors import JournalError
from varserve_service.core.ports.journal import KeptCommit, Position

from .rows import LOG_COLUMNS, kept_commit
from .schema import Connection

Key = tuple[str, int]
Head = tuple[Any, ...]
"""Of a model: epoch, revision, append, horizon, and the append at the horizon."""

OF_MODEL = "model = %s AND version = %s"
HEAD = (
    f"SELECT epoch, revision, append, horizon, horizon_append FROM varserve_head WHERE {OF_MODEL}"
)
_AT_ONCE = 1_000  # rows that are read at a time


def commits_after(
    connection: Connection, key: Key, known: Position, head: Head | None = None
) -> list[KeptCommit]:
    """The commits after a position. Raises JournalError when the log does not go on from it."""
    if head is not None and Position(head[1], head[2]) == known:
        return []
    rows = connection.execute(
        f"SELECT {LOG_COLUMNS} FROM varserve_log WHERE {OF_MODEL} AND revision >= %s "
        "ORDER BY revision LIMIT %s",
        (*key, known.revision, _AT_ONCE if head is None else None),
        binary=True,
    ).fetchall()
    if rows and rows[0][0] == known.revision:
        if rows[0][1] != known.append:
            raise JournalError(
                f"commit {known.revision} of this replica is not the one in the database, "
                "which lost commits in a failover: this replica builds its state anew"
            )
        rows = rows[1:]
    elif rows or known.revision:
        _check_horizon(connection, key, known)
    if rows and rows[0][0] != known.revision + 1:
        raise JournalError(f"the log goes on at {rows[0][0]}, expected {known.revision + 1}")
    return [kept_commit(*row) for row in rows]


def _check_horizon(connection: Connection, key: Key, known: Position) -> None:
    row = connection.execute(HEAD, key).fetchone()
    if row is None or Position(row[3], row[4]) != known:
        raise JournalError(
            f"commit {known.revision}, the last of this replica, is not in the database any "
            "more: this replica builds its state anew"
        )
