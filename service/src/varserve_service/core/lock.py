"""A readers-writer lock with deadlines that prefers writers.

Knows nothing but the standard library.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import Reason, StateError


class ReadersWriterLock:
    """Many hold it shared, or one holds it exclusive. A waiting writer keeps new readers out.

    Without that preference a steady stream of readers would keep a writer waiting for ever. Not
    reentrant. Deadlines are in seconds of `time.monotonic`; None waits for ever.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._readers = 0
        self._writing = False
        self._writers_waiting = 0

    @contextmanager
    def shared(self, deadline: float | None = None) -> Iterator[None]:
        """Hold the lock with other readers. Raises StateError DEADLINE_EXCEEDED."""
        with self._changed:
            while self._writing or self._writers_waiting:
                self._wait(deadline)
            self._readers += 1
        try:
            yield
        finally:
            self._leave_shared()

    def _leave_shared(self) -> None:
        with self._changed:
            self._readers -= 1
            if not self._readers and self._writers_waiting:
                self._changed.notify_all()

    @contextmanager
    def exclusive(self, deadline: float | None = None) -> Iterator[None]:
        """Hold the lock alone. Raises StateError DEADLINE_EXCEEDED."""
        with self._changed:
            self._writers_waiting += 1
            try:
                while self._writing or self._readers:
                    self._wait(deadline)
            finally:
                self._writers_waiting -= 1
                # Readers that waited for this writer must look again, also when it gave up.
                self._changed.notify_all()
            self._writing = True
        try:
            yield
        finally:
            with self._changed:
                self._writing = False
                self._changed.notify_all()

    def _wait(self, deadline: float | None) -> None:
        if deadline is None:
            self._changed.wait()
            return
        remaining = deadline - time.monotonic()
        if remaining <= 0 or not self._changed.wait(remaining):
            raise StateError(
                Reason.DEADLINE_EXCEEDED,
                "the deadline passed while the model was busy; nothing was changed",
            )
