"""What a failure of SQLite or of the file system says about a state: one table of causes.

A state is damaged when its bytes are wrong or missing. No other cause says anything about the
bytes: the disk, its permissions or another program are in the way, and the state is as it was.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

from varserve_service.core.errors import JournalError, StateStoreUnavailable

from .disk import NO_ROOM, log


class Cause(Enum):
    """Why something failed; the value says what an operator can do."""

    FULL = "the disk is full; make room"
    READ_ONLY = "the file system is read-only; mount it for writing"
    NO_ACCESS = "it cannot be opened; check its permissions and the limit of open files"
    BUSY = "another program has it open; close that program"
    NO_MEMORY = "there is not enough memory"
    DISK_FAILED = "the disk reported an error; check the disk and the system's log"
    DAMAGED = "its content is not what was written"


_SQLITE = {
    sqlite3.SQLITE_FULL: Cause.FULL,
    sqlite3.SQLITE_READONLY: Cause.READ_ONLY,
    sqlite3.SQLITE_CANTOPEN: Cause.NO_ACCESS,
    sqlite3.SQLITE_PERM: Cause.NO_ACCESS,
    sqlite3.SQLITE_AUTH: Cause.NO_ACCESS,
    sqlite3.SQLITE_BUSY: Cause.BUSY,
    sqlite3.SQLITE_LOCKED: Cause.BUSY,
    sqlite3.SQLITE_PROTOCOL: Cause.BUSY,
    sqlite3.SQLITE_NOMEM: Cause.NO_MEMORY,
    sqlite3.SQLITE_IOERR: Cause.DISK_FAILED,
    sqlite3.SQLITE_NOLFS: Cause.DISK_FAILED,
}
_SYSTEM = {
    errno.ENOSPC: Cause.FULL,
    errno.EDQUOT: Cause.FULL,
    errno.EROFS: Cause.READ_ONLY,
    errno.EACCES: Cause.NO_ACCESS,
    errno.EPERM: Cause.NO_ACCESS,
    errno.EMFILE: Cause.NO_ACCESS,
    errno.ENFILE: Cause.NO_ACCESS,
    errno.ELOOP: Cause.NO_ACCESS,
    errno.ENOTDIR: Cause.NO_ACCESS,
    errno.EISDIR: Cause.NO_ACCESS,
    errno.EEXIST: Cause.NO_ACCESS,
    errno.ENAMETOOLONG: Cause.NO_ACCESS,
    errno.EBUSY: Cause.BUSY,
    errno.EAGAIN: Cause.BUSY,
    errno.ETXTBSY: Cause.BUSY,
    errno.ENOMEM: Cause.NO_MEMORY,
    errno.ENOENT: Cause.DAMAGED,
}


# More than the frames of SQLite's write-ahead log, of which the last may have found no room.
_PROBE_BYTES = 2**16


class StateUnavailable(JournalError):
    """A state cannot be opened or read now. Nothing says that it is damaged."""


def cause_of(error: BaseException) -> Cause:
    """The cause of a failure to open, read or write a file of a state."""
    match error:
        case sqlite3.Error():
            code = getattr(error, "sqlite_errorcode", None)
            if code == sqlite3.SQLITE_IOERR_NOMEM:
                return Cause.NO_MEMORY
            return Cause.DAMAGED if code is None else _SQLITE.get(code & 0xFF, Cause.DAMAGED)
        case OSError():
            return _SYSTEM.get(error.errno or 0, Cause.DISK_FAILED)
        case MemoryError():
            return Cause.NO_MEMORY
    return Cause.DAMAGED


def cause_at(path: Path, error: BaseException) -> Cause:
    """The same, where the path's folder says more than the failure does.

    SQLite knows ENOSPC at a write. A write beyond a quota, and a sync that finds no room for what
    was written, it calls an error of the disk.
    """
    code = getattr(error, "sqlite_errorcode", None)
    if code in (sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_FSYNC) and is_full(path.parent):
        return Cause.FULL
    return cause_of(error)


def refusal(path: Path, error: BaseException) -> JournalError:
    """The error for an operator when a file cannot be used; damage only where it is damage."""
    cause = cause_at(path, error)
    if cause is Cause.DAMAGED:
        return JournalError(f"{path} is damaged: {error}")
    if cause is Cause.NO_ACCESS and isinstance(error, sqlite3.Error):
        error = _open_error(path) or error
    return StateUnavailable(f"{path} cannot be used: {error}: {cause.value}, then start again")


def unwritable(path: Path, error: object) -> StateStoreUnavailable:
    """The error of a write that cannot be kept; the log has what the caller may not read."""
    log.error("a write was refused: its state cannot be kept", path=str(path), error=str(error))
    return StateStoreUnavailable(
        "the state cannot be written where it is kept; nothing was changed; the service's log has "
        "the reason"
    )


@contextmanager
def told_apart(path: Path) -> Iterator[None]:
    """Raise what fails in the block as JournalError or StateUnavailable, with this path."""
    try:
        yield
    except (sqlite3.Error, OSError, MemoryError) as error:
        raise refusal(path, error) from error


def is_full(folder: Path) -> bool:
    """Whether a file of a few pages is refused here, for want of room alone."""
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            os.pwrite(file.fileno(), bytes(_PROBE_BYTES), 0)
            os.fdatasync(file.fileno())
    except OSError as error:
        return error.errno in NO_ROOM
    return False


def _open_error(path: Path) -> OSError | None:
    """Why a file or its write-ahead log cannot be opened, which SQLite does not say."""
    for name in (path, path.with_name(f"{path.name}-wal")):
        try:
            os.close(os.open(name, os.O_RDWR | os.O_CLOEXEC))
        except FileNotFoundError:
            continue
        except OSError as error:
            return error
    return None
