"""Samples refusals of unauthenticated callers: a few lines in full, and the sum of the others.

Anybody who reaches the port can cause these, so that their number says nothing and must not fill
the disk. Knows neither gRPC nor files. Used from the event loop alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

# Lines that may come at once, and the seconds in which one more becomes free.
_BURST = 20
_REFILL_SECONDS = 1.0
# Seconds after which the lines that were left out are summed up.
_SUMMARY_SECONDS = 10.0


class RefusalSampler:
    """Says which refusals get a line of their own."""

    def __init__(self, summarize: Callable[[int, float], None]) -> None:
        """`summarize` is given how many were left out, and in how many seconds."""
        self._summarize = summarize
        self._lines = float(_BURST)
        self._refilled_at = 0.0
        self._left_out = 0

    def take(self) -> bool:
        """Whether this refusal gets a line."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        refill = (now - self._refilled_at) / _REFILL_SECONDS
        self._lines, self._refilled_at = min(float(_BURST), self._lines + refill), now
        if self._lines >= 1:
            self._lines -= 1
            return True
        if not self._left_out:
            loop.call_later(_SUMMARY_SECONDS, self._sum_up)
        self._left_out += 1
        return False

    def _sum_up(self) -> None:
        count, self._left_out = self._left_out, 0
        self._summarize(count, _SUMMARY_SECONDS)
