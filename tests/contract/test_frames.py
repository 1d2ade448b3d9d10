"""The chunk frames: the bytes of the generated classes, and bodies that arrive as they left."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from crc32c import crc32c
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from varserve import frames
from varserve.frames import BodyReceiver, BytesPart, ChunkFrame, FrameError, body_messages
from varserve.v1 import model_service_pb2 as pb
from varserve.v1 import tensor_pb2

SEED = int(os.environ.get("VARSERVE_TEST_SEED", random.SystemRandom().randrange(2**32)))

READERS: dict[str, tuple[Callable[[bytes], Any], Any]] = {
    "ReadVariablesResponse": (frames.read_variables_response, pb.ReadVariablesResponse),
    "AssignVariablesRequest": (frames.assign_variables_request, pb.AssignVariablesRequest),
    "StreamRunFunctionRequest": (frames.stream_run_function_request, pb.StreamRunFunctionRequest),
    "StreamRunFunctionResponse": (
        frames.stream_run_function_response,
        pb.StreamRunFunctionResponse,
    ),
}
EACH_STREAM = pytest.mark.parametrize("name", READERS)
OFFSETS = [0, 1, 127, 128, 2**14, 2**20, 2**31, 2**32 - 1, 2**35, 2**62, 2**63 - 1]


def chunk_of(rng: random.Random) -> tensor_pb2.Chunk:
    data = rng.randbytes(rng.choice([1, 2, 5, 127, 128, 300]))
    checksum = rng.choice([crc32c(data), 0, 1, 2**32 - 1])
    return tensor_pb2.Chunk(offset=rng.choice(OFFSETS), crc32c=checksum, data=data)


def manifest_of(name: str, rng: random.Random) -> Any:
    header = tensor_pb2.TensorHeader(dtype=1, shape=[rng.randrange(300)], byte_length=4)
    named = tensor_pb2.NamedTensorHeader(name="x" * rng.randrange(200), tensor=header)
    match name:
        case "ReadVariablesResponse":
            entry = pb.ReadEntry(variable="é" * rng.randrange(70), tensor=header)
            return {"manifest": pb.ReadManifest(entries=[entry] * rng.randrange(3))}
        case "AssignVariablesRequest":
            entry = pb.AssignEntry(variable="v", tensor=header, if_revision_match=rng.randrange(9))
            return {"manifest": pb.AssignManifest(model="m", entries=[entry] * rng.randrange(3))}
        case "StreamRunFunctionRequest":
            return {"manifest": pb.RunManifest(model="m", inputs=[named] * rng.randrange(3))}
    return {"result": pb.RunResult(outputs=[named] * rng.randrange(3))}


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def reordered(chunk: tensor_pb2.Chunk, rng: random.Random) -> bytes:
    """A chunk whose fields come in any order, some twice, some unknown, some oddly encoded."""
    one_byte_more = bytes([0x80 | chunk.offset & 0x7F]) + varint(chunk.offset >> 7 or 0)
    parts = [
        b"\x08" + rng.choice([varint(chunk.offset), one_byte_more, b"\xff" * 9 + b"\x01"]),
        b"\x15" + chunk.crc32c.to_bytes(4, "little"),
        field(3, chunk.data),
        field(99, b"unknown"),
        b"\x20\x07",  # field 4, a varint
        field(3, b"once more"),
        b"\x08\x05",
    ]
    return field(2, b"".join(rng.sample(parts, rng.randrange(len(parts) + 1))))


def messages_of(name: str, rng: random.Random) -> Iterator[bytes]:
    """Stream messages as anybody may write them."""
    cls = READERS[name][1]
    chunk, other = cls(chunk=chunk_of(rng)), cls(**manifest_of(name, rng))
    plain, first = chunk.SerializeToString(), other.SerializeToString()
    yield from (plain, first)
    yield plain + first  # the oneof is switched
    yield first + plain
    yield plain + cls(chunk=chunk_of(rng)).SerializeToString()  # merged
    yield plain + field(77, b"unknown")
    yield field(77, b"unknown") + plain
    yield reordered(chunk_of(rng), rng)
    yield plain + reordered(chunk_of(rng), rng)
    yield b"\x92\x00" + plain[1:]  # the tag in two bytes
    data = b"\x1a" + bytes([0x83, *[0x80] * rng.randrange(10), 0]) + b"abc"
    yield b"\x12" + bytes([0x80 | len(data), *[0x80] * rng.randrange(10), 0]) + data
    flipped = bytearray(rng.choice([plain, first]))
    flipped[rng.randrange(min(len(flipped), 12))] ^= 1 << rng.randrange(8)
    yield bytes(flipped)
    yield rng.choice([b"", b"\x12", b"\x0a"]) + rng.randbytes(rng.randrange(20))


ROUNDS_MOST = 4000


def endless(name: str, rng: random.Random) -> Iterator[bytes]:
    """Messages, round after round, for the test to stop at when it has tried enough."""
    for _ in range(ROUNDS_MOST):
        yield from messages_of(name, rng)
    pytest.fail(f"too little was tried in {ROUNDS_MOST} rounds")


def outcome(read: Callable[[bytes], Any], message: bytes) -> tuple[Any, ...]:
    """What reading a message comes to, in a form that compares."""
    try:
        found = read(message)
    except DecodeError:
        return ("DecodeError",)
    if isinstance(found, ChunkFrame):
        return (found.offset, found.crc32c, bytes(found.data))
    if found.WhichOneof("message") == "chunk":
        return (found.chunk.offset, found.chunk.crc32c, found.chunk.data)
    return (found.SerializeToString(deterministic=True),)


@EACH_STREAM
def test_messages_are_read_as_the_generated_class_reads_them(name: str) -> None:
    """Of thousands of messages, well-formed or not, every one is read as protobuf reads it."""
    print(f"seed {SEED}")
    rng = random.Random(f"{SEED} {name}")
    read, cls = READERS[name]
    seen = {"chunk": 0, "other": 0, "refused": 0}
    for message in endless(name, rng):
        expected = outcome(cls.FromString, message)
        assert outcome(read, message) == expected, message.hex()
        kinds = {3: "chunk", 1: "refused" if expected == ("DecodeError",) else "other"}
        seen[kinds[len(expected)]] += 1
        if min(seen.values()) > 500:
            break


@EACH_STREAM
def test_a_message_cut_off_anywhere_is_read_as_the_generated_class_reads_it(name: str) -> None:
    """Cut at any byte, a message is refused, or is what the generated class makes of it."""
    print(f"seed {SEED}")
    rng = random.Random(f"{SEED} {name} cut")
    read, cls = READERS[name]
    cuts = 0
    for message in endless(name, rng):
        for end in range(len(message)):
            part = message[:end]
            assert outcome(read, part) == outcome(cls.FromString, part), part.hex()
            cuts += 1
        if cuts >= 5000:
            break


@EACH_STREAM
def test_chunks_are_written_as_the_generated_class_writes_them(name: str) -> None:
    """A chunk message is byte for byte what the generated class serializes, and is read back."""
    print(f"seed {SEED}")
    rng = random.Random(f"{SEED} {name} write")
    cls = READERS[name][1]
    for turn in range(1000):
        data = rng.randbytes(rng.choice([1, 2, 127, 128, 16_384]))
        offset = OFFSETS[turn % len(OFFSETS)]
        cut = rng.randrange(len(data))
        written = frames.chunk_message(offset, [memoryview(data)[:cut], memoryview(data)[cut:]])
        chunk = tensor_pb2.Chunk(offset=offset, crc32c=crc32c(data), data=data)
        assert written == cls(chunk=chunk).SerializeToString()
        frame = frames.read_chunk(written)
        assert frame is not None, "the fast path did not read what it wrote"
        assert (frame.offset, frame.crc32c, bytes(frame.data)) == (offset, crc32c(data), data)


def test_a_checksum_of_zero_is_left_out_as_protobuf_leaves_it_out() -> None:
    """Data whose CRC32C is 0 gives a message without that field, as the generated class does."""
    data = b"ab" + bytes.fromhex("9db24279")
    assert crc32c(data) == 0
    chunk = tensor_pb2.Chunk(offset=3, crc32c=0, data=data)
    written = frames.chunk_message(3, [memoryview(data)])
    assert written == pb.ReadVariablesResponse(chunk=chunk).SerializeToString()
    assert frames.read_chunk(written) == ChunkFrame(3, 0, memoryview(data))


# Bodies.


def chunks_of(parts: list[bytes], chunk_bytes: int) -> list[ChunkFrame]:
    found = [
        frames.read_chunk(message)
        for message in body_messages([BytesPart(part) for part in parts], chunk_bytes)
    ]
    return [frame for frame in found if frame is not None]


def memory(*sizes: int) -> list[np.ndarray[Any, Any]]:
    return [np.zeros(size, np.uint8) for size in sizes]


def frame(offset: int, data: bytes, checksum: int | None = None) -> ChunkFrame:
    return ChunkFrame(offset, crc32c(data) if checksum is None else checksum, memoryview(data))


@settings(max_examples=100)
@given(
    parts=st.lists(st.binary(max_size=40), max_size=8),
    chunk_bytes=st.integers(1, 50),
)
def test_a_body_comes_back_whatever_the_chunk_size(parts: list[bytes], chunk_bytes: int) -> None:
    """Parts of any size, cut into chunks of any size, arrive in their own memory as they were."""
    destinations = memory(*(len(part) for part in parts))
    receiver = BodyReceiver(destinations, chunk_bytes)
    found = chunks_of(parts, chunk_bytes)
    for chunk in found:
        receiver.take(chunk)
    receiver.finish()
    assert [d.tobytes() for d in destinations] == parts
    total = sum(map(len, parts))
    assert len(found) == -(-total // chunk_bytes)
    assert all(len(chunk.data) == chunk_bytes for chunk in found[:-1])


@settings(max_examples=50)
@given(data=st.binary(min_size=1, max_size=60), cuts=st.lists(st.integers(1, 59), max_size=6))
def test_a_sender_may_cut_where_it_likes(data: bytes, cuts: list[int]) -> None:
    """Chunks of any sizes are taken, as long as none is empty or too large."""
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    destinations = memory(len(data) // 3, len(data) - len(data) // 3)
    receiver = BodyReceiver(destinations, 60)
    for start, stop in pairwise(edges):
        assert not receiver.complete
        receiver.take(frame(start, data[start:stop]))
    receiver.finish()
    assert b"".join(d.tobytes() for d in destinations) == data


def test_many_small_parts_share_chunks() -> None:
    """1,000 parts of 1 KiB travel in one chunk, 3,000 in three, and none of size zero in any."""
    parts = [bytes([number % 256]) * 1024 for number in range(3000)]
    assert len(chunks_of(parts[:1000], 2**20)) == 1
    assert [len(chunk.data) for chunk in chunks_of(parts, 2**20)] == [2**20, 2**20, 974_848]
    assert chunks_of([b""] * 1000, 2**20) == []
    assert len(chunks_of([b"", b"a", b"", b"b", b""], 2**20)) == 1


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.array(1.5, np.float64),
        np.array([1, 2], ml_dtypes.bfloat16),
        np.array([1, 2], ml_dtypes.float8_e5m2),
        np.zeros((0, 3), np.int64),
        np.array([1j]),
    ],
    ids=str,
)
def test_arrays_are_parts_of_a_body(array: np.ndarray[Any, Any]) -> None:
    """The buffer of an array of any dtype is its bytes."""
    part = BytesPart(array)
    assert (part.nbytes, bytes(part.buffer(0, part.nbytes))) == (array.nbytes, array.tobytes())


def receive(receiver: BodyReceiver, chunks: list[ChunkFrame]) -> None:
    for chunk in chunks:
        receiver.take(chunk)
    receiver.finish()


GOOD = frame(0, b"abcd")
WRONG_ORDERS: dict[str, tuple[list[ChunkFrame], str]] = {
    "gap at the beginning": ([frame(1, b"bcd")], "CHUNK_INVALID"),
    "gap": ([GOOD, frame(5, b"f")], "CHUNK_INVALID"),
    "overlap": ([GOOD, frame(3, b"de")], "CHUNK_INVALID"),
    "twice": ([GOOD, GOOD], "CHUNK_INVALID"),
    "backwards": ([frame(4, b"efgh"), GOOD], "CHUNK_INVALID"),
    "negative offset": ([frame(-1, b"a")], "CHUNK_INVALID"),
    "empty": ([frame(0, b"")], "CHUNK_INVALID"),
    "empty in between": ([GOOD, frame(4, b"")], "CHUNK_INVALID"),
    "too large a chunk": ([frame(0, b"abcde")], "CHUNK_INVALID"),
    "beyond the end": ([GOOD, frame(4, b"efgh"), frame(8, b"i")], "CHUNK_INVALID"),
    "across the end": ([GOOD, frame(4, b"efg"), frame(7, b"hi")], "CHUNK_INVALID"),
    "bad checksum": ([frame(0, b"abcd", 1)], "CHECKSUM_MISMATCH"),
    "no checksum": ([frame(0, b"abcd", 0)], "CHECKSUM_MISMATCH"),
    "bad second checksum": ([GOOD, frame(4, b"efgh", 1)], "CHECKSUM_MISMATCH"),
    "nothing": ([], "CHUNK_INVALID"),
    "short": ([GOOD, frame(4, b"efg")], "CHUNK_INVALID"),
}


@pytest.mark.parametrize("case", WRONG_ORDERS)
def test_chunks_that_do_not_make_the_body_are_refused(case: str) -> None:
    """Out of order, overlapping, missing, empty, too large, damaged: each has its reason."""
    chunks, reason = WRONG_ORDERS[case]
    receiver = BodyReceiver(memory(3, 0, 5), chunk_bytes=4)
    with pytest.raises(FrameError) as caught:
        receive(receiver, chunks)
    assert caught.value.reason == reason


def test_a_refused_chunk_leaves_no_byte_behind() -> None:
    """A chunk is checked before it is copied: the memory is as the chunks before it left it."""
    destinations = memory(3, 5)
    receiver = BodyReceiver(destinations, chunk_bytes=8)
    receiver.take(frame(0, b"abcd"))
    for bad in (frame(4, b"efgh", 1), frame(4, b"efghi"), frame(5, b"f")):
        with pytest.raises(FrameError):
            receiver.take(bad)
    assert b"".join(d.tobytes() for d in destinations) == b"abcd\0\0\0\0"
    receiver.take(frame(4, b"efgh"))
    receiver.finish()
    assert b"".join(d.tobytes() for d in destinations) == b"abcdefgh"


def test_a_body_without_bytes_is_complete_from_the_start() -> None:
    """No tensors, and tensors without elements, need no chunk and take none."""
    for sizes in ((), (0,), (0, 0)):
        receiver = BodyReceiver(memory(*sizes), chunk_bytes=4)
        receiver.finish()
        with pytest.raises(FrameError):
            receiver.take(frame(0, b"a"))
