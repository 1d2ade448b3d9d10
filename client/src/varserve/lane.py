"""The lane in Python: how tensors lie in memories, how a memory is sealed, and what is sent beside.

Owns what both ends of the lane's socket must agree on, as `lane.proto` says it. Knows Linux's
memfds; knows nothing of gRPC, and nothing of client or service.
"""

from __future__ import annotations

import mmap
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from varserve.frames import crc32c

try:
    import fcntl
except ImportError:  # Windows, where there is no lane
    fcntl = None  # type: ignore[assignment]

HELLO: Final = b"VSL1"
HELLO_PORT: Final = b"VSL2"
TICKET_BYTES: Final = 32
TAKEN: Final = b"\0"
REFUSED: Final = b"\1"
TICKET_KEY: Final = "varserve-lane-bin"
"""In the initial metadata of an assign: a LaneTicket."""

OWN_BYTES: Final = 1 << 20
"""A tensor of so many bytes has a memory of its own."""
PIECE_BYTES: Final = 1 << 20
"""A piece of a tensor that goes by the port has at most so many bytes."""
MOST_CONNECTIONS: Final = 4
"""To the port for one value."""
MOST_OWN: Final = 60
"""So many tensors at the most: a packet carries 253 descriptors."""
PAGE: Final = 4096
_ALIGNMENT: Final = 64

# Python's fcntl has no names for the seals before 3.14, and none for this on macOS.
_ADD_SEALS: Final = 1033
_GET_SEALS: Final = 1034
_SEALS: Final = 0x1 | 0x2 | 0x4 | 0x8  # SEAL, SHRINK, GROW, WRITE
_FIXED: Final = 0x2 | 0x4 | 0x8


class LaneError(Exception):
    """A memory or a packet is not what had to come."""


def is_possible() -> bool:
    """Whether this machine has what the lane needs."""
    return hasattr(os, "memfd_create") and hasattr(socket, "SOCK_SEQPACKET")


class Place(NamedTuple):
    """Where a tensor lies: in which memory, and from which byte on."""

    memory: int
    start: int


class Layout(NamedTuple):
    """Where the tensors of one call lie, and the bytes of each memory."""

    places: tuple[Place, ...]
    sizes: tuple[int, ...]


