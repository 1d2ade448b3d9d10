"""TensorFlow's checkpoint files, read without TensorFlow.

`PREFIX.index` is a sorted string table as LevelDB writes them, of protobuf messages that say where
in `PREFIX.data-xxxxx-of-xxxxx` the bytes of each tensor are. Reads only what TensorFlow writes:
tables that are not compressed, little-endian, tensors that are not sliced.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from crc32c import crc32c
from google.protobuf.message import DecodeError

from varserve import tensors
from varserve.checkpoint import ObjectGraph
from varserve.checkpoint.v1 import checkpoint_pb2 as pb
from varserve.frames import read_varint
from varserve.tensors import Array

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"

_UNREADABLE = (OSError, ValueError, IndexError, struct.error, DecodeError)


class BundleError(Exception):
    """A checkpoint cannot be read; the message names the file."""


class Bundle:
    """One checkpoint, or the variables of one SavedModel. Raises BundleError."""

    def __init__(self, index: Path) -> None:
        self._index = index
        self._prefix = index.name.removesuffix(".index")
        try:
            table = dict(_table(index.read_bytes()))
            header = pb.Header.FromString(table.pop(b"", b""))
            self._shards = header.num_shards
            if header.endianness:
                raise ValueError("it is big-endian")
            self._entries = {
                key.decode(): pb.Entry.FromString(value) for key, value in table.items()
            }
        except _UNREADABLE as error:
            raise BundleError(f"{index}: no checkpoint that can be read: {error}") from None

    @property
    def keys(self) -> list[str]:
        """What the tensors are called in the file."""
        return [key for key in self._entries if key != _GRAPH]

    def read(self, key: str) -> Array:
        """One tensor."""
        entry = self._entries[key]
        where = f"{self._index}: {key!r}"
        if entry.slices:
            raise BundleError(f"{where} is saved in slices, which are not read here")
        try:
            shape = tuple(each.size for each in entry.shape.dim)
            name = tensors.from_wire_dtype(entry.dtype)
            count = tensors.element_count(shape)
            shard = self._index.with_name(
                f"{self._prefix}.data-{entry.shard_id:05}-of-{self._shards:05}"
            )
            if name == tensors.STRING:
                with shard.open("rb") as file:
                    file.seek(entry.offset)
                    return _strings(file.read(entry.size), count, entry).reshape(shape)
            dtype = tensors.numpy_dtype(name)
            if entry.size != count * dtype.itemsize:
                raise ValueError(f"expected {count * dtype.itemsize} bytes, found {entry.size}")
            array = np.fromfile(shard, np.uint8, entry.size, offset=entry.offset)
            if array.nbytes != entry.size:
                raise ValueError(f"{shard.name} is cut off")
            if entry.HasField("crc32c") and _masked(crc32c(array.data)) != entry.crc32c:
                raise ValueError(f"the checksum in {shard.name} is wrong")
            return array.view(dtype).reshape(shape)
        except _UNREADABLE as error:
            raise BundleError(f"{where}: {error}") from None

    def graph(self) -> ObjectGraph | None:
        """The object graph, where the checkpoint has one."""
        if _GRAPH not in self._entries:
            return None
        content = self.read(_GRAPH).item()
        try:
            return ObjectGraph(pb.ObjectGraph.FromString(content))
        except DecodeError as error:
            raise BundleError(f"{self._index}: its object graph cannot be read: {error}") from None


# ---- the table ----


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """All entries of a sorted string table, in order."""
    if len(data) < _FOOTER or struct.unpack("<Q", data[-8:])[0] != _MAGIC:
        raise ValueError("it has not the end of one")
    footer = data[-_FOOTER:]
    at = 0
    for _ in range(2):  # of what is beside the index, which is not needed
        _, at = _number(footer, at)
    for _, handle in _block(data, *_handle(footer, at)):
        yield from _block(data, *_handle(handle, 0))


def _handle(data: bytes, at: int) -> tuple[int, int]:
    offset, at = _number(data, at)
    size, _ = _number(data, at)
    return offset, size


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """The entries of a block: each key tells how much of the one before it begins with."""
    block = data[offset : offset + size]
    if len(block) != size or size < 4 or len(data) < offset + size + 5:
        raise ValueError("it is cut off")
    kind = data[offset + size]
    if kind != 0:
        raise ValueError(f"its table is compressed (kind {kind})")
    (crc,) = struct.unpack_from("<I", data, offset + size + 1)
    if _masked(crc32c(data[offset : offset + size + 1])) != crc:
        raise ValueError("a checksum of its table is wrong")
    (restarts,) = struct.unpack("<I", block[-4:])
    end, at, key = size - 4 - 4 * restarts, 0, b""
    while at < end:
        shared, at = _number(block, at)
        own, at = _number(block, at)
        length, at = _number(block, at)
        key = key[:shared] + block[at : at + own]
        at += own
        yield key, block[at : at + length]
        at += length


def _number(data: bytes, at: int) -> tuple[int, int]:
    return read_varint(data, at, 9)


def _masked(crc: int) -> int:
    """As LevelDB and TensorFlow write a checksum."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _strings(data: bytes, count: int, entry: pb.Entry) -> Array:
    """A string tensor: all lengths, a checksum of these, and then the strings.

    The checksums are of the lengths as they are in memory, not as they are written.
    """
    lengths, at = [], 0
    for _ in range(count):
        length, at = _number(data, at)
        lengths.append(length)
    checked = b"".join(struct.pack("<I" if n < 2**32 else "<Q", n) for n in lengths)
    checksum, at = data[at : at + 4], at + 4
    if struct.unpack("<I", checksum)[0] != _masked(crc32c(checked)):
        raise ValueError("the checksum of its lengths is wrong")
    if entry.HasField("crc32c") and _masked(crc32c(checked + data[at - 4 :])) != entry.crc32c:
        raise ValueError("its checksum is wrong")
    strings = np.empty(count, object)
    for number, length in enumerate(lengths):
        strings[number] = data[at : at + length]
        at += length
    if at != len(data):
        raise ValueError("its strings do not fill their place")
    return strings
