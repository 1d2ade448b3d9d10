"""A readers-writer lock with deadlines that prefers writers and starves neither side.

Knows the observer's port and the standard library.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.ports.observer import UNOBSERVED, Observer


class ReadersWriterLock:
    """Many threads hold it shared, or one holds it exclusively.

    A waiting writer blocks new readers; otherwise a steady stream of readers would starve it. All
    readers that wait during a write have their turn before the next writer; otherwise a steady
    stream of writers would starve them. So a reader waits for at most one write. Not reentrant.
    Deadlines are in seconds of `time.monotonic`; None waits for ever.
    """

    def __init__(self, observer: Observer = UNOBSERVED) -> None:
        self._observer = observer
        # Taken by itself: the condition's own methods around it would cost as much again.
        self._mutex = threading.Lock()
        self._changed = threading.Condition(self._mutex)
        self._readers = 0
        self._readers_waiting = 0
        self._readers_admitted = 0  # waited through a write, and go before the next one
        self._writing = False
        self._writer = 0  # the thread that writes, if one does
        self._writers_waiting = 0
        self._writes = 0
        # Of the thread that writes.
        self._held_since = self._waited = 0.0
        self._closed: Callable[[], RequestError] | None = None

    def shared(self, deadline: float | None = None) -> AbstractContextManager[None]:
        """Hold the lock with other readers. Entering raises RequestError DEADLINE_EXCEEDED."""
        return _Shared(self, deadline)

    def shared_or_mine(self) -> AbstractContextManager[None]:
        """Hold the lock with other readers, or just as it is where this thread holds it alone."""
        mine = self._writing and self._writer == threading.get_ident()
        return nullcontext() if mine else _Shared(self, None)

    def acquire_shared_at_once(self) -> bool:
        """Take the lock shared where that needs no waiting; give it back by `release_shared`."""
        with self._mutex:
            if self._writing or self._writers_waiting or self._closed:
                return False
            self._readers += 1
            return True

    def acquire_shared(self, deadline: float | None) -> None:
        """Take the lock shared. Raises RequestError DEADLINE_EXCEEDED."""
        with self._mutex:
            began = None
            if self._writing or self._writers_waiting:
                began = time.monotonic()
                try:
                    self._wait_for_a_write(deadline)
                except RequestError:
                    self._observer.lock_waited(time.monotonic() - began, exclusive=False)
                    raise
            if self._closed:
                raise self._closed()
            self._readers += 1
        waited = 0.0 if began is None else time.monotonic() - began
        self._observer.lock_waited(waited, exclusive=False)

    def _wait_for_a_write(self, deadline: float | None) -> None:
        writes = self._writes
        self._readers_waiting += 1
        try:
            while self._writes == writes and (self._writing or self._writers_waiting):
                self._wait(deadline)
        finally:
            if self._writes == writes:
                self._readers_waiting -= 1
            else:
                self._readers_admitted -= 1
                self._changed.notify_all()

    def release_shared(self) -> None:
        """Give back what was taken shared."""
        with self._mutex:
            self._readers -= 1
            if not self._readers and self._writers_waiting:
                self._changed.notify_all()

    def exclusive(self, deadline: float | None = None) -> AbstractContextManager[None]:
        """Hold the lock alone. Entering raises RequestError DEADLINE_EXCEEDED."""
        return _Exclusive(self, deadline)

    def acquire_exclusive(self, deadline: float | None) -> None:
        """Take the lock alone. Raises RequestError DEADLINE_EXCEEDED."""
        began = time.monotonic()
        with self._mutex:
            self._writers_waiting += 1
            try:
                while self._writing or self._readers or self._readers_admitted:
                    self._wait(deadline)
                if self._closed:
                    raise self._closed()
            except RequestError:
                # Readers no longer have to wait for this writer.
                self._changed.notify_all()
                self._observer.lock_waited(time.monotonic() - began, exclusive=True)
                raise
            finally:
                self._writers_waiting -= 1
            self._writing, self._writer = True, threading.get_ident()
        self._held_since = time.monotonic()
        self._waited = self._held_since - began

    def release_exclusive(self) -> None:
        """Give back what was taken alone."""
        held_since, waited = self._held_since, self._waited
        self._leave_exclusive()
        # Only now, so that no other thread waits for the observer.
        seconds = time.monotonic() - held_since
        self._observer.lock_waited(waited, exclusive=True, ago=seconds)
        self._observer.lock_held(seconds)

    def close(self, why: Callable[[], RequestError]) -> None:
        """Refuse the lock from now on: every caller, waiting ones included, gets the error `why`.

        The caller holds the lock exclusively.
        """
        self._closed = why

    def _leave_exclusive(self) -> None:
        with self._mutex:
            self._writing = False
            self._writes += 1
            self._readers_admitted += self._readers_waiting
            self._readers_waiting = 0
            self._changed.notify_all()

    def _wait(self, deadline: float | None) -> None:
        if deadline is None:
            self._changed.wait()
            return
        remaining = deadline - time.monotonic()
        if remaining <= 0 or not self._changed.wait(min(remaining, threading.TIMEOUT_MAX)):
            raise RequestError(
                Reason.DEADLINE_EXCEEDED,
                "the deadline passed while the model was busy; nothing was changed",
            )


class _Shared(AbstractContextManager[None]):
    # A generator would cost more than the lock.
    __slots__ = ("_deadline", "_lock")

    def __init__(self, lock: ReadersWriterLock, deadline: float | None) -> None:
        self._lock = lock
        self._deadline = deadline

    def __enter__(self) -> None:
        self._lock.acquire_shared(self._deadline)

    def __exit__(self, *_: object) -> None:
        self._lock.release_shared()


class _Exclusive(AbstractContextManager[None]):
    __slots__ = ("_deadline", "_lock")

    def __init__(self, lock: ReadersWriterLock, deadline: float | None) -> None:
        self._lock = lock
        self._deadline = deadline

    def __enter__(self) -> None:
        self._lock.acquire_exclusive(self._deadline)

    def __exit__(self, *_: object) -> None:
        self._lock.release_exclusive()