def layout(lengths: Sequence[int]) -> Layout:
    """How tensors of these many bytes lie in memories, in the order of the manifest."""
    large = [index for index, nbytes in enumerate(lengths) if nbytes >= OWN_BYTES][:MOST_OWN]
    own = {index: memory for memory, index in enumerate(large)}
    places, end = [], 0
    for index, nbytes in enumerate(lengths):
        if index in own:
            places.append(Place(own[index], 0))
        else:
            start = -(-end // _ALIGNMENT) * _ALIGNMENT
            places.append(Place(len(large), start))
            end = start + nbytes
    sizes = [lengths[index] for index in large] + ([end] if end else [])
    return Layout(tuple(places), tuple(-(-size // PAGE) * PAGE for size in sizes))


def new_memory(size: int) -> int:
    """The descriptor of a memory of so many bytes, which are 0. Raises OSError."""
    fd = os.memfd_create("varserve", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
    except BaseException:
        os.close(fd)
        raise
    return fd


def write(fd: int, pieces: Iterable[memoryview], at: int = 0) -> None:
    """Write bytes to a memory. Raises OSError."""
    for piece in pieces:
        while piece:
            written = os.pwrite(fd, piece, at)
            piece, at = piece[written:], at + written


def seal(fd: int) -> None:
    """Let nobody change a memory any more. Raises OSError while it is mapped to be written to."""
    fcntl.fcntl(fd, _ADD_SEALS, _SEALS)


def check_sealed(fd: int, size: int) -> None:
    """Raises LaneError for what is not a sealed memory of this size."""
    try:
        seals = fcntl.fcntl(fd, _GET_SEALS)
    except OSError:
        raise LaneError("expected a memfd, found another kind of file") from None
    if seals & _FIXED != _FIXED:
        raise LaneError(f"expected the seals WRITE, GROW and SHRINK, found {seals:#x}")
    found = os.fstat(fd).st_size
    if found != size:
        raise LaneError(f"expected a memory of {size} bytes, found {found}")
    # Of huge pages there may be none left when it is read, which would end this process.
    if os.fstatvfs(fd).f_bsize != mmap.PAGESIZE:
        raise LaneError("expected a memory of ordinary pages, found one of huge pages")


# ---- the port ----


def pieces(
    lengths: Sequence[int], connection: int = 0, connections: int = 1
) -> Iterator[tuple[int, int, int]]:
    """The pieces of tensors of these many bytes that one of several connections carries, in order:
    which tensor, and from which to which byte of it.
    """
    number = 0
    for tensor, nbytes in enumerate(lengths):
        for start in range(0, nbytes, PIECE_BYTES):
            if number % connections == connection:
                yield tensor, start, min(nbytes, start + PIECE_BYTES)
            number += 1


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def most_connections() -> int:
    """How many connections for one value this machine has cores for."""
    return max(1, min(MOST_CONNECTIONS, cores() // 2))


def send_piece(peer: socket.socket, piece: memoryview) -> None:
    """Send a piece of a tensor and its checksum. Raises OSError."""
    head = crc32c(piece).to_bytes(4, "little")
    if not _has_sendmsg(peer):
        peer.sendall(head)
        peer.sendall(piece)
        return
    sent = peer.sendmsg([head, piece]) - len(head)
    if sent < 0:
        peer.sendall(head[sent:])
        sent = 0
    while sent < len(piece):
        sent += peer.send(piece[sent:])


def _has_sendmsg(peer: socket.socket) -> bool:
    return type(peer) is socket.socket  # TLS has none


def receive_piece(peer: socket.socket, piece: memoryview) -> None:
    """Receive a piece into memory. Raises OSError, and LaneError where its checksum is another."""
    head = bytearray(4)
    receive_all(peer, memoryview(head))
    receive_all(peer, piece)
    found = crc32c(piece)
    if found != int.from_bytes(head, "little"):
        raise LaneError(f"expected CRC32C {head[::-1].hex()}, found {found:08x}")


def receive_all(peer: socket.socket, memory: memoryview) -> None:
    """Fill memory. Raises OSError, also where the peer ends before that."""
    while memory:
        count = peer.recv_into(memory)
        if not count:
            raise ConnectionResetError("the peer ended before all was there")
        memory = memory[count:]


# ---- messages of sessions ----

_HEAD_BYTES = 4


def with_length(message: bytes) -> bytes:
    """A message as it goes on a connection."""
    return len(message).to_bytes(_HEAD_BYTES, "little") + message


class Messages:
    """The messages of one side of a connection, from the bytes that come."""

    def __init__(self, most_bytes: int) -> None:
        """`most_bytes`: of one message."""
        self._most_bytes = most_bytes
        self._data: bytes | bytearray = b""
        self._at = 0

    def add(self, data: bytes) -> None:
        """What came next."""
        if self._at == len(self._data):
            self._data = data
        else:
            if self._at or isinstance(self._data, bytes):
                self._data = bytearray(self._data[self._at :])
            self._data += data
        self._at = 0

    def next(self) -> bytes | None:
        """The next message; None: it is not there yet. Raises LaneError for a wrong length."""
        data, start = self._data, self._at + _HEAD_BYTES
        if len(data) < start:
            return None
        length = int.from_bytes(data[self._at : start], "little")
        if not 1 <= length <= self._most_bytes:
            raise LaneError(
                f"expected a message of 1 to {self._most_bytes} bytes, found the length {length}"
            )
        end = start + length
        if len(data) < end:
            return None
        self._at = end
        return bytes(data[start:end])

    def end(self) -> None:
        """Nothing more comes. Raises LaneError in the middle of a message."""
        if self._at < len(self._data):
            raise LaneError("the connection ended in the middle of a message")
