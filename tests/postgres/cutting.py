"""A proxy before the database that cuts a commit's connection at a byte, or delivers it late."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass

_BEGINS = b"FOR NO KEY UPDATE"
"""In the first message of a commit. The connection's bytes are counted from there."""
_ENDS = b"COMMIT\0"
"""In the last one."""
_OPTIMISTIC, _OPTIMISTIC_ENDS = b"SKIP LOCKED", b'"changes":'
"""Of one without a turn, whose last message has the commit itself."""


@dataclass
class Cut:
    """What is done to the next commit: `nbytes` of its way up or down are let through.

    None: all up to the end of its last message.

    `late`: what is let through on the way up comes so many seconds after the connection was cut
    for the one who sent it, and not before `after`.
    """

    nbytes: int | None
    up: bool
    late: float = 0.0
    after: threading.Event | None = None


class CuttingProxy:
    """Forwards to a port of this machine. `passed`: bytes up and down of the last whole commit.

    `delivered`: cuts after which the server has what was let through.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._changed = threading.Lock()
        self._armed: Cut | None = None
        self.cuts = self.delivered = 0
        self.passed = {True: 0, False: 0}
        threading.Thread(target=self._accept, daemon=True).start()

    def address(self, address: str) -> str:
        """The address of a database, through this proxy."""
        return address.replace(f":{self._target}/", f":{self.port}/")

    def arm(self, cut: Cut) -> None:
        """Cut the next commit."""
        with self._changed:
            self._armed = cut

    def disarm(self) -> bool:
        """Whether the cut that was armed had nothing to cut."""
        with self._changed:
            armed, self._armed = self._armed, None
        return armed is not None

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                _Pair(self, client, socket.create_connection(("127.0.0.1", self._target)))

    def take(self) -> Cut | None:
        """The cut that is armed, for the commit that begins."""
        with self._changed:
            armed, self._armed = self._armed, None
        return armed

    def close(self) -> None:
        """Accept no more."""
        self._listener.close()


class _Pair:
    """A connection of a client, and that to the server."""

    def __init__(self, proxy: CuttingProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._ends = {True: (client, server), False: (server, client)}
        self._cut: Cut | None = None
        self._left = 0
        self._is_cut = threading.Event()
        self._commits = False
        self._last = _ENDS
        self._counted = {True: 0, False: 0}
        for up in (True, False):
            for end in self._ends[up]:
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._pass, args=(up,), daemon=True).start()

    def _pass(self, up: bool) -> None:
        source, sink = self._ends[up]
        try:
            while data := source.recv(65536):
                if up and _BEGINS in data:
                    self._last = _OPTIMISTIC_ENDS if _OPTIMISTIC in data else _ENDS
                    self._begin()
                if self._commits:
                    self._counted[up] += len(data)
                    self._proxy.passed[up] = self._counted[up]
                cut = self._cut
                if cut is not None and cut.up == up and cut.nbytes is None:
                    if self._last in data:
                        self._end(sink, data, cut)
                        return
                elif cut is not None and cut.up == up:
                    if len(data) >= self._left:
                        self._end(sink, data[: self._left], cut)
                        return
                    self._left -= len(data)
                sink.sendall(data)
        except OSError:
            pass
        if not self._is_cut.is_set():  # or what comes late would not come
            self._close()

    def _begin(self) -> None:
        self._commits = True
        self._counted = {True: 0, False: 0}
        self._cut = self._proxy.take()
        if self._cut is not None:
            self._left = self._cut.nbytes or 0

    def _end(self, sink: socket.socket, last: bytes, cut: Cut) -> None:
        self._proxy.cuts += 1
        self._is_cut.set()
        client, _ = self._ends[True]
        if cut.late:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            if cut.after is not None:
                cut.after.wait(60)
            time.sleep(cut.late)
        with suppress(OSError):
            sink.sendall(last)
        if cut.late:
            time.sleep(cut.late)  # the server reads it before it learns of the end
        self._proxy.delivered += 1
        self._close()

    def _close(self) -> None:
        for end in self._ends[True]:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
