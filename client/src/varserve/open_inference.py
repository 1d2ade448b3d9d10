"""Tensors as the Open Inference Protocol has them: its words for dtypes, and strings in raw bytes.

One rule for both places that speak it: the service's gRPC and the REST of `varserve web`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np

from varserve.tensors import Array, TensorError

DATATYPES: Mapping[str, str] = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "bfloat16": "BF16",
    "string": "BYTES",
}
"""The protocol's datatypes by dtype. It has none for complex numbers and float8."""

DTYPES: Mapping[str, str] = {datatype: dtype for dtype, datatype in DATATYPES.items()}
"""Dtypes by the protocol's datatypes."""

_LENGTH = struct.Struct("<I")


def datatype(dtype: str, thing: str, instead: str = "") -> str:
    """The protocol's word for a dtype. Raises TensorError DTYPE_UNSUPPORTED.

    `thing` has the dtype; `instead` says what can carry it.
    """
    try:
        return DATATYPES[dtype]
    except KeyError:
        raise TensorError(
            "DTYPE_UNSUPPORTED",
            f"{thing} is {dtype}, which the Open Inference Protocol cannot carry{instead}",
        ) from None


def strings_from_raw(data: bytes | memoryview, count: int) -> Array:
    """`count` strings, each after 4 bytes with its length; an object array [count] of bytes.

    Nothing is allocated that `data` has no room for. Raises TensorError LENGTH_MISMATCH.
    """
    if count * _LENGTH.size > len(data):
        raise TensorError(
            "LENGTH_MISMATCH",
            f"expected {count} elements, each after 4 bytes with its length, found "
            f"{len(data)} bytes",
        )
    array = np.empty(count, object)
    position = 0
    for index in range(count):
        end = position + _LENGTH.size
        length = _LENGTH.unpack_from(data, position)[0] if end <= len(data) else len(data)
        position = end + length
        if position > len(data):
            raise TensorError(
                "LENGTH_MISMATCH",
                f"element {index} ends at byte {position}; expected at most {len(data)}",
            )
        array[index] = bytes(data[end:position])
    if position != len(data):
        raise TensorError(
            "LENGTH_MISMATCH",
            f"expected {count} elements, found {len(data) - position} bytes after them",
        )
    return array


def strings_to_raw(array: Array) -> bytes:
    """The raw bytes of strings, in C order."""
    parts = [part for each in array.reshape(-1) for part in (_LENGTH.pack(len(each)), each)]
    return b"".join(parts)
