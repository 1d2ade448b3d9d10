"""Files that are durable or absent, and what happens when the disk fails.

A sync that failed once says nothing when it is repeated: the kernel may have dropped the pages. So
the first failed sync ends the process, and the next start goes by what is on disk. Where only room
was missing, what was not synced is removed, and its commit refused.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
from pathlib import Path
from typing import NoReturn

import structlog
from crc32c import crc32c

from varserve_service.core.errors import JournalError

log = structlog.get_logger("varserve.journal")

EXIT_DISK_FAILED = 3
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


def end_process(what: str, error: object, why: str = "the state directory failed") -> NoReturn:
    """End the process at once, so that nothing more is acknowledged."""
    log.critical(f"{why}; the process ends", what=what, error=str(error))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_DISK_FAILED)


def exists(path: Path) -> bool:
    """Whether a file exists. Raises OSError when that cannot be found out."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    return True


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_whole(path: Path, data: bytes) -> None:
    """Make a file, durable and complete, or no file of this name. Raises OSError."""
    unfinished = path.with_name(f"{path.name}.new")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    rename(unfinished, path)


def rename(path: Path, to: Path) -> None:
    """Rename a file within its folder, durably. Raises OSError."""
    path.rename(to)
    sync_folder(to.parent)


def make_folder(path: Path) -> None:
    """Make a folder and its parents, durably. Raises OSError."""
    if exists(path) and path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


class Head:
    """The last acknowledged revision, in a file beside the log that it is checked against.

    SQLite takes a damaged write-ahead log for one that ends earlier. This number tells the two
    apart. It is written after each commit and never synced: it survives the process, and a power
    cut except for the last seconds before it.
    """

    _FORMAT = struct.Struct("<QI")

    def __init__(self, path: Path, *, new: bool) -> None:
        """`new`: no log exists yet. Raises JournalError when the file is missing, OSError."""
        self._path = path
        if not exists(path):
            if not new:
                raise JournalError(f"{path} is damaged: the file is missing")
            _write_whole(path, self._packed(0))
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def read(self) -> int:
        """The revision. Raises JournalError when the file is damaged, OSError."""
        data = os.pread(self._descriptor, self._FORMAT.size + 1, 0)
        if len(data) == self._FORMAT.size:
            revision, checksum = self._FORMAT.unpack(data)
            if checksum == _checksum(revision):
                return int(revision)
        raise JournalError(f"{self._path} is damaged: its checksum is wrong")

    def write(self, revision: int) -> None:
        """Set the revision. Raises OSError."""
        os.pwrite(self._descriptor, self._packed(revision), 0)

    def _packed(self, revision: int) -> bytes:
        return self._FORMAT.pack(revision, _checksum(revision))

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def _checksum(revision: int) -> int:
    return int(crc32c(b"varserve head" + revision.to_bytes(8, "little")))
