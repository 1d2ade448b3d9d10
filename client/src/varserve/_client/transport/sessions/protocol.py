"""The lane's connection of a session of tasks.

Knows sockets of an event loop; knows nothing of what a message is.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from varserve import lane


class Connection(asyncio.Protocol):
    """One connection. `ended` is done at its end, with what was wrong, if anything."""

    def __init__(
        self,
        most_bytes: int,
        taken: Callable[[bytes], None],
        writable: Callable[[], None],
    ) -> None:
        """`most_bytes`: of one message. `taken` is given each that comes; `writable` is called when
        further ones can be sent again.
        """
        self.is_used = False
        """Something was sent."""
        self.is_full = False
        """Nothing is to be sent for now."""
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._messages = lane.Messages(most_bytes)
        self._taken = taken
        self._writable = writable
        self._transport: Any = None

    async def open(self, peer: socket.socket) -> None:
        """Raises OSError."""
        peer.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self, sock=peer)

    def send(self, message: bytes) -> None:
        """Send a message, unless `is_full`."""
        self.is_used = True
        self._transport.write(lane.with_length(message))

    def finish(self) -> None:
        """Send nothing more."""
        self.is_full = True
        if not self.ended.done():
            self._transport.write_eof()

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.abort()

    # What the event loop tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self.ended.done():
            return
        try:
            self._messages.add(data)
            while (message := self._messages.next()) is not None:
                self._taken(message)
        except Exception as error:
            self.ended.set_exception(error)
            self._transport.abort()

    def eof_received(self) -> None:
        self._end()

    def connection_lost(self, error: Exception | None) -> None:
        self._end()

    def pause_writing(self) -> None:
        self.is_full = True

    def resume_writing(self) -> None:
        if not self.ended.done():
            self.is_full = False
            self._writable()

    def _end(self) -> None:
        self.is_full = True
        if not self.ended.done():
            self.ended.set_result(None)
