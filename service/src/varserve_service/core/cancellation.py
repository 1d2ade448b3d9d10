"""Ending abandoned work: its caller has gone, or its deadline has passed.

Knows nothing of the work; the code that does it provides a function that ends it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from .threads import ModelThread, started

_LOOK_SECONDS = 0.05
"""Deadlines are looked at so often, while there are any."""


class Cancellation:
    """Whether the caller of a piece of work has gone. May be used from any thread."""

    __slots__ = ("_cancelled", "_ends")

    def __init__(self) -> None:
        # Without a lock, since every call has one of these: each step is one of the interpreter.
        self._ends: list[Callable[[], None]] = []
        self._cancelled = False

    def cancel(self) -> None:
        """The caller has gone: end what is done for it. Does nothing the second time."""
        self._cancelled = True
        # Whoever takes one out calls it: `add` may be here on another thread.
        while self._ends:
            try:
                end = self._ends.pop()
            except IndexError:
                return
            end()

    def add(self, end: Callable[[], None]) -> None:
        """Have `end` called when the caller goes; at once when it has gone. It must not wait."""
        self._ends.append(end)
        if self._cancelled:
            self.cancel()

    def remove(self, end: Callable[[], None]) -> None:
        """The work has ended by itself."""
        with suppress(ValueError):
            self._ends.remove(end)


class Deadlines:
    """Calls what was added when its deadline passes, on one thread, soon afterwards.

    To add and to remove costs microseconds: the thread looks now and then, and is not woken up.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._ends: dict[Callable[[], None], float] = {}
        self._thread: ModelThread | None = None

    def add(self, end: Callable[[], None], deadline: float) -> None:
        """Have `end` called, once, after a time of `time.monotonic`. It must not wait."""
        with self._changed:
            self._ends[end] = deadline
            if len(self._ends) == 1 or self._thread is None:
                self._have_looked()

    def remove(self, end: Callable[[], None]) -> None:
        """Do not call it. It may be being called just now."""
        with self._changed:
            self._ends.pop(end, None)

    def _have_looked(self) -> None:
        if self._thread is not None:
            self._changed.notify()
            return
        thread = ModelThread(self._look, "varserve-deadlines")
        # Without a thread, deadlines are not kept during the work. The next `add` tries again.
        self._thread = thread if started(thread) else None

    def _look(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ends)
                now = time.monotonic()
                due = [end for end, deadline in self._ends.items() if deadline <= now]
                for end in due:
                    del self._ends[end]
            for end in due:
                end()
            time.sleep(_LOOK_SECONDS)


DEADLINES = Deadlines()
