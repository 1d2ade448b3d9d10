"""Counts what is inside an encoded request, without decoding it.

A request of 4 MiB has room for two million empty messages or strings, or four million numbers. To
decode them takes long, in one piece that nothing else can interrupt; so they are counted before.
Knows protobuf's wire format; knows nothing of what a request means.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final

import numpy as np
from google.protobuf.descriptor import FieldDescriptor

_VARINT, _FIXED64, _LENGTH, _GROUP_START, _GROUP_END, _FIXED32 = range(6)


# Fields between two pauses: about a millisecond.
_PAUSE_FIELDS = 1000

STRINGS_PER_FIELD: Final = 5
"""Strings of a list that are decoded as fast as one message."""
NUMBERS_PER_FIELD: Final = 20
"""Numbers of a packed list that are decoded as fast as one message."""
_VARINT_TYPES = frozenset(
    {
        FieldDescriptor.TYPE_BOOL,
        FieldDescriptor.TYPE_ENUM,
        FieldDescriptor.TYPE_INT32,
        FieldDescriptor.TYPE_INT64,
        FieldDescriptor.TYPE_SINT32,
        FieldDescriptor.TYPE_SINT64,
        FieldDescriptor.TYPE_UINT32,
        FieldDescriptor.TYPE_UINT64,
    }
)
# A list that is shorter is decoded in a few milliseconds whatever is in it.
_LIST_BYTES = 256 << 10


@cache
def _submessages(descriptor: Any) -> dict[int, Any]:
    """The message types of a message's fields, by number."""
    return {
        field.number: field.message_type
        for field in descriptor.fields
        if field.message_type is not None
    }


@cache
def _varints(descriptor: Any) -> frozenset[int]:
    """The numbers of a message's fields whose values take as many bytes as they need."""
    return frozenset(field.number for field in descriptor.fields if field.type in _VARINT_TYPES)


def count_fields(
    data: bytes, descriptor: Any, limit: int, pause: Callable[[], None] | None = None
) -> int:
    """The fields of a request and of the messages inside it; the counting stops beyond `limit`.

    Fields of messages that have no messages in them (a tensor, a list of rows) are not counted:
    these are decoded quickly whatever their number. Of long lists in them, STRINGS_PER_FIELD
    strings are as one field, and NUMBERS_PER_FIELD numbers of a packed list. What is no valid
    message is left to the decoder. `pause` is called once in a while.
    """
    cost = _cost(data, descriptor, limit * NUMBERS_PER_FIELD, NUMBERS_PER_FIELD, pause)
    return -(-cost // NUMBERS_PER_FIELD)


def _cost(
    data: bytes, descriptor: Any, limit: int, each: int, pause: Callable[[], None] | None
) -> int:
    """What a message costs, where a field costs `each` and a number of a packed list one."""
    cost = looked_at = 0
    position, end = 0, len(data)
    # The messages around the one that is looked at, and where they end.
    around: list[tuple[Any, int]] = []
    submessages = _submessages(descriptor)
    while True:
        if position >= end:
            if not around:
                return cost
            descriptor, end = around.pop()
            submessages = _submessages(descriptor)
            continue
        cost += each
        if cost > limit:
            return cost
        looked_at += 1
        if pause is not None and not looked_at % _PAUSE_FIELDS:
            pause()
        tag = data[position]
        position += 1
        if tag > 0x7F:
            tag, position = _varint(data, position - 1, end)
        kind = tag & 7
        if kind == _LENGTH and position < end:
            length = data[position]
            position += 1
            if length > 0x7F:
                length, position = _varint(data, position - 1, end)
            inner = submessages.get(tag >> 3)
            if inner is None or not _submessages(inner):
                if length >= _LIST_BYTES:
                    listed = data[position : position + length]
                    if inner is not None:
                        string = NUMBERS_PER_FIELD // STRINGS_PER_FIELD
                        cost += _cost(listed, inner, limit - cost, string, pause)
                    elif tag >> 3 in _varints(descriptor):
                        cost += _numbers(listed)
                    if cost > limit:
                        return cost
                position += length
            elif length:
                around.append((descriptor, end))
                descriptor, submessages = inner, _submessages(inner)
                end = min(position + length, end)
        elif kind == _VARINT:
            _, position = _varint(data, position, end)
        elif kind == _FIXED32:
            position += 4
        elif kind == _FIXED64:
            position += 8
        elif kind not in (_GROUP_START, _GROUP_END):
            return cost


def _numbers(packed: bytes) -> int:
    """How many numbers a packed list has: each ends with a byte without the highest bit."""
    return int(np.count_nonzero(np.frombuffer(packed, np.int8) >= 0))


@cache
def _opaque(descriptor: Any) -> frozenset[int]:
    """The numbers of a message's fields of plain bytes."""
    return frozenset(field.number for field in descriptor.fields if field.type == field.TYPE_BYTES)


def opaque_bytes(data: bytes, descriptor: Any) -> int:
    """Bytes of a request that its decoder takes over as they are: the values of `bytes` fields.

    Of a message that has many fields only the first ones are looked at.
    """
    found = fields = 0
    pending = [(descriptor, 0, len(data))]
    while pending and fields < _PAUSE_FIELDS:
        message, position, end = pending.pop()
        inner = {field.number: field.message_type for field in message.fields}
        while position < end and fields < _PAUSE_FIELDS:
            fields += 1
            tag, position = _varint(data, position, end)
            number, kind = tag >> 3, tag & 7
            if kind == _LENGTH:
                length, position = _varint(data, position, end)
                length = min(length, end - position)
                if number in _opaque(message):
                    found += length
                elif inner.get(number) is not None:
                    pending.append((inner[number], position, position + length))
                position += length
            elif kind == _VARINT:
                _, position = _varint(data, position, end)
            elif kind == _FIXED32:
                position += 4
            elif kind == _FIXED64:
                position += 8
            else:
                break
    return found


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """A number, and where it ends; the end of the message where it is cut off."""
    value = shift = 0
    while position < end:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            break
    return 0, end
