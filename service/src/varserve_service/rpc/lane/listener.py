"""A listening socket of the lane on the event loop: each connection goes to one callback.

Knows sockets; knows nothing of tickets.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_RETRY_SECONDS = 1.0
"""How long connections wait when the process or the host has no descriptor or memory for one."""


class Listener:
    """Takes connections until it is closed. Belongs to the event loop that runs when it is made."""

    def __init__(
        self,
        listening: socket.socket,
        accepted: Callable[[socket.socket], None],
        retry_seconds: float = _RETRY_SECONDS,
    ) -> None:
        """`listening`: a socket that does not block; it is closed with this object."""
        self._socket = listening
        self._accepted = accepted
        self._retry_seconds = retry_seconds
        self._loop = asyncio.get_running_loop()
        self._retry: asyncio.TimerHandle | None = None
        self._listen()

    def close(self) -> None:
        """Take no further connection."""
        if self._retry is not None:
            self._retry.cancel()
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def _listen(self) -> None:
        self._retry = None
        self._loop.add_reader(self._socket.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            peer, _ = self._socket.accept()
        except OSError as error:  # otherwise the peer is gone already
            if error.errno in _EXHAUSTED:
                # The connection stays in the queue, and the loop would run this without a pause.
                self._loop.remove_reader(self._socket.fileno())
                self._retry = self._loop.call_later(self._retry_seconds, self._listen)
            return
        self._accepted(peer)
