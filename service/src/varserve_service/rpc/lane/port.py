"""The lane's port: the bytes of large values to and from other hosts, beside gRPC.

A peer has a thread, which waits for its socket, and rests after each piece while small calls come;
its ticket's call waits for the thread, and ends it when the client is too slow. Knows sockets and
TLS; knows nothing of what a call is.
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
from varserve_service.core.threads import started
from varserve_service.reloading import ReloadedFiles
from varserve_service.rpc.calls.giving_way import Pace, SmallCalls
from varserve_service.rpc.messages.bodies import Upload

from .listener import Listener
from .tickets import Ticket

MOST_PEERS = 64
"""Connections that are open; each has a thread."""
HANDSHAKE_SECONDS = 5.0
"""That a connection has for TLS and its ticket."""
_TELL_BYTES = 4 << 20


class _Transfer(Ticket):
    """A body that goes by the port. Belongs to the event loop, but for what `run` does.

    Each of its connections carries a share of its pieces.
    """

    def __init__(
        self, moved: Callable[[int], None], small_calls: SmallCalls, connections: int
    ) -> None:
        super().__init__(connections)
        self._small_calls = small_calls
        self._loop = asyncio.get_running_loop()
        self._moved = moved
        self._peers: list[socket.socket] = []
        self._changing = threading.Lock()
        self._going = connections
        self._ended = False
        self.error: RequestError | None = None
        """Why the service could not go on."""
        self.finished = asyncio.Event()
        """The peers have all of it, or gave all of it, or one of them has gone."""

    def run(self, peer: socket.socket, ticket: bytes) -> None:
        """Do a share, in the thread of a peer that showed a ticket. Raises OSError, LaneError."""
        self._peers.append(peer)
        if self._ended:
            return
        over = True
        try:
            self._go(peer, self.tickets.index(ticket))
            with self._changing:
                self._going -= 1
                over = not self._going
                if over:
                    self._complete()
            self._confirm(peer)
        except RequestError as error:
            self.error = error
        finally:
            if over:
                self._loop.call_soon_threadsafe(self.finished.set)

    def _go(self, peer: socket.socket, connection: int) -> None:
        """The share of one connection."""
        raise NotImplementedError

    def _complete(self) -> None:
        """All shares are done."""
        raise NotImplementedError

    def _confirm(self, peer: socket.socket) -> None:
        """Tell a peer that its share is done, where it is told."""

    def _steps(self) -> _Steps:
        return _Steps(self._loop, self._told, Pace(self._small_calls))

    def _told(self, nbytes: int) -> None:
        if not self._ended:
            self._moved(nbytes)

    def end(self) -> None:
        """The call has ended: so do the peers' threads."""
        self._ended = True
        for peer in list(self._peers):
            _hang_up(peer)


