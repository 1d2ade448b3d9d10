"""The lane to a service: large values beside gRPC, as memory on one host, or as bytes on a port;
and connections for sessions.

Owns the connections for that. Knows sealed memory, sockets and TLS; knows nothing of gRPC and of
what a call means.
"""

from __future__ import annotations

import mmap
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from varserve import lane
from varserve.tensors import Array, body_length, strings_to_body
from varserve.v1 import lane_pb2, session_pb2

from .bodies import Moved, current_progress
from .buffers import sealed_memory
from .calls import LaneFailed
from .credentials import TlsSocket
from .endpoint import LaneUse

_SECONDS = 10.0
"""That one packet may take, and a connection."""
_SESSION_SECONDS = 1.0
"""That a session waits for its connection: its answers may wait meanwhile."""
_SILENCE = 60.0
"""Seconds in which a piece must move."""
_AGAIN_SECONDS = 60.0
"""After which a lane that could not be used is tried again."""
_STEP = 4 << 20

_unusable: dict[str, float] = {}
"""By path or address: until when."""


class Lane(Protocol):
    """One way beside gRPC."""

    @property
    def fields(self) -> Mapping[str, int]:
        """The request's fields that say that the caller can go this way."""

    def borrow(self, ticket: lane_pb2.LaneTicket, lengths: Sequence[int]) -> list[Array] | None:
        """The bodies of tensors as memory; None where they have to be received.

        Raises LaneFailed.
        """

    def receive(self, ticket: lane_pb2.LaneTicket, memories: Sequence[Array]) -> None:
        """Receive bodies into memory, flat arrays of uint8. Raises LaneFailed."""

    def offer(self, arrays: Sequence[Array]) -> Callable[[bytes], bool] | None:
        """What brings arrays there when it has a ticket, and tells whether it did; None where their
        bytes go through gRPC."""


def lane_to(socket_path: str, port: int, use: LaneUse) -> Lane | None:
    """The way to use, of those that the service tells of; None: none."""
    if not use.wanted:
        return None
    path = use.wanted if isinstance(use.wanted, str) else socket_path
    if path and lane.is_possible() and _is_usable(path) and Path(path).exists():
        return MemoryLane(path)
    if port and use.host and _is_usable(f"{use.host}:{port}"):
        return PortLane(use.host, port, use.tls)
    return None


def _is_usable(where: str) -> bool:
    return time.monotonic() >= _unusable.get(where, 0)


class MemoryLane:
    """By a Unix socket."""

    fields: Mapping[str, int] = {"lane": True}

    def __init__(self, path: str) -> None:
        self._path = path

    def borrow(self, ticket: lane_pb2.LaneTicket, lengths: Sequence[int]) -> list[Array] | None:
        """See Lane."""
        return borrow(self._path, ticket, lengths)

    def receive(self, ticket: lane_pb2.LaneTicket, memories: Sequence[Array]) -> None:
        """Not asked for: everything can be borrowed."""
        raise NotImplementedError

    def offer(self, arrays: Sequence[Array]) -> Callable[[bytes], bool] | None:
        """See Lane. Strings have no memory of a fixed size."""
        if any(each.dtype.kind == "O" for each in arrays):
            return None
        return Offer(self._path, arrays).hand_over


class _Connection:
    """Keeps what was lent: the service counts it for the subject until this is gone."""

    def __init__(self, peer: socket.socket) -> None:
        fd = peer.detach()
        self._close = weakref.finalize(self, os.close, fd)
        self._close.atexit = False


class _Mapping(mmap.mmap):
    """A mapping that keeps the connection it came by."""

    connection: _Connection


