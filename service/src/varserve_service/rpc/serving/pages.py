"""What many streams have the event loop begin: one page in each of its turns, whoever asks.

Owns who begins the next page. Knows nothing of what is begun.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

from .turns import Turns


class Pages:
    """The pages of all streams. Used from the event loop alone."""

    def __init__(self) -> None:
        self._turns: Turns[asyncio.Future[None]] = Turns()
        self._scheduled = False

    async def turn(self, key: Hashable) -> None:
        """Wait until the next page may begin. Callers take turns."""
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        self._turns.add(key, waiter)
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._begin, loop)
        await waiter

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._scheduled = False
        while self._turns:
            waiter = self._turns.take()
            if not waiter.done():  # its stream has not ended
                waiter.set_result(None)
                break
        if self._turns:
            self._scheduled = True
            loop.call_soon(self._begin, loop)
