"""The most expensive messages of a size, for every field of every request, from the descriptors."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from google.protobuf.descriptor import FieldDescriptor

from varserve_service.rpc.decoding import MAX_FIELDS

LIMIT = 4 * 2**20 - 4096
"""Bytes of a message: what a service accepts, less what stands around it."""

# A request of so many fields, with what is around them, is still decoded.
_DECODED = MAX_FIELDS - 100

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_FIXED = {
    FieldDescriptor.TYPE_DOUBLE: (_FIXED64, bytes(8)),
    FieldDescriptor.TYPE_FIXED64: (_FIXED64, bytes(8)),
    FieldDescriptor.TYPE_SFIXED64: (_FIXED64, bytes(8)),
    FieldDescriptor.TYPE_FLOAT: (_FIXED32, bytes(4)),
    FieldDescriptor.TYPE_FIXED32: (_FIXED32, bytes(4)),
    FieldDescriptor.TYPE_SFIXED32: (_FIXED32, bytes(4)),
}
_LENGTHS = (
    FieldDescriptor.TYPE_STRING,
    FieldDescriptor.TYPE_BYTES,
    FieldDescriptor.TYPE_MESSAGE,
)


class Expensive(NamedTuple):
    """An encoded request and what is in it."""

    name: str
    data: bytes


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def delimited(number: int, data: bytes) -> bytes:
    return varint(number << 3 | _LENGTH) + varint(len(data)) + data


def expensive_messages(descriptor: Any, known: dict[str, bytes]) -> Iterator[Expensive]:
    """Messages of a type, each with one field filled; `known`: values that are found, by name."""
    yield Expensive("groups", (b"\xfb\x07" * 90 + b"\xfc\x07" * 90) * (LIMIT // 360))
    yield Expensive("unknown fields", b"\xfa\x07\x00" * (LIMIT // 3))
    for name, data in _filled(descriptor, known, LIMIT, ()):
        yield Expensive(name, data)


def _filled(
    descriptor: Any, known: dict[str, bytes], room: int, above: tuple[str, ...]
) -> Iterator[tuple[str, bytes]]:
    """Each field, and each field of the messages in it, filled until there is no more room."""
    if descriptor.full_name in above:
        return
    context = _context(descriptor, known)
    room -= len(context)
    for field in descriptor.fields:
        name = ".".join((*(part.rpartition(".")[2] for part in above), descriptor.name, field.name))
        if field.is_repeated or field.type in (_LENGTHS[0], _LENGTHS[1]):
            for kind, filling in _fillings(field, known, room):
                yield f"{name} {kind}", context + filling
        if field.message_type is not None:
            nested = _filled(field.message_type, known, room - 16, (*above, descriptor.full_name))
            for inner_name, inner in nested:
                yield inner_name, context + delimited(field.number, inner)


def _context(descriptor: Any, known: dict[str, bytes]) -> bytes:
    """The fields of a message that name something that there is."""
    return b"".join(
        delimited(field.number, known[field.name])
        for field in descriptor.fields
        if field.name in known and not field.is_repeated
    )


def _fillings(field: Any, known: dict[str, bytes], room: int) -> Iterator[tuple[str, bytes]]:
    number = field.number
    if not field.is_repeated:
        yield "long", delimited(number, b"x" * (room - 16))
        return
    if field.message_type is None:
        if field.type in (_LENGTHS[0], _LENGTHS[1]):
            yield "empty", delimited(number, b"") * (room // len(delimited(number, b"")))
            yield "distinct", _distinct(number, 1, room, b"", as_text=True)
        else:
            kind, zero = _FIXED.get(field.type, (_VARINT, b"\x00"))
            yield "packed", delimited(number, zero * ((room - 16) // len(zero)))
            single = varint(number << 3 | kind) + zero
            yield "single", single * (room // len(single))
        return
    # As many as there is room for, and as many as are decoded.
    single = delimited(number, b"")
    yield "empty", single * (room // len(single))
    yield "decoded empty", single * _DECODED
    if field.message_type.GetOptions().map_entry:
        yield "distinct", _distinct(number, 1, room, b"")
        yield "decoded distinct", _distinct(number, 1, _DECODED // 2 * 9, b"")
        return
    valid = _context(field.message_type, known)
    if valid:
        single = delimited(number, valid)
        yield "valid", single * (room // len(single))
        yield "decoded valid", single * (_DECODED // 3)
        first = next(
            each for each in field.message_type.fields if each.type == FieldDescriptor.TYPE_STRING
        )
        yield "distinct", _distinct(number, first.number, room, b"")


def _distinct(number: int, inner: int, room: int, rest: bytes, *, as_text: bool = False) -> bytes:
    """Elements whose names differ."""
    length = len(_element(number, inner, b"aaaa", rest, as_text))
    names = (b"%04x" % n for n in range(16**4))
    elements = [_element(number, inner, name, rest, as_text) for name in names]
    return b"".join(islice(elements, room // length)) or b""


def _element(number: int, inner: int, name: bytes, rest: bytes, as_text: bool) -> bytes:
    return delimited(number, name if as_text else delimited(inner, name) + rest)
