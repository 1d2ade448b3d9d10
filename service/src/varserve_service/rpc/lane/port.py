"""The lane's port: the bytes of large values to and from other hosts, beside gRPC.

A peer has a thread, which waits for its socket; its ticket's call waits for the thread, and ends it
when the client is too slow. Knows sockets and TLS; knows nothing of what a call is.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from varserve import frames, lane
from varserve_service.access.certificates import ServerIdentity, identity_context
from varserve_service.addresses import shown
from varserve_service.core.errors import RequestError
from varserve_service.reloading import ReloadedFiles
from varserve_service.rpc.messages.bodies import Upload

from .listener import Listener
from .tickets import Ticket

MOST_PEERS = 64
"""Connections that are open; each has a thread."""
HANDSHAKE_SECONDS = 5.0
"""That a connection has for TLS and its ticket."""
_TELL_BYTES = 4 << 20


class _Transfer(Ticket):
    """A body that goes by the port. Belongs to the event loop, but for what `run` does."""

    def __init__(self, moved: Callable[[int], None]) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._moved = moved
        self._untold = 0
        self._peer: socket.socket | None = None
        self._ended = False
        self.error: RequestError | None = None
        """Why the service could not go on."""
        self.finished = asyncio.Event()
        """The peer has all of it, or gave all of it, or has gone."""

    def run(self, peer: socket.socket) -> None:
        """Do it, in the thread of a peer that has shown the ticket. Raises OSError, LaneError."""
        self._peer = peer
        if self._ended:
            return
        try:
            self._go(peer)
        except RequestError as error:
            self.error = error
        finally:
            self._loop.call_soon_threadsafe(self.finished.set)

    def _go(self, peer: socket.socket) -> None:
        raise NotImplementedError

    def _tell(self, nbytes: int) -> None:
        self._untold += nbytes
        if self._untold >= _TELL_BYTES:
            self._loop.call_soon_threadsafe(self._told, self._untold)
            self._untold = 0

    def _told(self, nbytes: int) -> None:
        if not self._ended:
            self._moved(nbytes)

    def end(self) -> None:
        """The call has ended: so does the peer's thread."""
        self._ended = True
        if self._peer is not None:
            _hang_up(self._peer)


class Sending(_Transfer):
    """Values for whoever comes with the ticket. `sent`: all of them were."""

    def __init__(self, parts: list[frames.BodyPart], moved: Callable[[int], None]) -> None:
        super().__init__(moved)
        self._parts = parts
        self.sent = False

    def _go(self, peer: socket.socket) -> None:
        while self._parts:
            part = self._parts.pop(0)  # what was sent is not kept
            for start in range(0, part.nbytes, lane.PIECE_BYTES):
                piece = part.buffer(start, min(part.nbytes, start + lane.PIECE_BYTES))
                lane.send_piece(peer, piece)
                self._tell(len(piece))
        self.sent = True


class Receiving(_Transfer):
    """Room for the values of an assign.

    `make` gives the memory for them, when somebody comes; `upload` is that, once it is filled.
    """

    def __init__(self, make: Callable[[], Upload], moved: Callable[[int], None]) -> None:
        super().__init__(moved)
        self._make = make
        self.upload: Upload | None = None

    def _go(self, peer: socket.socket) -> None:
        upload = self._make()
        for memory in upload.memories:
            for start in range(0, memory.size, lane.PIECE_BYTES):
                piece = memory[start : start + lane.PIECE_BYTES].data
                lane.receive_piece(peer, piece)
                self._tell(len(piece))
        upload.filled()
        self.upload = upload
        # What takes the memory over may have to be the only one that refers to it.
        memory = piece = None  # type: ignore[assignment]
        del upload
        peer.sendall(lane.TAKEN)


class _Peer:
    """A connection, which has another socket once it is encrypted."""

    def __init__(self, peer: socket.socket) -> None:
        self.socket = peer


