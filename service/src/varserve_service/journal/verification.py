"""Whether a log is what was written, found out without changing a byte of it.

A damaged log that is opened for writing may be repaired away: SQLite drops what does not follow the
last good frame of its write-ahead log. So it is read through first, read-only.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from varserve_service.core.errors import JournalError

from . import records
from .rows import STATE_KEY, answer_key, base_key, commit_key, next_base_checksum


def verify(path: Path, acknowledged: int) -> None:
    """Read a whole log. `acknowledged` is the last revision that somebody was told of.

    Raises JournalError when anything in it is not what was written.
    """
    if not path.exists():
        last = 0
    else:
        try:
            with closing(
                sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, isolation_level=None)
            ) as connection:
                last = _last_commit(connection)
        except (sqlite3.Error, ValueError, KeyError, TypeError) as error:
            raise JournalError(f"{path} is damaged: {error}") from error
    if acknowledged > last:
        raise JournalError(
            f"{path} or the write-ahead log beside it is damaged: expected the commits up to "
            f"{acknowledged}, which were acknowledged, found those up to {last}"
        )


def _last_commit(connection: sqlite3.Connection) -> int:
    problems = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(3)")]
    if problems != ["ok"]:
        raise ValueError("; ".join(problems))
    if not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        return 0
    found = connection.execute("SELECT record, payload, crc FROM state").fetchone()
    if found is None:
        return 0
    state = records.decode(STATE_KEY, *found).record
    base = 0
    for path, *columns in connection.execute(
        "SELECT path, record, payload, crc FROM base ORDER BY path"
    ):
        records.decode(base_key(path), *columns)
        base = next_base_checksum(base, columns[-1])
    if base != state["base"]:
        raise ValueError("the base is not the one that was written")
    last = int(state["horizon"])
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
