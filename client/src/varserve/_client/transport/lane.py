"""The lane to a service on this host: the memory of large values, in place of their bytes.

Owns the connection that a mapping lasts as long as. Knows sealed memory and sockets; knows nothing
of gRPC and of what a call means.
"""

from __future__ import annotations

import mmap
import os
import socket
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from varserve import lane
from varserve.tensors import Array, body_length
from varserve.v1 import lane_pb2

from .bodies import current_progress
from .buffers import sealed_memory
from .calls import LaneFailed

_SECONDS = 10.0
"""That one packet may take."""
_AGAIN_SECONDS = 60.0
"""After which a lane that could not be used is tried again."""
_STEP = 4 << 20

_unusable: dict[str, float] = {}
"""By path: until when."""


def usable(told: str, wanted: bool | str) -> str:
    """The path of the socket to use; empty: none.

    told: what the service says. wanted: whether a client uses it, or where the socket is here.
    """
    path = wanted if isinstance(wanted, str) else told
    if not wanted or not path or not lane.is_possible():
        return ""
    return "" if time.monotonic() < _unusable.get(path, 0) else path


class _Connection:
    """Keeps what was lent: the service counts it for the subject until this is gone."""

    def __init__(self, peer: socket.socket) -> None:
        fd = peer.detach()
        self._close = weakref.finalize(self, os.close, fd)
        self._close.atexit = False


class _Mapping(mmap.mmap):
    """A mapping that keeps the connection it came by."""

    connection: _Connection


def borrow(
    path: str, ticket: lane_pb2.LaneTicket, lengths: Sequence[int], *, at_once: bool
) -> list[Array]:
    """The bodies of tensors, by their lengths in bytes, as read-only arrays of uint8.

    The memory is the service's own, and is given back when the last array is gone. `at_once`: all
    of it will be read now. Raises LaneFailed.
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
                    _mapped(fd, size, connection, at_once)
                    for fd, size in zip(fds, found.sizes, strict=True)
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


def _mapped(fd: int, size: int, connection: _Connection, at_once: bool) -> Array:
    # A fault for each sixteen pages takes as long as to copy them.
    flags = mmap.MAP_SHARED | (mmap.MAP_POPULATE if at_once else 0)
    mapping = _Mapping(fd, size, flags=flags, prot=mmap.PROT_READ)
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


def _connected(path: str, ticket: lane_pb2.LaneTicket) -> socket.socket:
    """A connection that has shown the ticket. Raises OSError."""
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        peer.settimeout(_SECONDS)
        peer.connect(path)
        peer.send(lane.HELLO + ticket.ticket)
    except BaseException:
        peer.close()
        raise
    return peer


def _failed(path: str, error: Exception) -> LaneFailed:
    """The lane is not tried again for a while."""
    _unusable[path] = time.monotonic() + _AGAIN_SECONDS
    return LaneFailed(f"the lane at {path} cannot be used: {error}")
