"""What a replica does for all beside commits: it compacts the log, and sweeps blobs."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Sequence

import psycopg

from varserve_service.core.errors import JournalError
from varserve_service.journal.disk import log
from varserve_service.journal.options import JournalOptions

from . import blobs, compaction
from .connection import Connector, cut_after
from .head import Key
from .schema import Connection

_COMPACT_SECONDS = 60.0
_BYTES_PER_SECOND = 10e6
_LOOK_SECONDS = 30.0


class Housekeeper:
    """A thread, with a connection while it has something to do."""

    def __init__(self, connector: Connector, key: Key, options: JournalOptions) -> None:
        self._connector = connector
        self._key = key
        self._options = options
        self._closed = threading.Event()
        self._is_due = threading.Event()
        self._left: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="varserve-house", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def forget(self, names: Sequence[str]) -> None:
        """Remove blobs that were staged for nothing, soon."""
        for name in names:
            self._left.put(name)
        self._is_due.set()

    def compact(self) -> None:
        """Bring the log within its bounds. Raises JournalError, psycopg.Error."""
        seconds = _COMPACT_SECONDS + self._options.commit_bytes / _BYTES_PER_SECOND
        with self._connector.connect() as connection:

            def fold() -> int:
                with cut_after(connection, seconds):
                    return compaction.compact(connection, self._key, self._options)

            while fold():
                pass

    def sweep(self, seconds: float) -> int:
        """Remove blobs that were staged so long ago and that no commit keeps; how many."""
        with self._connector.connect() as connection, cut_after(connection, _COMPACT_SECONDS):
            return blobs.sweep(connection, self._key, seconds)

    def _remove_left(self, connection: Connection) -> None:
        names = []
        while not self._left.empty():
            names.append(self._left.get())
        if names:
            with cut_after(connection, _COMPACT_SECONDS):
                blobs.sweep(connection, self._key, 0, names)

    def _run(self) -> None:
        """Compact the log now and then; remove what was left as soon as that is asked for."""
        look_at = time.monotonic() + _LOOK_SECONDS * random.random()  # not all at the same time
        while not self._closed.is_set():
            self._is_due.wait(max(0.0, look_at - time.monotonic()))
            if self._closed.is_set():
                return
            self._is_due.clear()
            try:
                with self._connector.connect() as connection:
                    self._remove_left(connection)
                    if time.monotonic() >= look_at:
                        look_at = time.monotonic() + _LOOK_SECONDS
                        self._look(connection)
            except (psycopg.Error, JournalError) as error:
                look_at = max(look_at, time.monotonic() + 1)
                log.warning(
                    "housekeeping failed; tried again later",
                    database=self._connector.name,
                    error=str(error),
                )

    def _look(self, connection: Connection) -> None:
        seconds = self._options.blob_seconds
        with cut_after(connection, _COMPACT_SECONDS):
            has_orphans = blobs.has_orphans(connection, self._key, seconds)
            is_due = compaction.is_due(connection, self._key, self._options)
        if has_orphans:
            self.sweep(seconds)
        if is_due:
            self.compact()

    def close(self) -> None:
        """End the thread, soon."""
        self._closed.set()
        self._is_due.set()