def borrow(path: str, ticket: lane_pb2.LaneTicket, lengths: Sequence[int]) -> list[Array]:
    """The bodies of tensors, by their lengths in bytes, as read-only arrays of uint8.

    The memory is the service's own, and is given back when the last array is gone. Raises
    LaneFailed.
    """
    found = lane.layout(lengths)
    try:
        peer = _connected(path, ticket)
        with peer:
            proof, fds, _, _ = socket.recv_fds(
                peer, lane.TICKET_BYTES + 1, len(found.sizes) + 1, socket.MSG_CMSG_CLOEXEC
            )
            try:
                if proof != ticket.proof or len(fds) != len(found.sizes):
                    raise lane.LaneError("another service answered")
                for fd, size in zip(fds, found.sizes, strict=True):
                    lane.check_sealed(fd, size)
                connection = _Connection(peer)
                memories = [
                    _mapped(fd, size, connection) for fd, size in zip(fds, found.sizes, strict=True)
                ]
            finally:
                for fd in fds:
                    os.close(fd)
    except (OSError, lane.LaneError) as error:
        raise _failed(path, error) from error
    empty = np.empty(0, np.uint8)
    return [
        memories[place.memory][place.start : place.start + nbytes] if nbytes else empty
        for place, nbytes in zip(found.places, lengths, strict=True)
    ]


