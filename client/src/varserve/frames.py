"""The bulk path: bodies cut into chunk messages, and chunk messages put back together.

Owns the chunk messages of every streaming call as wire bytes, written and read without passing
through message objects: one copy out of the value's memory, one copy into the receiver's. What it
writes is byte for byte what the generated classes write, and what it cannot read at a glance the
generated classes read. Knows nothing of gRPC, and nothing of client or service.

In all four stream messages `manifest` (or `result`) is field 1 and `chunk` is field 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    # Those of large values are imported by the first of them.
    from varserve.v1 import inspection_pb2, model_service_pb2

ACCEPTED_KEY = "varserve-accepted"
"""In the initial metadata of an uploading call: the manifest was accepted, the body may come."""

CHUNK_TAG = 0x12  # field 2, length-delimited
_OFFSET_TAG = 0x08
_CRC_TAG = 0x15
_DATA_TAG = 0x1A


def crc32c(data: memoryview, before: int = 0) -> int:
    """CRC32C of what a checksum `before` is of, and of `data` after it."""
    # Imported by the first chunk: it looks into the environment's metadata, for longer than all of
    # this package takes that a program without a chunk needs.
    from crc32c import crc32c as computed

    return computed(data, before)


@cache
def keep_what_is_freed() -> None:
    """Let the memory that one message leaves be there for the next one.

    glibc gives what is free at the end of its heap back to the system when it is more than twice
    the largest block that it ever mapped by itself and freed, as mallopt(3) has it, and each
    message of a body would have to be given its pages anew: a third of the time. So it is shown
    one of nearly 32 MiB, the most that counts. Nothing touches it; any other allocator does not
    mind.
    """
    np.empty((32 << 20) - (64 << 10), np.uint8)


class FrameError(ValueError):
    """A chunk is not the one that had to come. `reason` is the name of an ErrorReason."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class ChunkFrame(NamedTuple):
    """One chunk message. `data` shares memory with the message that it was read from."""

    offset: int
    crc32c: int
    data: memoryview


class BodyPart(Protocol):
    """A tensor's bytes, to be sent."""

    @property
    def nbytes(self) -> int: ...

    def buffer(self, start: int, stop: int) -> memoryview:
        """Bytes start to stop, contiguous."""
        ...


class BytesPart:
    """A body part that is in host memory already: anything with a C-contiguous buffer."""

    def __init__(self, data: bytes | memoryview | npt.NDArray[Any]) -> None:
        if isinstance(data, np.ndarray):
            # As bytes: the buffer protocol knows no bfloat16, and no cast of an empty array.
            data = data.reshape(-1).view(np.uint8).data if data.size else b""
        self._view = memoryview(data).cast("B")
        self.nbytes = len(self._view)

    def buffer(self, start: int, stop: int) -> memoryview:
        return self._view[start:stop]


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def chunk_message(offset: int, pieces: Sequence[memoryview]) -> bytes:
    """A stream message that holds one chunk, whose data is the pieces one after the other.

    The same bytes as `ReadVariablesResponse(chunk=Chunk(...)).SerializeToString()`; at least one
    byte of data.
    """
    checksum = 0
    length = 0
    for piece in pieces:
        checksum = crc32c(piece, checksum)
        length += len(piece)
    head = b"" if offset == 0 else b"\x08" + _varint(offset)
    if checksum:
        head += b"\x15" + checksum.to_bytes(4, "little")
    head += b"\x1a" + _varint(length)
    return b"".join((b"\x12", _varint(len(head) + length), head, *pieces))


def body_messages(parts: Iterable[BodyPart], chunk_bytes: int) -> Iterator[bytes]:
    """The chunk messages of a body: its parts one after the other, cut every `chunk_bytes`."""
    offset = 0
    pieces: list[memoryview] = []
    room = chunk_bytes
    for part in parts:
        start = 0
        while start < part.nbytes:
            stop = min(part.nbytes, start + room)
            pieces.append(part.buffer(start, stop))
            room -= stop - start
            start = stop
            if room == 0:
                yield chunk_message(offset, pieces)
                offset += chunk_bytes
                pieces, room = [], chunk_bytes
    if pieces:
        yield chunk_message(offset, pieces)


# A length has fewer bytes than protobuf allows, an offset as many as a positive int64 has.
_LENGTH_BYTES = 4
_OFFSET_BYTES = 9


