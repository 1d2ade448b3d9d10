"""The lane's connection of one session: whole messages, in both directions, on the event loop.

Knows sockets, and when to read no further; knows nothing of what a message is.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from varserve import lane
from varserve_service.rpc.calls.call import CallerGone
from varserve_service.rpc.messages import translate

# Of messages that are there already, so many, or of so many bytes, are taken before others have a
# turn of the event loop.
_PAGE_MESSAGES = 8
_PAGE_BYTES = 16 << 10


class LaneConnection(asyncio.Protocol):
    """Used by one task that reads and one that writes."""

    def __init__(self, most_bytes: int, peer: socket.socket) -> None:
        """`most_bytes`: of one message of the client's. `peer`: is closed with this object."""
        self._peer = peer
        self._loop = asyncio.get_running_loop()
        self._messages = lane.Messages(most_bytes)
        self._transport: Any = None
        self._more: asyncio.Future[None] | None = None
        self._paused = False
        self._drained: asyncio.Future[None] | None = None
        self._ended = self._gone = False
        self._page = self._page_bytes = 0

    async def open(self) -> None:
        """Begin to receive. Raises OSError."""
        await self._loop.connect_accepted_socket(lambda: self, self._peer)

    def close(self) -> None:
        """Hang up. What `write` returned from is with the kernel, and still reaches the client."""
        if self._transport is not None:
            self._transport.abort()
        self._peer.close()

    async def next(self) -> bytes | None:
        """The next message; None: the client sends no more. Raises RequestError for what is none.

        Nothing further is received while nobody waits here.
        """
        try:
            while (message := self._messages.next()) is None:
                if self._ended:
                    if not self._gone:
                        self._messages.end()
                    return None
                self._page = self._page_bytes = 0
                if self._paused:
                    self._paused = False
                    self._transport.resume_reading()
                self._more = self._loop.create_future()
                await self._more
        except lane.LaneError as error:
            raise translate.malformed(str(error)) from None
        self._page += 1
        self._page_bytes += len(message)
        if self._page > _PAGE_MESSAGES or self._page_bytes > _PAGE_BYTES:
            self._page = self._page_bytes = 0
            await asyncio.sleep(0)
        return message

    async def write(self, message: bytes) -> None:
        """Send a message; returns when the kernel has all of it. Raises CallerGone."""
        await self.drain()
        self.write_now(message)
        await self.drain()

    async def drain(self) -> None:
        """Wait until the kernel has all that was sent. Raises CallerGone."""
        while self._drained is not None:
            await self._drained
        if self._gone:
            raise CallerGone

    @property
    def is_writable(self) -> bool:
        """Whether a message can be sent without waiting for others."""
        return not self._gone and self._drained is None

    def write_now(self, message: bytes) -> None:
        """Send a message, while that is so."""
        self._transport.write(lane.with_length(message))

    # What the event loop tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._transport.set_write_buffer_limits(0)

    def data_received(self, data: bytes) -> None:
        self._messages.add(data)
        if not self._wake() and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        self._ended = True
        self._wake()
        return True  # answers still go

    def connection_lost(self, error: Exception | None) -> None:
        self._ended = self._gone = True
        self._wake()
        self.resume_writing()

    def pause_writing(self) -> None:
        self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    def _wake(self) -> bool:
        more, self._more = self._more, None
        if more is None or more.done():
            return False
        more.set_result(None)
        return True
