"""The SQLite file of one journal: its transactions, and what their failures mean.

One connection serves everything, guarded by a lock. No other program may open the file meanwhile.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from varserve_service.core.errors import JournalError, StateStoreFull

from .disk import end_process, exists, rename, sync_folder
from .failures import Cause, StateUnavailable, cause_at, is_full, told_apart, unwritable
from .schema import create_tables

_HARMLESS = {Cause.READ_ONLY, Cause.NO_ACCESS, Cause.BUSY, Cause.NO_MEMORY}
"""Causes for which a transaction does not begin or is rolled back, with the file as it was."""


def _set_modes(connection: sqlite3.Connection, path: Path) -> None:
    # Exclusive: SQLite then keeps the index of the write-ahead log in memory, not in a mapped file
    # that a full disk could take away.
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        # SQLite continues in another mode when a sync fails here, without an error.
        cause = Cause.FULL if is_full(path.parent) else Cause.DISK_FAILED
        raise StateUnavailable(
            f"{path} cannot be used: the write-ahead log could not be created: {cause.value}, then "
            "start again"
        )
    connection.execute("PRAGMA synchronous = FULL")


def _create(path: Path) -> None:
    """Make an empty log, complete or not at all: a crash leaves a file of another name.

    Raises sqlite3.Error, OSError, StateUnavailable.
    """
    unfinished = path.with_name(f"{path.name}.new")
    for left in path.parent.glob(f"{unfinished.name}*"):
        left.unlink()
    with closing(sqlite3.connect(unfinished, isolation_level=None)) as connection:
        _set_modes(connection, unfinished)
        create_tables(connection)
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise StateUnavailable(f"{path}: the write-ahead log cannot be moved into the file")
    rename(unfinished, path)


class Database:
    """An open SQLite file in WAL mode, synced at every commit."""

    def __init__(self, path: Path) -> None:
        """Raises JournalError when the file is damaged, StateUnavailable when it cannot be used."""
        self.path = path
        self._lock = threading.Lock()
        with told_apart(path):
            if not exists(path):
                _create(path)
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            try:
                _set_modes(self._connection, path)
                # Checkpoints run where their failures are seen.
                self._connection.execute("PRAGMA wal_autocheckpoint = 0")
                # SQLite syncs the folder of a log that it creates, and ignores a failure.
                sync_folder(path.parent)
                self._wal = self.wal_path.open("r+b", buffering=0)
            except BaseException:
                self._connection.close()
                raise

    @property
    def wal_path(self) -> Path:
        """The write-ahead log, which exists while the database is open."""
        return self.path.with_name(f"{self.path.name}-wal")

    def damaged(self, error: object) -> JournalError:
        """The error for a row that is not what was written."""
        return JournalError(f"{self.path} is damaged: {error}")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Read, outside a transaction, what was verified before. Raises StateUnavailable."""
        with self._lock:
            try:
                yield self._connection
            except sqlite3.Error as error:
                raise StateUnavailable(
                    f"{self.path} cannot be used: {error}, though it could be read a moment ago: "
                    f"{Cause.DISK_FAILED.value}, then start again"
                ) from error

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction, durable at the end of the block.

        Raises StateStoreFull or StateStoreUnavailable with nothing written. A failure of the disk
        ends the process. What the block raises rolls the transaction back.
        """
        with self._lock:
            end = self._wal_bytes
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                self._refuse(error, end)
            except BaseException:
                self._roll_back()
                raise

    def checkpoint(self) -> None:
        """Move the write-ahead log into the file, and empty it. Raises as `writing`."""
        with self._lock:
            try:
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            except sqlite3.Error as error:
                # Whatever was moved is in the log as well, which keeps it for the next time.
                self._refuse(error, end=None)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._wal.close()
            self._connection.close()

    @property
    def _wal_bytes(self) -> int:
        return os.fstat(self._wal.fileno()).st_size

    def _refuse(self, error: sqlite3.Error, end: int | None) -> None:
        """`end`: where a transaction began in the write-ahead log."""
        cause = cause_at(self.path, error)
        if cause is Cause.FULL:
            self._roll_back()
            if end is not None and error.sqlite_errorcode == sqlite3.SQLITE_IOERR_FSYNC:
                self._take_out(end, error)
            raise StateStoreFull(
                "the disk that keeps the state is full; nothing was changed; retry when it has room"
            ) from error
        if cause in _HARMLESS:
            self._roll_back()
            raise unwritable(self.path, error) from error
        end_process(str(self.path), error)

    def _take_out(self, end: int, error: sqlite3.Error) -> None:
        """Cut a transaction that was written, and not synced, off the write-ahead log.

        The next start would take it for one that was committed. To sync it once more says nothing;
        what was there before it has been synced.
        """
        if self._wal_bytes <= end:  # it lies over what an earlier one left
            end_process(str(self.path), error)
        try:
            self._wal.truncate(end)
            os.fsync(self._wal.fileno())
        except OSError as failed:
            end_process(str(self.path), failed)

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                end_process(str(self.path), error)
