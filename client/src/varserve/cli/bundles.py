"""TensorFlow's checkpoint files, read without TensorFlow.

`PREFIX.index` is a sorted string table as LevelDB writes them, of protobuf messages that say where
in `PREFIX.data-xxxxx-of-xxxxx` the bytes of each tensor are. Reads only what TensorFlow writes:
tables that are not compressed, little-endian, tensors that are not sliced.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from crc32c import crc32c

from varserve import tensors
from varserve.tensors import Array

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"


class BundleError(Exception):
    """A checkpoint cannot be read; the message names the file."""


@dataclass(frozen=True, slots=True)
class _Entry:
    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    nbytes: int
    crc: int | None
    sliced: bool


class Bundle:
    """One checkpoint, or the variables of one SavedModel. Raises BundleError."""

    def __init__(self, index: Path) -> None:
        self._index = index
        self._prefix = index.name.removesuffix(".index")
        try:
            table = dict(_table(index.read_bytes()))
            header = _fields(table.pop(b"", b""))
            self._shards = _int(header, 1)
            if _int(header, 2) != 0:
                raise ValueError("it is big-endian")
            self._entries = {key.decode(): _entry(value) for key, value in table.items()}
        except (OSError, ValueError, IndexError, struct.error) as error:
            raise BundleError(f"{index}: no checkpoint that can be read: {error}") from None

    @property
    def keys(self) -> list[str]:
        """What the tensors are called in the file."""
        return [key for key in self._entries if key != _GRAPH]

    def read(self, key: str) -> Array:
        """One tensor."""
        entry = self._entries[key]
        where = f"{self._index}: {key!r}"
        if entry.sliced:
            raise BundleError(f"{where} is saved in slices, which are not read here")
        try:
            name = tensors.from_wire_dtype(entry.dtype)
            count = tensors.element_count(entry.shape)
            shard = self._index.with_name(
                f"{self._prefix}.data-{entry.shard:05}-of-{self._shards:05}"
            )
            if name == tensors.STRING:
                with shard.open("rb") as file:
                    file.seek(entry.offset)
                    return _strings(file.read(entry.nbytes), count, entry.crc).reshape(entry.shape)
            dtype = tensors.numpy_dtype(name)
            if entry.nbytes != count * dtype.itemsize:
                raise ValueError(f"expected {count * dtype.itemsize} bytes, found {entry.nbytes}")
            array = np.fromfile(shard, np.uint8, entry.nbytes, offset=entry.offset)
            if array.nbytes != entry.nbytes:
                raise ValueError(f"{shard.name} is cut off")
            if entry.crc is not None and _masked(crc32c(array.data)) != entry.crc:
                raise ValueError(f"the checksum in {shard.name} is wrong")
            return array.view(dtype).reshape(entry.shape)
        except (OSError, ValueError, IndexError, struct.error) as error:
            raise BundleError(f"{where}: {error}") from None

    def graph(self) -> ObjectGraph | None:
        """The object graph, where the checkpoint has one."""
        if _GRAPH not in self._entries:
            return None
        content = self.read(_GRAPH).item()
        try:
            return ObjectGraph(content)
        except (ValueError, IndexError, struct.error) as error:
            raise BundleError(f"{self._index}: its object graph cannot be read: {error}") from None


@dataclass(frozen=True, slots=True)
class _Node:
    children: tuple[tuple[str, int], ...]
    name: str
    key: str


class ObjectGraph:
    """Which tensor is the value of which object, by the object's path or its own name."""

    def __init__(self, content: bytes) -> None:
        nodes = [_fields(each) for each in _fields(content).get(1, [])]
        self._nodes = [_node(each) for each in nodes]
        for number, each in enumerate(nodes):
            # Of an optimizer's slots the graph says of which variable they are, and not their name.
            for slot in each.get(3, []):
                fields = _fields(slot)
                of, name = self._nodes[_int(fields, 1)].name, _text(fields, 2)
                step = (f"{of}/{name}", _int(fields, 3))
                node = self._nodes[number]
                self._nodes[number] = replace(node, children=(*node.children, step))
        self._names = Counter(node.name for node in self._nodes if node.key)
        self._by_name = {node.name: node.key for node in self._nodes if node.key}

    def key_of(self, path: str, name: str) -> str | None:
        """The key of a variable's tensor; None where the graph has no such variable."""
        node = self._walk(0, path) if self._nodes else None
        if node is not None and node.key:
            return node.key
        return self._by_name.get(name) if self._names[name] == 1 else None

    def _walk(self, start: int, path: str) -> _Node | None:
        """The node at the end of a path; a step of it may have slashes of its own."""
        places = [(start, path)]
        seen = set()
        while places:
            place = places.pop()
            number, rest = place
            if place in seen or not 0 <= number < len(self._nodes):
                continue
            seen.add(place)
            if not rest:
                return self._nodes[number]
            for step, child in self._nodes[number].children:
                if rest == step:
                    places.append((child, ""))
                elif rest.startswith(f"{step}/"):
                    places.append((child, rest[len(step) + 1 :]))
        return None


