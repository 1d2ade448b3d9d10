"""What takes long gives way to small calls, which would wait for it at every step.

While small calls come, whoever works on gigabytes rests after each part for about as long as the
part took, and uses one processor. What Python alone computes for milliseconds is done by one thread
at a time. Owns how it is known that small calls come, how long the rests are, and whose turn it is.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from varserve_service.access.policy import Verb

from .call import RpcCall
from .observers import CallObserver

_RECENT_SECONDS = 0.02
"""Small calls come as long as one has begun so recently."""
_MOST_SECONDS = 0.004
"""A rest is at most so long: of what a part took, its thread had to wait for most."""
_PATIENCE_SECONDS = 0.5
"""Whoever has waited so long for its turn to compute does not wait any longer."""


class SmallCalls(CallObserver):
    """Knows whether there are calls whose requests and answers are one message each.

    Those that may take long are none of them.
    """

    def __init__(self) -> None:
        self._began = -math.inf

    def started(self, call: RpcCall) -> None:
        if call.method.kind == "unary" and call.method.verb is not Verb.SUMMARIZE:
            self._began = time.monotonic()

    @property
    def come(self) -> bool:
        """Whether one has begun lately. On any thread."""
        return time.monotonic() - self._began < _RECENT_SECONDS


class Pace:
    """How one transfer, or one summary, gives way."""

    def __init__(self, small_calls: SmallCalls) -> None:
        self._small_calls = small_calls
        self._resumed = time.monotonic()

    async def give_way(self) -> None:
        """Rest after a part, on the event loop."""
        seconds = self._rest()
        if seconds:
            await asyncio.sleep(seconds)
        self._resumed = time.monotonic()

    def give_way_on_thread(self) -> bool:
        """Rest after a part, on a thread. Whether there was a reason to."""
        seconds = self._rest()
        if seconds:
            time.sleep(seconds)
        self._resumed = time.monotonic()
        return seconds > 0

    def _rest(self) -> float:
        if not self._small_calls.come:
            return 0.0
        return min(time.monotonic() - self._resumed, _MOST_SECONDS)


class Computing:
    """Work of milliseconds that is all Python's: one thread at a time does it.

    Whoever needs the interpreter, the event loop above all, waits for a switch at every step, and
    with eight threads that compute for eight of them. Together they are no faster than one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the others; not for long, since what one of them calls may wait, too."""
        taken = self._lock.acquire(timeout=_PATIENCE_SECONDS)
        try:
            yield
        finally:
            if taken:
                self._lock.release()
