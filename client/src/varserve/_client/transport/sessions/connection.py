"""The lane's connection of a session of threads: they send, and take turns to receive.

Knows sockets; knows nothing of what a message is.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from contextlib import suppress

from varserve import lane

_RECEIVED_BYTES = 64 << 10


class Connection:
    """One connection. Whoever sends, or closes it, holds the session's lock; whoever waits or
    receives holds `reading`."""

    def __init__(self, peer: socket.socket, most_bytes: int) -> None:
        """`most_bytes`: of one message."""
        peer.setblocking(False)
        self.reading = threading.RLock()
        """Of its owner alone: who is not knows that it has not got it, whatever interrupts."""
        self.is_used = False
        """Something was sent."""
        self.ended_at: float | None = None
        """When its end was seen, by `time.monotonic`."""
        self._peer = peer
        self._messages = lane.Messages(most_bytes)
        self._rest = memoryview(b"")
        self._poll = select.poll()
        self._poll.register(peer, select.POLLIN)
        self._poll_both = select.poll()
        self._poll_both.register(peer, select.POLLIN | select.POLLOUT)

    @property
    def is_sending(self) -> bool:
        """Whether a part of a message has still to be sent."""
        return bool(self._rest)

    def send(self, message: bytes) -> None:
        """Send a message, while none is being sent: as far as that is possible without waiting."""
        self.is_used = True
        self._rest = memoryview(lane.with_length(message))
        self.send_rest()

    def send_rest(self) -> None:
        """Send what is left, as far as that is possible without waiting."""
        try:
            self._rest = self._rest[self._peer.send(self._rest) :]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:  # it has ended, as who receives sees
            self._rest = memoryview(b"")

    def finish(self) -> None:
        """Send nothing more."""
        with suppress(OSError):
            self._peer.shutdown(socket.SHUT_WR)

    def hang_up(self) -> None:
        """Whoever waits sees the end."""
        with suppress(OSError):
            self._peer.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the socket back. `reading` is held, too."""
        self._rest = memoryview(b"")
        self._peer.close()

    def wait(self, seconds: float) -> bool:
        """Wait until something has come, or, while a message is being sent, it can go on.

        Whether something has come. Ctrl-C may end the wait, and nothing is lost.
        """
        poll = self._poll_both if self._rest else self._poll
        events = poll.poll(max(0.0, seconds) * 1000)
        return bool(events) and events[0][1] != select.POLLOUT

    def receive(self) -> list[bytes]:
        """The messages that have come since. At the end, `ended_at` is set. Raises LaneError."""
        try:
            data = self._peer.recv(_RECEIVED_BYTES)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError:
            data = b""
        if not data:
            self.ended_at = time.monotonic()
            return []
        self._messages.add(data)
        messages = []
        while (message := self._messages.next()) is not None:
            messages.append(message)
        return messages
