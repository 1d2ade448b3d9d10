"""Whether a log is what was written, found out without changing a byte of it.

Opening a damaged log for writing may repair the damage away: SQLite drops what does not follow the
last good frame of its write-ahead log. So the whole log is first read through a read-only
connection.
"""

from __future__ import annotations

import re
import sqlite3
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from varserve_service.core.errors import JournalError

from . import records
from .disk import exists
from .failures import Cause, cause_of, refusal
from .rows import (
    STATE_KEY,
    answer_key,
    base_key,
    commit_key,
    history_key,
    next_base_checksum,
)
from .schema import OtherFormat, check_format


def verify(path: Path, acknowledged: int) -> None:
    """Read a whole log. `acknowledged`: the last revision that a caller was told of.

    Raises JournalError when the log is damaged or of another format, StateUnavailable when it
    cannot be read.
    """
    try:
        if exists(path):
            try:
                _verify(path, acknowledged)
            except sqlite3.DatabaseError as error:
                if cause_of(error) is not Cause.DAMAGED:
                    raise
                # SQLite calls some reads that failed damage.
                _read_through(path)
                _verify(path, acknowledged)
        else:
            _compare(path, acknowledged, 0)
    except OtherFormat as error:
        raise OtherFormat(f"{path}: {error}") from error
    except (sqlite3.Error, OSError, MemoryError, ValueError, KeyError, TypeError) as error:
        raise refusal(path, error) from error


def _read_through(path: Path) -> None:
    """Read a log and its write-ahead log. Raises OSError when the disk does not give them."""
    for name in (path, path.with_name(f"{path.name}-wal")):
        with suppress(FileNotFoundError), name.open("rb", buffering=0) as file:
            while file.read(2**20):
                pass


_ERROR_CODE = re.compile(r"error code=(\d+)")
_never_closed: list[sqlite3.Connection] = []


def _verify(path: Path, acknowledged: int) -> None:
    connection = _read_only(path)
    try:
        _compare(path, acknowledged, _last_commit(connection))
    except BaseException:
        # When its last connection closes, SQLite deletes a write-ahead log in which it finds
        # nothing valid. A damaged one is evidence, and may be repaired.
        _never_closed.append(connection)
        raise
    connection.close()


def _compare(path: Path, acknowledged: int, last: int) -> None:
    if acknowledged > last:
        raise JournalError(
            f"{path} or the write-ahead log beside it is damaged: expected the commits up to "
            f"{acknowledged}, which were acknowledged, found those up to {last}"
        )


def _read_only(path: Path) -> sqlite3.Connection:
    # Without locks, which the state directory's own lock makes needless. Together with the
    # exclusive mode it keeps the index of the write-ahead log in memory: an index in a file would
    # need room on a disk that may be full.
    address = f"file:{quote(str(path))}?mode=ro&vfs=unix-none"
    connection = sqlite3.connect(address, uri=True, isolation_level=None)
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    return connection


def _check_pages(connection: sqlite3.Connection) -> None:
    problems = "; ".join(str(row[0]) for row in connection.execute("PRAGMA integrity_check(3)"))
    if problems == "ok":
        return
    # A page that cannot be read is among the problems, with SQLite's code for the failure.
    for code in map(int, _ERROR_CODE.findall(problems)):
        error = sqlite3.OperationalError(problems)
        error.sqlite_errorcode = code
        if cause_of(error) is not Cause.DAMAGED:
            raise error
    raise ValueError(problems)


def _last_commit(connection: sqlite3.Connection) -> int:
    if not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        return 0
    check_format(connection)
    _check_pages(connection)
    row = connection.execute("SELECT record, payload, crc FROM state").fetchone()
    if row is None:
        return 0
    state = records.decode(STATE_KEY, *row).record
    base = 0
    for path, *columns in connection.execute(
        "SELECT path, record, payload, crc FROM base ORDER BY path"
    ):
        records.decode(base_key(path), *columns)
        base = next_base_checksum(base, columns[-1])
    if base != state["base"]:
        raise ValueError("the base is not the one that was written")
    last = int(state["horizon"])
    history = None
    for revision, *columns in connection.execute(
        "SELECT revision, record, payload, crc FROM history ORDER BY revision"
    ):
        if history is not None and revision != history + 1:
            raise ValueError(f"expected the record of commit {history + 1}, found {revision}")
        records.decode(history_key(revision), *columns)
        history = revision
    if history not in (None, last):
        raise ValueError(f"expected records up to commit {last}, found those up to {history}")
    for revision, *columns in connection.execute(
        "SELECT revision, record, payload, crc FROM commits ORDER BY revision"
    ):
        if revision != last + 1:
            raise ValueError(f"expected commit {last + 1}, found {revision}")
        records.decode(commit_key(revision), *columns)
        last = revision
    for revision, time, *columns in connection.execute(
        "SELECT revision, time, record, payload, crc FROM answers"
    ):
        records.decode(answer_key(revision, time), *columns)
    return last