class _Steps:
    """What follows each piece of one connection: its transfer is told, a few MiB at a time, and
    small calls go first."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, told: Callable[[int], None], pace: Pace
    ) -> None:
        self._loop = loop
        self._told = told
        self._pace = pace
        self._untold = 0

    def __call__(self, nbytes: int) -> None:
        self._untold += nbytes
        if self._untold >= _TELL_BYTES:
            self._loop.call_soon_threadsafe(self._told, self._untold)
            self._untold = 0
        self._pace.give_way_on_thread()


class Sending(_Transfer):
    """Values for whoever comes with the tickets. `sent`: all of them were."""

    def __init__(
        self,
        parts: list[frames.BodyPart],
        moved: Callable[[int], None],
        small_calls: SmallCalls,
        connections: int = 1,
    ) -> None:
        super().__init__(moved, small_calls, connections)
        self._lengths = [part.nbytes for part in parts]
        self._parts: dict[int, frames.BodyPart] = dict(enumerate(parts))
        self._at = [0] * connections
        self.sent = False

    def _go(self, peer: socket.socket, connection: int) -> None:
        moved = self._steps()
        shares = lane.pieces(self._lengths, connection, len(self.tickets))
        for tensor, start, end in shares:
            if tensor != self._at[connection]:
                self._pass(connection, tensor)
            piece = self._parts[tensor].buffer(start, end)
            lane.send_piece(peer, piece)
            moved(len(piece))
        self._pass(connection, len(self._lengths))

    def _pass(self, connection: int, tensor: int) -> None:
        """A connection needs no tensor before this one: what nobody needs is not kept."""
        with self._changing:
            self._at[connection] = tensor
            for passed in [each for each in self._parts if each < min(self._at)]:
                del self._parts[passed]

    def _complete(self) -> None:
        self.sent = True


class Receiving(_Transfer):
    """Room for the values of an assign.

    `make` gives the memory for them, when somebody comes; `upload` is that, once it is filled.
    """

    def __init__(
        self,
        make: Callable[[], Upload],
        moved: Callable[[int], None],
        small_calls: SmallCalls,
        connections: int = 1,
    ) -> None:
        super().__init__(moved, small_calls, connections)
        self._make = make
        self._filling: Upload | None = None
        self.upload: Upload | None = None

    def _go(self, peer: socket.socket, connection: int) -> None:
        with self._changing:
            self._filling = self._filling or self._make()
            memories = self._filling.memories
        moved = self._steps()
        lengths = [memory.size for memory in memories]
        for tensor, start, end in lane.pieces(lengths, connection, len(self.tickets)):
            piece = memories[tensor][start:end].data
            lane.receive_piece(peer, piece)
            moved(len(piece))
        # What takes the memory over may have to be the only one that refers to it.
        memories = piece = None  # type: ignore[assignment]

    def _complete(self) -> None:
        filled, self._filling = self._filling, None
        assert filled is not None
        filled.filled()
        self.upload = filled

    def _confirm(self, peer: socket.socket) -> None:
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

    def connections(self, wanted: int) -> int:
        """How many connections one more value can have; 0: it cannot be sent here. From any thread.

        `wanted`: as many as its client would come with; 0: one.
        """
        room = MOST_PEERS - len(self._peers) - len(self._tickets)
        return max(0, min(wanted or 1, lane.most_connections(), room))

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
        """Let the tickets of a transfer be good until the block ends."""
        self._tickets |= dict.fromkeys(transfer.tickets, transfer)
        try:
            yield
        finally:
            for ticket in transfer.tickets:
                self._tickets.pop(ticket, None)
            transfer.end()

    def _accept(self, peer: socket.socket) -> None:
        if len(self._peers) >= MOST_PEERS:
            self.refusals["full"] += 1
            peer.close()
            return
        found = _Peer(peer)
        self._peers.add(found)
        late = self._loop.call_later(HANDSHAKE_SECONDS, self._is_late, found)
        thread = threading.Thread(
            target=self._serve, args=(found, late), name="varserve-lane", daemon=True
        )
        if not started(thread):
            self.refusals["full"] += 1
            late.cancel()
            self._peers.discard(found)
            peer.close()

    def _is_late(self, peer: _Peer) -> None:
        self.refusals["silent"] += 1
        _hang_up(peer.socket)

    def _serve(self, peer: _Peer, late: asyncio.TimerHandle) -> None:
        try:
            peer.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer.socket.setblocking(True)
            if self._tls is not None:
                self._encrypt(peer, self._tls.current)
            ticket = self._shown(peer.socket)
            transfer = None if ticket is None else self._tickets.pop(ticket, None)
            self._loop.call_soon_threadsafe(late.cancel)
            if transfer is not None:
                assert ticket is not None
                peer.socket.sendall(transfer.proof)
                transfer.run(peer.socket, ticket)
            elif ticket is not None:
                self.refusals["ticket"] += 1
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

    def _shown(self, peer: socket.socket) -> bytes | None:
        """The ticket that a peer shows; None: it speaks another language."""
        hello = bytearray(len(lane.HELLO_PORT) + lane.TICKET_BYTES)
        lane.receive_all(peer, memoryview(hello))
        if not hello.startswith(lane.HELLO_PORT):
            self.refusals["hello"] += 1
            return None
        return bytes(hello[len(lane.HELLO_PORT) :])


def _hang_up(peer: socket.socket) -> None:
    """Whatever its thread waits for, it waits no longer."""
    with suppress(OSError, ValueError):
        socket.socket.shutdown(peer, socket.SHUT_RDWR)