def read_varint(data: bytes, at: int, longest: int) -> tuple[int, int]:
    """A number of at most `longest` bytes, and where it ends. Raises IndexError."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift == 7 * longest:
            raise IndexError


def read_chunk(message: bytes) -> ChunkFrame | None:
    """The chunk in a stream message, when it is laid out as `chunk_message` lays it out.

    None for anything else, also for valid protobuf in another order or with unknown fields: that
    is for the generated class to read.
    """
    try:
        if message[0] != CHUNK_TAG:
            return None
        length, at = read_varint(message, 1, _LENGTH_BYTES)
        if at + length != len(message):
            return None
        offset = checksum = 0
        if message[at] == _OFFSET_TAG:
            offset, at = read_varint(message, at + 1, _OFFSET_BYTES)
        if message[at] == _CRC_TAG:
            checksum = int.from_bytes(message[at + 1 : at + 5], "little")
            at += 5
        if message[at] != _DATA_TAG:
            return None
        length, at = read_varint(message, at + 1, _LENGTH_BYTES)
        if at + length != len(message):
            return None
    except IndexError:
        return None
    return ChunkFrame(offset, checksum, memoryview(message)[at:])


def chunk_frame(chunk: Any) -> ChunkFrame:
    """The frame of a generated Chunk message."""
    return ChunkFrame(chunk.offset, chunk.crc32c, memoryview(chunk.data))


def read_variables_response(
    message: bytes,
) -> ChunkFrame | model_service_pb2.ReadVariablesResponse:
    """A deserializer for ReadVariablesResponse. Raises DecodeError for what is not protobuf."""
    from varserve.v1.model_service_pb2 import ReadVariablesResponse

    return read_chunk(message) or _parsed(ReadVariablesResponse, message)


def assign_variables_request(
    message: bytes,
) -> ChunkFrame | model_service_pb2.AssignVariablesRequest:
    """A deserializer for AssignVariablesRequest. Raises DecodeError for what is not protobuf."""
    from varserve.v1.model_service_pb2 import AssignVariablesRequest

    return read_chunk(message) or _parsed(AssignVariablesRequest, message)


def stream_run_function_request(
    message: bytes,
) -> ChunkFrame | model_service_pb2.StreamRunFunctionRequest:
    """A deserializer for StreamRunFunctionRequest. Raises DecodeError for what is not protobuf."""
    from varserve.v1.model_service_pb2 import StreamRunFunctionRequest

    return read_chunk(message) or _parsed(StreamRunFunctionRequest, message)


def stream_run_function_response(
    message: bytes,
) -> ChunkFrame | model_service_pb2.StreamRunFunctionResponse:
    """A deserializer for StreamRunFunctionResponse. Raises DecodeError for what is not protobuf."""
    from varserve.v1.model_service_pb2 import StreamRunFunctionResponse

    return read_chunk(message) or _parsed(StreamRunFunctionResponse, message)


def inspect_function_request(
    message: bytes,
) -> ChunkFrame | inspection_pb2.InspectFunctionRequest:
    """A deserializer for InspectFunctionRequest. Raises DecodeError for what is not protobuf."""
    from varserve.v1.inspection_pb2 import InspectFunctionRequest

    return read_chunk(message) or _parsed(InspectFunctionRequest, message)


def inspect_function_response(
    message: bytes,
) -> ChunkFrame | inspection_pb2.InspectFunctionResponse:
    """A deserializer for InspectFunctionResponse. Raises DecodeError for what is not protobuf."""
    from varserve.v1.inspection_pb2 import InspectFunctionResponse

    return read_chunk(message) or _parsed(InspectFunctionResponse, message)


def _parsed(cls: Any, message: bytes) -> Any:
    parsed = cls.FromString(message)
    if parsed.WhichOneof("message") == "chunk":
        return chunk_frame(parsed.chunk)
    return parsed


def write_message(message: Any) -> bytes:
    """A serializer for streams that mix message objects and finished chunk messages."""
    data: bytes = message if isinstance(message, bytes) else message.SerializeToString()
    return data


class BodyReceiver:
    """Puts the chunks of a body into the memory that waits for it.

    `destinations` are the tensors' buffers in the order of the manifest, as flat uint8 arrays,
    already allocated. Chunks must come in order, without gaps or overlaps, with their CRC32C.
    """

    def __init__(self, destinations: Sequence[npt.NDArray[np.uint8]], chunk_bytes: int) -> None:
        self._destinations = [d for d in destinations if d.size]
        self._chunk_bytes = chunk_bytes
        self._expected = sum(d.size for d in self._destinations)
        self._received = 0
        self._current = 0
        self._filled = 0

    @property
    def complete(self) -> bool:
        """Every byte has arrived."""
        return self._received == self._expected

    def take(self, frame: ChunkFrame) -> None:
        """Check one chunk and copy it. Raises FrameError CHUNK_INVALID or CHECKSUM_MISMATCH."""
        size = len(frame.data)
        if frame.offset != self._received:
            raise FrameError(
                "CHUNK_INVALID",
                f"expected a chunk at offset {self._received}, found one at {frame.offset}",
            )
        if not 0 < size <= self._chunk_bytes:
            raise FrameError(
                "CHUNK_INVALID",
                f"expected a chunk of 1 to {self._chunk_bytes} bytes, found {size}",
            )
        if size > self._expected - self._received:
            raise FrameError(
                "CHUNK_INVALID",
                f"the body has {self._expected} bytes; a chunk reaches to {self._received + size}",
            )
        checksum = crc32c(frame.data)
        if checksum != frame.crc32c:
            raise FrameError(
                "CHECKSUM_MISMATCH",
                f"chunk at offset {frame.offset}: expected CRC32C {frame.crc32c:#010x}, "
                f"found {checksum:#010x}",
            )
        source = np.frombuffer(frame.data, dtype=np.uint8)
        taken = 0
        while taken < size:
            destination = self._destinations[self._current]
            room = min(size - taken, destination.size - self._filled)
            # copyto lets other threads run while it copies; slice assignment does not.
            np.copyto(destination[self._filled : self._filled + room], source[taken : taken + room])
            taken += room
            self._filled += room
            if self._filled == destination.size:
                self._current += 1
                self._filled = 0
        self._received += size

    def finish(self) -> None:
        """Raises FrameError CHUNK_INVALID unless the body is complete."""
        if not self.complete:
            raise FrameError(
                "CHUNK_INVALID",
                f"the body ended after {self._received} of {self._expected} bytes",
            )
