"""Uploads and downloads in progress: how fast they must be, and which is given up for others.

A transfer keeps memory alive: a body that arrives, or values that are being sent. Owns how long it
may take. Knows calls; knows nothing of messages. Used from the event loop alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from varserve_service.core.arrays.buffers import IDLE_SECONDS
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.holdings import Holding
from varserve_service.core.memory import MemoryBudget, trim

from .giving_way import Pace, SmallCalls

UPLOAD: Final = "upload"
DOWNLOAD: Final = "download"
EVENT: Final = "event"
"""A message of a watch, which is of no use to it any more when it is given up."""

_MUCH_BYTES = 64 * 2**20
"""The messages of so many bytes leave memory that is worth giving back."""


@asynccontextmanager
async def first_message(seconds: float) -> AsyncIterator[None]:
    """Give up a stream whose client sends nothing at all for so long.

    Raises RequestError DEADLINE_EXCEEDED.
    """
    try:
        async with asyncio.timeout(seconds) as bound:
            yield
    except TimeoutError:
        if not bound.expired():
            raise
        raise RequestError(
            Reason.DEADLINE_EXCEEDED,
            f"nothing arrived for {seconds:g} seconds; expected the first message of the request; "
            "nothing was changed; send it again as a whole",
            seconds=f"{seconds:g}",
        ) from None


class Transfer:
    """One upload or download. `moved` is called for every message that has moved.

    After each, `await give_way()` lets small calls go first.
    """

    def __init__(self, kind: str, silence: float, rate: float, pace: Pace) -> None:
        loop = asyncio.get_running_loop()
        self.kind = kind
        self.give_way = pace.give_way
        self.given_up = False
        self._holding: Holding | None = None
        self._loop = loop
        self._silence = silence
        self._rate = rate
        self._began = self._moved_at = self._rescheduled_at = loop.time()
        self._nbytes = 0
        self._bound = asyncio.timeout_at(self._deadline())

    def moved(self, nbytes: int) -> None:
        """So many bytes of the body have arrived, or were taken by the client."""
        self._nbytes += nbytes
        self._moved_at = self._loop.time()
        if self._holding is not None:
            self._holding.touched()
        # Not for each chunk of a body: there are thousands a second.
        if self._moved_at - self._rescheduled_at >= self._silence / 8:
            self._rescheduled_at = self._moved_at
            self._bound.reschedule(self._deadline())

    def hold(self, memory: MemoryBudget, subject: str, nbytes: int) -> None:
        """Hold memory for as long as this lasts; it may be given up when that is short.

        Raises RequestError TOO_MANY_REQUESTS beyond the subject's share.
        """

        def give_up() -> None:  # on any thread
            self._loop.call_soon_threadsafe(self.give_up)

        self._holding = memory.holdings.hold(
            subject, nbytes, f"the {self.kind}", give_up, charged=self.kind != DOWNLOAD
        )

    @property
    def nbytes(self) -> int:
        """Bytes that have moved."""
        return self._nbytes

    @property
    def idle(self) -> float:
        """Seconds since anything moved."""
        return self._loop.time() - self._moved_at

    def give_up(self) -> None:
        """End it now."""
        if not self._bound.expired() and not self.given_up:
            self.given_up = True
            self._bound.reschedule(self._loop.time())

    def _deadline(self) -> float:
        silence = self._silence * 9 / 8  # reschedules lag behind by an eighth
        slow = self._began + silence + self._nbytes / self._rate
        return min(self._moved_at + silence, slow)

    async def __aenter__(self) -> Transfer:
        await self._bound.__aenter__()
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._holding is not None:
            self._holding.release()
        try:
            await self._bound.__aexit__(type(error) if error else None, error, None)
        except TimeoutError:
            raise self._refusal() from None

    def _refusal(self) -> RequestError:
        if self.kind == EVENT:
            return RequestError(
                Reason.WATCH_TOO_SLOW,
                f"the client has not taken an event for {self.idle:.0f} seconds; watch again after "
                "the last revision received",
            )
        seconds = self._loop.time() - self._began
        nothing = "nothing was changed; send it again as a whole"
        again = nothing if self.kind == UPLOAD else "read it again"
        if self.given_up:
            return RequestError(
                Reason.OUT_OF_MEMORY,
                f"the {self.kind} made no progress for {self.idle:.0f} seconds, and others needed "
                f"its memory; {again}",
            )
        return RequestError(
            Reason.DEADLINE_EXCEEDED,
            f"{self._nbytes} bytes of the {self.kind} moved in {seconds:.0f} seconds, the last "
            f"{self.idle:.0f} seconds ago; expected some every {self._silence:g} seconds, and then "
            f"{self._rate:g} bytes a second; {again}",
            seconds=f"{self._silence:g}",
        )


class Transfers:
    """All transfers of one service. `silence` is in seconds, `rate` in bytes a second.

    A transfer must move something every `silence` seconds, and, after so many seconds, `rate` bytes
    a second on average; an eighth of `silence` more at most.
    """

    def __init__(self, silence: float, rate: float, small_calls: SmallCalls) -> None:
        self.silence = silence
        self._small_calls = small_calls
        self._rate = rate
        self._transfers: set[Transfer] = set()
        self._moved_bytes = 0  # since memory was given back

    def __len__(self) -> int:
        return len(self._transfers)

    @asynccontextmanager
    async def begin(self, kind: str) -> AsyncIterator[Transfer]:
        """A transfer until the block ends.

        Raises RequestError DEADLINE_EXCEEDED when it is too slow, OUT_OF_MEMORY when it is given
        up for others.
        """
        transfer = Transfer(kind, self.silence, self._rate, Pace(self._small_calls))
        self._transfers.add(transfer)
        try:
            async with transfer:
                yield transfer
        finally:
            self._transfers.discard(transfer)
            self._ended(transfer)

    def _ended(self, transfer: Transfer) -> None:
        """When nothing is transferred for a while, what the messages left is given back.

        The C library keeps it for the next ones: tens of MiB for each thread that had some.
        """
        due = self._moved_bytes >= _MUCH_BYTES
        self._moved_bytes += transfer.nbytes
        if not due and self._moved_bytes >= _MUCH_BYTES:
            loop = asyncio.get_running_loop()
            loop.call_later(IDLE_SECONDS, self._look, loop, self._moved_bytes)

    def _look(self, loop: asyncio.AbstractEventLoop, moved: int) -> None:
        busy = any(each.kind != EVENT for each in self._transfers)
        if busy or moved != self._moved_bytes:
            loop.call_later(IDLE_SECONDS, self._look, loop, self._moved_bytes)
            return
        self._moved_bytes = 0
        loop.run_in_executor(None, trim)