def _mapped(fd: int, size: int, connection: _Connection) -> Array:
    # Without its pages: they cost as much at the first touch, during which other threads go on.
    mapping = _Mapping(fd, size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    mapping.connection = connection
    return np.frombuffer(mapping, np.uint8)


class Offer:
    """The tensors of one write, as memories that are made when they are asked for, once."""

    def __init__(self, path: str, arrays: Sequence[Array]) -> None:
        """`arrays`: C-contiguous, and none of strings."""
        self._path = path
        self._arrays = arrays
        self._fds: list[int] | None = None
        self._turn = threading.Lock()
        self._progress = current_progress()

    def hand_over(self, ticket: bytes) -> bool:
        """Give the memories to the service; False where their bytes have to be sent. Blocks."""
        message = lane_pb2.LaneTicket.FromString(ticket)
        try:
            with self._turn:
                if self._fds is None:
                    self._fds = self._memories()
            with _connected(self._path, message) as peer:
                if peer.recv(lane.TICKET_BYTES + 1) != message.proof:
                    raise lane.LaneError("another service answered")
                socket.send_fds(peer, [lane.TAKEN], self._fds)
                answer = peer.recv(1024)
        except (OSError, lane.LaneError) as error:
            _failed(self._path, error)
            return False
        if answer != lane.TAKEN:
            return False
        if self._progress is not None:
            total = sum(map(body_length, self._arrays))
            self._progress(total, total)
        return True

    def _memories(self) -> list[int]:
        """A memory as it is where an array of the caller's is one; else a copy."""
        lengths = [body_length(each) for each in self._arrays]
        found = lane.layout(lengths)
        fds: list[int] = []
        weakref.finalize(self, _close_all, fds).atexit = False
        for memory, size in enumerate(found.sizes):
            inside = [
                (array, place.start)
                for array, place, nbytes in zip(self._arrays, found.places, lengths, strict=True)
                if place.memory == memory and nbytes
            ]
            given = sealed_memory(inside[0][0]) if inside[0][0].nbytes >= lane.OWN_BYTES else None
            fds.append(os.dup(given) if given is not None else lane.new_memory(size))
            if given is None:
                for array, start in inside:
                    lane.write(fds[-1], _pieces(array), start)
                lane.seal(fds[-1])
        return fds


def _pieces(array: Array) -> Any:
    view = array.reshape(-1).view(np.uint8).data
    return (view[start : start + _STEP] for start in range(0, len(view), _STEP))


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def connect_session(told: session_pb2.SessionLane, wanted: bool | str) -> socket.socket | None:
    """The connection that a session is offered; None where there is no way to it. Blocks.

    `wanted`: where the socket is here, if not where the service says.
    """
    path = wanted if isinstance(wanted, str) else told.socket
    if not path or not _is_usable(path) or not Path(path).exists():
        return None
    try:
        with _connected(path, told.ticket, _SESSION_SECONDS) as peer:
            proof, fds, _, _ = socket.recv_fds(
                peer, lane.TICKET_BYTES + 1, 2, socket.MSG_CMSG_CLOEXEC
            )
            if proof == told.ticket.proof and len(fds) == 1:
                return socket.socket(fileno=fds[0])
            _close_all(fds)
            raise lane.LaneError("another service answered")
    except (OSError, lane.LaneError) as error:
        _failed(path, error)
        return None


def _connected(path: str, ticket: lane_pb2.LaneTicket, seconds: float = _SECONDS) -> socket.socket:
    """A connection that has shown the ticket. Raises OSError."""
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        peer.settimeout(seconds)
        peer.connect(path)
        peer.send(lane.HELLO + ticket.ticket)
    except BaseException:
        peer.close()
        raise
    return peer


class PortLane:
    """By a TCP port, with as many connections for one value as the service gives tickets for."""

    def __init__(self, host: str, port: int, tls: TlsSocket | None) -> None:
        self.fields = {"lane_port": True, "lane_connections": lane.most_connections()}
        self._host, self._port, self._tls = host, port, tls

    def borrow(self, ticket: lane_pb2.LaneTicket, lengths: Sequence[int]) -> list[Array] | None:
        """See Lane."""
        return None

    def receive(self, ticket: lane_pb2.LaneTicket, memories: Sequence[Array]) -> None:
        """See Lane."""
        moved = Moved(sum(each.nbytes for each in memories), current_progress())
        lengths = [each.size for each in memories]

        def take(peer: socket.socket, connection: int, connections: int) -> None:
            for tensor, start, end in lane.pieces(lengths, connection, connections):
                piece = memories[tensor][start:end].data
                lane.receive_piece(peer, piece)
                moved(len(piece))

        self._share(ticket, take)

    def offer(self, arrays: Sequence[Array]) -> Callable[[bytes], bool] | None:
        """See Lane."""
        lengths = [body_length(each) for each in arrays]
        moved = Moved(sum(lengths), current_progress())

        def send(ticket: bytes) -> bool:
            bodies = [_body(array) for array in arrays]

            def give(peer: socket.socket, connection: int, connections: int) -> None:
                for tensor, start, end in lane.pieces(lengths, connection, connections):
                    piece = bodies[tensor][start:end]
                    lane.send_piece(peer, piece)
                    moved(len(piece))
                if peer.recv(1) != lane.TAKEN:
                    raise ConnectionResetError("the service did not take it")

            try:
                self._share(lane_pb2.LaneTicket.FromString(ticket), give)
            except LaneFailed:
                return False
            return True

        return send

    def _share(
        self, ticket: lane_pb2.LaneTicket, do: Callable[[socket.socket, int, int], None]
    ) -> None:
        """Do each connection's share, all of them at the same time. Raises LaneFailed."""
        tickets = [ticket.ticket, *ticket.further_tickets]
        peers: list[socket.socket] = []

        def connect_and_do(connection: int) -> None:
            try:
                with self._connected(tickets[connection], ticket.proof) as peer:
                    peers.append(peer)
                    do(peer, connection, len(tickets))
            except BaseException:
                for each in peers:  # or they would wait for the service to give up
                    with suppress(OSError):
                        each.shutdown(socket.SHUT_RDWR)
                raise

        try:
            if len(tickets) == 1:
                connect_and_do(0)
                return
            with ThreadPoolExecutor(len(tickets), "varserve-lane") as threads:
                list(threads.map(connect_and_do, range(len(tickets))))
        except (OSError, lane.LaneError) as error:
            raise _failed(self._where, error) from error

    @property
    def _where(self) -> str:
        return f"{self._host}:{self._port}"

    def _connected(self, ticket: bytes, expected: bytes) -> socket.socket:
        """A connection on which the ticket was taken. Raises OSError, LaneError."""
        peer = socket.create_connection((self._host, self._port), _SECONDS)
        try:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                peer = self._tls.encrypted(peer, self._host)
            peer.sendall(lane.HELLO_PORT + ticket)
            proof = bytearray(len(expected))
            lane.receive_all(peer, memoryview(proof))
            if proof != expected:
                raise lane.LaneError("another service answered")
            peer.settimeout(_SILENCE)
        except BaseException:
            peer.close()
            raise
        return peer


def _body(array: Array) -> memoryview:
    if array.dtype.kind == "O":
        return memoryview(strings_to_body(array)).cast("B")
    return array.reshape(-1).view(np.uint8).data if array.size else memoryview(b"")


def _failed(path: str, error: Exception) -> LaneFailed:
    """The lane is not tried again for a while."""
    _unusable[path] = time.monotonic() + _AGAIN_SECONDS
    return LaneFailed(f"the lane at {path} cannot be used: {error}")
