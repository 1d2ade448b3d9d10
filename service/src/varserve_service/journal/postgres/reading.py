"""Reading the log after a position, and the check that this replica is not on a fork."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from varserve_service.core.errors import JournalError
from varserve_service.core.ports.journal import KeptCommit, Position

from .blobs import BlobReader
from .head import HEAD, OF_MODEL, Head, Key
from .rows import LogRow, read_log_row
from .schema import Connection

AT_ONCE = 1_000  # rows that are read at a time
PAGE_BYTES = 16 * 2**20  # of values in them
_BLOB_BYTES_AT_ONCE = 64 * 2**20
_SECONDS = 14.0
_BYTES_PER_SECOND = 10e6
# The row at the position, without its values, and those after it, as far as the bytes allow.
_ROWS = f"""
    SELECT revision, append, record, payload, crc FROM (
        SELECT revision, append,
            CASE WHEN revision > %s THEN record END AS record,
            CASE WHEN revision > %s THEN payload END AS payload,
            crc, sum(octet_length(payload)) FILTER (WHERE revision > %s) OVER (
                ORDER BY revision ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ) AS before
        FROM varserve_log WHERE {OF_MODEL} AND revision >= %s ORDER BY revision LIMIT %s
    ) AS log WHERE coalesce(before, 0) < %s ORDER BY revision
"""


def rows_after(
    connection: Connection,
    key: Key,
    known: Position,
    head: Head | None = None,
    most_bytes: int = PAGE_BYTES,
) -> list[LogRow]:
    """The next rows after a position, some at a time: what a process can have in memory.

    That is one row more than `most_bytes` of values in them.

    Raises JournalError when the log does not go on from the position.
    """
    if head is not None and Position(head[1], head[2]) == known:
        return []
    revision = known.revision
    rows = connection.execute(
        _ROWS,
        (revision, revision, revision, *key, revision, AT_ONCE, most_bytes),
        binary=True,
    ).fetchall()
    if rows and rows[0][0] == revision:
        check_known(known, rows[0][1], None)
        rows = rows[1:]
    elif rows or revision:
        row = connection.execute(HEAD, key).fetchone()
        check_known(known, None, None if row is None else Position(row[3], row[4]))
    if rows and rows[0][0] != revision + 1:
        raise JournalError(f"the log goes on at {rows[0][0]}, expected {revision + 1}")
    return [read_log_row(*row) for row in rows]


def may_be_more(rows: Sequence[LogRow]) -> bool:
    """Whether rows after a position may be followed by others that were not read."""
    # The row at the position was read, too.
    nbytes = sum(len(row.row.payload) for row in rows)
    return len(rows) >= AT_ONCE - 1 or nbytes >= PAGE_BYTES


def commits_of(connection: Connection, key: Key, rows: Sequence[LogRow]) -> list[KeptCommit]:
    """The commits of the first rows: one, or more while their blobs are not too large together."""
    commits: list[KeptCommit] = []
    reader, nbytes = BlobReader(connection, key), 0
    for row in rows:
        nbytes += row.blob_bytes
        if commits and nbytes > _BLOB_BYTES_AT_ONCE:
            break
        commits.append(row.commit(reader))
    return commits


def commits_after(
    connection: Connection,
    key: Key,
    known: Position,
    rows: Sequence[LogRow],
    cut_after: Callable[[Connection, float], AbstractContextManager[None]],
) -> list[KeptCommit]:
    """The commits of the first of the rows after a position; the connection is cut when that hangs.

    Raises JournalError, psycopg.Error.
    """
    nbytes = blob_bytes_of(rows)
    if not nbytes:
        return commits_of(connection, key, rows)
    with cut_after(connection, _SECONDS + nbytes / _BYTES_PER_SECOND), one_moment(connection):
        return commits_of(connection, key, rows_after(connection, key, known))


def blob_bytes_of(rows: Sequence[LogRow]) -> int:
    """Bytes of the values of rows that are in blobs."""
    return sum(row.blob_bytes for row in rows)


@contextmanager
def one_moment(connection: Connection) -> Iterator[None]:
    """What is read in the block is of one moment: rows, and the blobs that they name.

    Nobody waits for it, so it may take its time.
    """
    with connection.transaction():
        connection.execute(
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; "
            "SET LOCAL idle_in_transaction_session_timeout = 60000"
        )
        yield


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