class Port:
    """The listening port, and the tickets that are good now."""

    def __init__(self, host: str, port: int, tls: ReloadedFiles[ServerIdentity] | None) -> None:
        self._host = host
        self.number = port
        """The port, once it listens."""
        self._tls = tls
        self._context: tuple[ServerIdentity, ssl.SSLContext] | None = None
        self._tickets: dict[bytes, _Transfer] = {}
        self._peers: set[_Peer] = set()
        self._loop = asyncio.get_running_loop()
        self._listener: Listener | None = None
        self.refusals: Counter[str] = Counter()
        """Connections that got nothing, by why: full, silent, tls, hello, ticket."""

    @property
    def address(self) -> str:
        """`HOST:PORT`."""
        return shown(self._host, self.number)

    @property
    def has_room(self) -> bool:
        """One more ticket can be given. From any thread."""
        return len(self._peers) + len(self._tickets) < MOST_PEERS

    def start(self) -> None:
        """Listen. Raises OSError."""
        family, _, _, _, place = socket.getaddrinfo(
            self._host, self.number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setblocking(False)
            listener.bind(place)
            listener.listen(MOST_PEERS)
        except BaseException:
            listener.close()
            raise
        self.number = listener.getsockname()[1]
        self._listener = Listener(listener, self._accept)

    def close(self) -> None:
        """Listen no more, and hang up."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for peer in list(self._peers):
            _hang_up(peer.socket)

    @contextmanager
    def offer(self, transfer: _Transfer) -> Iterator[None]:
        """Let the ticket of a transfer be good until the block ends."""
        self._tickets[transfer.ticket] = transfer
        try:
            yield
        finally:
            self._tickets.pop(transfer.ticket, None)
            transfer.end()

    def _accept(self, peer: socket.socket) -> None:
        if len(self._peers) >= MOST_PEERS:
            self.refusals["full"] += 1
            peer.close()
            return
        found = _Peer(peer)
        self._peers.add(found)
        late = self._loop.call_later(HANDSHAKE_SECONDS, self._is_late, found)
        threading.Thread(
            target=self._serve, args=(found, late), name="varserve-lane", daemon=True
        ).start()

    def _is_late(self, peer: _Peer) -> None:
        self.refusals["silent"] += 1
        _hang_up(peer.socket)

    def _serve(self, peer: _Peer, late: asyncio.TimerHandle) -> None:
        try:
            peer.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer.socket.setblocking(True)
            if self._tls is not None:
                self._encrypt(peer, self._tls.current)
            transfer = self._shown(peer.socket)
            self._loop.call_soon_threadsafe(late.cancel)
            if transfer is not None:
                peer.socket.sendall(transfer.proof)
                transfer.run(peer.socket)
        except (OSError, ValueError, RuntimeError, lane.LaneError):
            pass  # its call finds that it has gone; or the loop is closed
        finally:
            self._peers.discard(peer)
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(late.cancel)
            peer.socket.close()

    def _encrypt(self, peer: _Peer, identity: ServerIdentity) -> None:
        if self._context is None or self._context[0] is not identity:
            self._context = identity, identity_context(identity)
        encrypted = self._context[1].wrap_socket(
            peer.socket, server_side=True, do_handshake_on_connect=False
        )
        peer.socket = encrypted
        try:
            encrypted.do_handshake()
        except OSError:
            self.refusals["tls"] += 1
            raise

    def _shown(self, peer: socket.socket) -> _Transfer | None:
        hello = bytearray(len(lane.HELLO_PORT) + lane.TICKET_BYTES)
        lane.receive_all(peer, memoryview(hello))
        if not hello.startswith(lane.HELLO_PORT):
            self.refusals["hello"] += 1
            return None
        transfer = self._tickets.pop(bytes(hello[len(lane.HELLO_PORT) :]), None)
        if transfer is None:
            self.refusals["ticket"] += 1
        return transfer


def _hang_up(peer: socket.socket) -> None:
    """Whatever its thread waits for, it waits no longer."""
    with suppress(OSError, ValueError):
        socket.socket.shutdown(peer, socket.SHUT_RDWR)