def _node(node: dict[int, list[Any]]) -> _Node:
    children = []
    for each in node.get(1, []):
        child = _fields(each)
        children.append((_text(child, 2), _int(child, 1)))
    name = key = ""
    for each in node.get(2, []):
        attribute = _fields(each)
        if _text(attribute, 1) == "VARIABLE_VALUE":
            name, key = _text(attribute, 2), _text(attribute, 3)
    return _Node(tuple(children), name, key)


# ---- the table ----


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """All entries of a sorted string table, in order."""
    if len(data) < _FOOTER or struct.unpack("<Q", data[-8:])[0] != _MAGIC:
        raise ValueError("it has not the end of one")
    footer = data[-_FOOTER:]
    at = 0
    for _ in range(2):  # of what is beside the index, which is not needed
        _, at = _varint(footer, at)
    for _, handle in _block(data, *_handle(footer, at)):
        yield from _block(data, *_handle(handle, 0))


def _handle(data: bytes, at: int) -> tuple[int, int]:
    offset, at = _varint(data, at)
    size, _ = _varint(data, at)
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
        shared, at = _varint(block, at)
        own, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + own]
        at += own
        yield key, block[at : at + length]
        at += length


def _masked(crc: int) -> int:
    """As LevelDB and TensorFlow write a checksum."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


# ---- its messages ----


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number in it has no end")


def _fields(data: Any) -> dict[int, list[Any]]:
    """The fields of a protobuf message, by number, as they stand on the wire.

    TensorFlow's own generated classes need TensorFlow.
    """
    if not isinstance(data, bytes):
        raise ValueError("expected a message in it, found a number")
    found: dict[int, list[Any]] = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        value: Any
        if kind == 0:
            value, at = _varint(data, at)
        elif kind == 2:
            length, at = _varint(data, at)
            value = data[at : at + length]
            if len(value) != length:
                raise ValueError("a message in it is cut off")
            at += length
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value = int.from_bytes(data[at : at + size], "little")
            at += size
        else:
            raise ValueError(f"a message in it has a field of kind {kind}")
        found.setdefault(tag >> 3, []).append(value)
    return found


def _int(fields: dict[int, list[Any]], number: int) -> int:
    value = fields.get(number, [0])[-1]
    if not isinstance(value, int):
        raise ValueError(f"expected a number in field {number}")
    return value if value < 2**63 else value - 2**64


def _text(fields: dict[int, list[Any]], number: int) -> str:
    value = fields.get(number, [b""])[-1]
    if not isinstance(value, bytes):
        raise ValueError(f"expected text in field {number}")
    return value.decode()


def _entry(data: bytes) -> _Entry:
    fields = _fields(data)
    shape = _fields(fields.get(2, [b""])[-1])
    return _Entry(
        dtype=_int(fields, 1),
        shape=tuple(_int(_fields(each), 1) for each in shape.get(2, [])),
        shard=_int(fields, 3),
        offset=_int(fields, 4),
        nbytes=_int(fields, 5),
        crc=fields[6][-1] if 6 in fields else None,
        sliced=7 in fields,
    )


def _strings(data: bytes, count: int, crc: int | None) -> Array:
    """A string tensor: all lengths, a checksum of these, and then the strings.

    The checksums are of the lengths as they are in memory, not as they are written.
    """
    lengths, at = [], 0
    for _ in range(count):
        length, at = _varint(data, at)
        lengths.append(length)
    checked = b"".join(struct.pack("<I" if n < 2**32 else "<Q", n) for n in lengths)
    checksum, at = data[at : at + 4], at + 4
    if struct.unpack("<I", checksum)[0] != _masked(crc32c(checked)):
        raise ValueError("the checksum of its lengths is wrong")
    if crc is not None and _masked(crc32c(checked + data[at - 4 :])) != crc:
        raise ValueError("its checksum is wrong")
    found = np.empty(count, object)
    for number, length in enumerate(lengths):
        found[number] = data[at : at + length]
        at += length
    if at != len(data):
        raise ValueError("its strings do not fill their place")
    return found
