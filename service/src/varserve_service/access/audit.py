"""The audit log: a line of JSON for everything done, tried or denied, on disk before the answer.

Owns the file, and what happens when it cannot be written. The caller decides what a line says.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

log = structlog.get_logger("varserve.audit")

_MODE = 0o640


class AuditError(OSError):
    """The log cannot be written now."""


@dataclass(slots=True, eq=False)
class _Line:
    data: bytes
    kept: bool
    error: OSError | None = None
    done: bool = False


class AuditLog:
    """Appends lines to a file. Any thread may write; lines that wait together share a sync.

    A line about something that was done is never dropped: if it cannot be written it is kept, and
    written before any other line. While such lines exist, `check` refuses. The file may be moved
    away: the next line goes into a new file.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, to append. Raises OSError."""
        self._path = path
        self._queue: deque[_Line] = deque()
        self._owed: list[bytes] = []
        self._queueing = threading.Lock()
        self._turn = threading.Lock()
        self._torn = False
        self._file = self._open()

    @property
    def owed(self) -> int:
        """Lines about things that were done and could not be written yet."""
        return len(self._owed)

    def check(self) -> None:
        """Raises AuditError while owed lines still cannot be written."""
        if self._owed:
            with self._turn:
                self._pay()

    def write(self, record: Mapping[str, Any], *, done: bool) -> None:
        """Write one line, and wait until it is on disk.

        `done`: the line is about something that cannot be undone, and must not be lost.

        Raises AuditError.
        """
        # ASCII only: no control character, line separator or lone surrogate gets through.
        text = json.dumps(record, ensure_ascii=True, separators=(",", ":"), default=str)
        line = _Line(text.encode() + b"\n", done)
        with self._queueing:
            self._queue.append(line)
        with self._turn:
            if not line.done:
                self._write_all()
        if line.error is not None:
            raise AuditError(line.error.errno, f"the audit log cannot be written: {line.error}")

    def _write_all(self) -> None:
        with self._queueing:
            lines = list(self._queue)
            self._queue.clear()
        error: OSError | None = None
        try:
            self._pay()
            self._append(b"".join(line.data for line in lines))
        except OSError as failure:
            error = failure
            self._owed += [line.data for line in lines if line.kept]
            log.error("audit log not written", path=str(self._path), error=str(failure))
        for line in lines:
            line.error, line.done = error, True

    def _pay(self) -> None:
        """Write the owed lines. The caller holds the turn. Raises AuditError."""
        if not self._owed:
            return
        try:
            self._append(b"".join(self._owed))
        except OSError as error:
            raise AuditError(error.errno, f"the audit log cannot be written: {error}") from None
        log.warning("audit log written again", path=str(self._path), lines=len(self._owed))
        self._owed.clear()

    def _append(self, data: bytes) -> None:
        self._follow()
        if self._torn:
            data = b"\n" + data
        rest = memoryview(data)
        while rest:
            try:
                written = os.write(self._file, rest)
            except OSError:
                # A partial line stays: nothing is ever removed from this file.
                self._torn = self._torn or len(rest) < len(data)
                raise
            rest = rest[written:]
        self._torn = False
        try:
            os.fdatasync(self._file)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a pipe has nothing to sync
                raise

    def _follow(self) -> None:
        """Open the file again if its name now means another file."""
        try:
            there = self._path.stat()
            mine = os.fstat(self._file)
            if (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino):
                return
        except FileNotFoundError:
            pass
        opened = self._open()
        os.close(self._file)
        self._file, self._torn = opened, False

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, _MODE)
