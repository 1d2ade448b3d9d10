"""A proxy before the database that cuts a commit's connection at a byte, or delivers it late."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from tests.postgres.messages import Asked, Messages

IN_TURN, PARSED, PREPARED = "in a turn", "parsed", "prepared"
"""How a commit begins: it locks the head row; or is one statement, new to the server or not."""
_BEGINS, _ONE_STATEMENT = b"FOR NO KEY UPDATE", b"SKIP LOCKED"


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
    kind: str = ""
    """Of the commit; "": whichever comes next."""


class CuttingProxy:
    """Forwards to a port of this machine.

    `passed`: bytes up and down of the last commit of each kind. `cuts`: how many were cut.
    `delivered`: cuts after which the server has what was let through.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._changed = threading.Lock()
        self._armed: Cut | None = None
        self.delivered = 0
        self.cuts: Counter[str] = Counter()
        self.passed: dict[str, dict[bool, int]] = {}
        self._pairs: list[_Pair] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def address(self, address: str) -> str:
        """The address of a database, through this proxy."""
        return address.replace(f":{self._target}/", f":{self.port}/")

    def arm(self, cut: Cut) -> None:
        """Cut the next commit of its kind."""
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
                server = socket.create_connection(("127.0.0.1", self._target))
                self._pairs.append(_Pair(self, client, server))

    def drop(self) -> None:
        """End all connections, as a server does that is restarted."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            pair.close()

    def take(self, kind: str) -> Cut | None:
        """The cut that is armed, for the commit that begins."""
        with self._changed:
            if self._armed is None or self._armed.kind not in ("", kind):
                return None
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
        self._messages = Messages()
        self._kind = ""
        self._is_parsed = False
        self._counted = {True: 0, False: 0}
        for up in (True, False):
            for end in self._ends[up]:
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._pass, args=(up,), daemon=True).start()

    def _pass(self, up: bool) -> None:
        source, sink = self._ends[up]
        try:
            while data := source.recv(65536):
                asked = self._messages.asked(data) if up else []
                for statement in asked:
                    if _BEGINS in statement.text:
                        self._begin(statement)
                if self._kind:
                    self._counted[up] += len(data)
                cut = self._cut
                if cut is not None and cut.up == up and self._is_all(cut, len(data), asked):
                    self._end(sink, data if cut.nbytes is None else data[: self._left], cut)
                    return
                self._left -= len(data) if cut is not None and cut.up == up else 0
                sink.sendall(data)
        except OSError:
            pass
        if not self._is_cut.is_set():  # or what comes late would not come
            self.close()

    def _begin(self, statement: Asked) -> None:
        """Of a commit, unless it is the second message of one whose statement was new."""
        was_parsed, self._is_parsed = self._is_parsed, statement.verb == "parse"
        if was_parsed and statement.verb == "bind":
            return
        one_statement = PARSED if self._is_parsed else PREPARED
        self._kind = one_statement if _ONE_STATEMENT in statement.text else IN_TURN
        self._counted = self._proxy.passed[self._kind] = {True: 0, False: 0}
        self._cut = self._proxy.take(self._kind)
        if self._cut is not None:
            self._left = self._cut.nbytes or 0

    def _is_all(self, cut: Cut, nbytes: int, asked: Sequence[Asked]) -> bool:
        """Whether these bytes have the last one that is let through."""
        if cut.nbytes is not None:
            return nbytes >= self._left
        if self._kind == IN_TURN:
            return any(statement.text == b"COMMIT" for statement in asked)
        return any(
            statement.verb == "bind" and _ONE_STATEMENT in statement.text for statement in asked
        )

    def _end(self, sink: socket.socket, last: bytes, cut: Cut) -> None:
        self._proxy.cuts[self._kind] += 1
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
        self.close()

    def close(self) -> None:
        """End it in both directions."""
        for end in self._ends[True]:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
