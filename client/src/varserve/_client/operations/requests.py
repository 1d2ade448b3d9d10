"""Requests, of what a caller gave.

Owns what a caller is told of a value that protobuf refuses: which one it is, what it must be and
what was found. Knows protobuf; knows no calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from varserve import tensors
from varserve._client.errors import InvalidRequest
from varserve._client.wording import shown
from varserve.tensors import Array
from varserve.v1 import tensor_pb2

M = TypeVar("M", bound=Message)

# For a value that a field cannot hold; a UnicodeError is a ValueError.
_REFUSALS = (TypeError, ValueError, OverflowError)

# What callers call a field that is not called as its argument.
_ARGUMENTS = {"before_revision": "before", "max_commits": "limit", "to_revision": "revision"}

_EXPECTED = {
    FieldDescriptor.CPPTYPE_INT32: "an integer of 32 bits",
    FieldDescriptor.CPPTYPE_INT64: "an integer of 64 bits",
    FieldDescriptor.CPPTYPE_DOUBLE: "a number that a float can hold",
    FieldDescriptor.CPPTYPE_BOOL: "True or False",
    FieldDescriptor.CPPTYPE_STRING: "text that UTF-8 can hold",
}


def build(kind: type[M], /, **fields: Any) -> M:
    """A message with these fields. Raises InvalidRequest for a value that its field cannot hold."""
    try:
        message: M = kind(**fields)
        return message
    except _REFUSALS as error:
        raise _refusal(kind, fields, error) from None


def headers_of(arrays: Mapping[str, Array]) -> list[tensor_pb2.NamedTensorHeader]:
    """What a manifest says of named tensors whose values are in the body."""
    return [
        build(tensor_pb2.NamedTensorHeader, name=name, tensor=tensors.to_header(each))
        for name, each in arrays.items()
    ]


def _refusal(kind: type[Message], fields: Mapping[str, Any], error: Exception) -> InvalidRequest:
    for name, value in fields.items():
        if _holds(kind, name, value):
            continue
        field = kind.DESCRIPTOR.fields_by_name[name]
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            field = field.message_type.fields_by_name["key"]
        expected = _EXPECTED.get(field.cpp_type)
        if expected is not None:
            refused = _refused_one(kind, name, value)
            called = _ARGUMENTS.get(name, name)
            return InvalidRequest(f"{called}: expected {expected}, found {shown(refused)}")
    return InvalidRequest(f"the request cannot be sent: {error}")


def _refused_one(kind: type[Message], name: str, value: Any) -> Any:
    """Of several elements or of a mapping's keys the one that is refused, else the value itself."""
    if isinstance(value, Mapping) and _holds(kind, name, {}):
        return next((key for key in value if not _holds(kind, name, {key: value[key]})), value)
    if isinstance(value, (list, tuple)) and _holds(kind, name, []):
        return next((each for each in value if not _holds(kind, name, [each])), value)
    return value


def _holds(kind: type[Message], name: str, value: Any) -> bool:
    try:
        kind(**{name: value})
    except _REFUSALS:
        return False
    return True
