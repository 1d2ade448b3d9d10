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
AT_ONCE = 1_000  # rows that are read at a time


def commits_after(
    connection: Connection, key: Key, known: Position, head: Head | None = None
) -> list[KeptCommit]:
    """The commits after a position. Raises JournalError when the log does not go on from it."""
    if head is not None and Position(head[1], head[2]) == known:
        return []
    rows = connection.execute(
        f"SELECT {LOG_COLUMNS} FROM varserve_log WHERE {OF_MODEL} AND revision >= %s "
        "ORDER BY revision LIMIT %s",
        (*key, known.revision, AT_ONCE if head is None else None),
        binary=True,
    ).fetchall()
    if rows and rows[0][0] == known.revision:
        check_known(known, rows[0][1], None)
        rows = rows[1:]
    elif rows or known.revision:
        row = connection.execute(HEAD, key).fetchone()
        check_known(known, None, None if row is None else Position(row[3], row[4]))
    if rows and rows[0][0] != known.revision + 1:
        raise JournalError(f"the log goes on at {rows[0][0]}, expected {known.revision + 1}")
    return [kept_commit(*row) for row in rows]


def check_known(known: Position, append: str | None, horizon: Position | None) -> None:
    """Whether the log goes on from a position. Raises JournalError where it does not.

    `append` is that of the log's commit at its revision, None where the log has none there.
    """
    if append is None and known != horizon:
        raise JournalError(
            f"commit {known.revision}, the last of this replica, is not in the database any "
            "more: this replica builds its state anew"
        )
    if append is not None and append != known.append:
        raise JournalError(
            f"commit {known.revision} of this replica is not the one in the database, "
            "which lost commits in a failover: this replica builds its state anew"
        )
