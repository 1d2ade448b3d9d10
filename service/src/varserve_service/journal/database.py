"""The SQLite file of one journal: its tables, its transactions, and what its failures mean.

One connection for everything, guarded by a lock. Nothing else may open the file meanwhile.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from varserve_service.core.errors import JournalError, StateStoreFull

from .disk import end_process, rename, sync_folder

# Every row has the CRC32C of all that is in it: SQLite has checksums for its write-ahead log alone.
_SCHEMA = """
    CREATE TABLE state (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        record BLOB NOT NULL, payload BLOB NOT NULL, crc INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE base (
        path TEXT PRIMARY KEY,
        record BLOB NOT NULL, payload BLOB NOT NULL, crc INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE commits (
        revision INTEGER PRIMARY KEY,
        record BLOB NOT NULL, payload BLOB NOT NULL, crc INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE answers (
        revision INTEGER PRIMARY KEY, time INTEGER NOT NULL,
        record BLOB NOT NULL, payload BLOB NOT NULL, crc INTEGER NOT NULL
    ) STRICT;
"""


def _begin(connection: sqlite3.Connection, path: Path) -> None:
    # Exclusive: the index of the log is then kept in memory, not in a mapped file that a full disk
    # could take away.
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        # SQLite goes on in another mode when a sync fails just here, and tells nobody.
        raise JournalError(f"{path}: the disk failed when the write-ahead log was begun")
    connection.execute("PRAGMA synchronous = FULL")


def _create(path: Path) -> None:
    """Make an empty log, whole or not at all: what a crash leaves of it has another name.

    Raises JournalError, OSError.
    """
    half = path.with_name(f"{path.name}.new")
    for left in path.parent.glob(f"{half.name}*"):
        left.unlink()
    try:
        with closing(sqlite3.connect(half, isolation_level=None)) as connection:
            _begin(connection, half)
            connection.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if busy:
                raise sqlite3.OperationalError("the write-ahead log is not moved into the file")
    except sqlite3.Error as error:
        raise JournalError(f"{path} cannot be made: {error}") from error
    rename(half, path)


class Database:
    """An open SQLite file in WAL mode, synced at every commit."""

    def __init__(self, path: Path) -> None:
        """Raises JournalError when the file is damaged."""
        self.path = path
        self._lock = threading.Lock()
        if not path.exists():
            _create(path)
        try:
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise self.damaged(error) from error
        try:
            self._set_up()
        except BaseException as error:
            self._connection.close()
            if isinstance(error, sqlite3.Error):
                raise self.damaged(error) from error
            raise

    def _set_up(self) -> None:
        _begin(self._connection, self.path)
        # Checkpoints are asked for where their failures are seen.
        self._connection.execute("PRAGMA wal_autocheckpoint = 0")
        # SQLite does the same for the log that it began, and does not mind when it fails.
        sync_folder(self.path.parent)

    def damaged(self, error: object) -> JournalError:
        """The error for what cannot be read from this file."""
        return JournalError(f"{self.path} is damaged: {error}")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Read while nobody writes. Raises JournalError."""
        with self._lock:
            try:
                yield self._connection
            except sqlite3.Error as error:
                raise self.damaged(error) from error

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction, durable at the end of the block.

        Raises StateStoreFull with nothing written. Any other failure of the disk ends the process.
        """
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException as error:
                self._take_back(error)
                raise

    def checkpoint(self) -> None:
        """Move the write-ahead log into the file, and begin it anew. Raises StateStoreFull."""
        with self._lock:
            try:
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            except sqlite3.Error as error:
                self._judge(error)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def _take_back(self, error: BaseException) -> None:
        if isinstance(error, sqlite3.Error):
            self._judge(error)
        elif self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def _judge(self, error: sqlite3.Error) -> None:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_FULL:
            end_process(str(self.path), error)
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        raise StateStoreFull(
            "the disk that keeps the state is full; nothing was changed; retry when it has room"
        ) from error
