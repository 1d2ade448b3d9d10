"""Tensors of the Open Inference Protocol: typed fields or raw bytes in, raw bytes out.

Trusts nothing in a message: what a shape says is compared with the bytes that came before anything
is allocated.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from varserve import tensors
from varserve.tensors import Array
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.ports.loaded_model import Value
from varserve_service.rpc.messages import translate

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

_DTYPES = {datatype: dtype for dtype, datatype in DATATYPES.items()}

_FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Where `contents` has the elements. FP16 and BF16 travel as raw bytes alone."""

_LENGTH = struct.Struct("<I")


def datatype(dtype: str, thing: str) -> str:
    """The protocol's word for a dtype. Raises RequestError DTYPE_UNSUPPORTED."""
    try:
        return DATATYPES[dtype]
    except KeyError:
        raise RequestError(
            Reason.DTYPE_UNSUPPORTED,
            f"{thing} is {dtype}, which the Open Inference Protocol cannot carry; use RunFunction",
        ) from None


def inputs(request: Any) -> dict[str, Array]:
    """The inputs of a ModelInferRequest by name. Raises RequestError."""
    raw = _raw_contents(request)
    arrays: dict[str, Array] = {}
    for message, data in zip(request.inputs, raw, strict=True):
        thing = f"input {message.name[:200]!r}"
        if message.name in arrays:
            raise translate.malformed(f"{thing}: expected each name once, found it twice")
        dtype, count = _checked(message, thing)
        shape = tuple(message.shape)
        if data is None:
            arrays[message.name] = _typed(message, dtype, count, thing).reshape(shape)
        elif dtype == tensors.STRING:
            arrays[message.name] = _strings(data, count, thing).reshape(shape)
        else:
            expected = count * tensors.numpy_dtype(dtype).itemsize
            if len(data) != expected:
                raise _length_mismatch(thing, message, f"{expected} bytes", f"{len(data)}")
            arrays[message.name] = np.frombuffer(data, tensors.numpy_dtype(dtype)).reshape(shape)
    return arrays


def outlines(request: Any) -> dict[str, Array]:
    """Arrays of the inputs' dtypes and shapes that take no memory, by name. Raises RequestError."""
    arrays = {}
    for message in request.inputs:
        dtype, _ = _checked(message, f"input {message.name[:200]!r}")
        empty = np.empty((), tensors.numpy_dtype(dtype))
        arrays[message.name] = np.broadcast_to(empty, tuple(message.shape))
    return arrays


def raw(value: Value) -> bytes:
    """The bytes of an output: elements little-endian, strings each after its length."""
    if value.dtype != tensors.STRING:
        return bytes(value.buffer(0, value.nbytes))
    return b"".join(_prefixed(value.numpy().reshape(-1)))


def _prefixed(strings: Array) -> Iterator[bytes]:
    for element in strings:
        yield _LENGTH.pack(len(element))
        yield element


def _raw_contents(request: Any) -> list[bytes | None]:
    """For each input its raw bytes, or None where it has typed contents."""
    count = len(request.raw_input_contents)
    if not count:
        return [None] * len(request.inputs)
    if count != len(request.inputs):
        raise translate.malformed(
            f"raw_input_contents: expected one for each of {len(request.inputs)} inputs, "
            f"found {count}"
        )
    for message in request.inputs:
        # Some clients send an empty `contents` beside the raw bytes.
        if message.contents.ListFields():
            raise translate.malformed(
                f"input {message.name[:200]!r}: expected contents or raw_input_contents, found both"
            )
    return list(request.raw_input_contents)


def _checked(message: Any, thing: str) -> tuple[str, int]:
    """The dtype and number of elements that an input claims. Raises RequestError."""
    dtype = _DTYPES.get(message.datatype)
    if dtype is None:
        raise RequestError(
            Reason.DTYPE_UNSUPPORTED,
            f"{thing}: expected a datatype of {', '.join(_DTYPES)}, found "
            f"{message.datatype[:40]!r}",
        )
    try:
        tensors.check_numpy_rank(message.shape)
        return dtype, tensors.element_count(message.shape)
    except tensors.TensorError as error:
        raise translate.named(error, thing) from None


def _typed(message: Any, dtype: str, count: int, thing: str) -> Array:
    name = _FIELDS.get(message.datatype)
    if name is None:
        raise RequestError(
            Reason.DTYPE_UNSUPPORTED,
            f"{thing}: {message.datatype} travels in raw_input_contents alone, found none",
        )
    elements = getattr(message.contents, name)
    if len(elements) != count:
        raise _length_mismatch(thing, message, f"{count} elements in {name}", f"{len(elements)}")
    array = np.empty(count, tensors.numpy_dtype(dtype))
    try:
        for start in range(0, count, translate.PAGE):
            array[start : start + translate.PAGE] = elements[start : start + translate.PAGE]
    except OverflowError:
        raise RequestError(
            Reason.INPUT_MISMATCH, f"{thing}: {name} has an element that {dtype} cannot hold"
        ) from None
    return array


def _strings(data: bytes, count: int, thing: str) -> Array:
    if count * _LENGTH.size > len(data):
        raise RequestError(
            Reason.LENGTH_MISMATCH,
            f"{thing}: expected {count} elements, each after 4 bytes with its length, found "
            f"{len(data)} bytes",
        )
    array = np.empty(count, object)
    position = 0
    for index in range(count):
        end = position + _LENGTH.size
        length = _LENGTH.unpack_from(data, position)[0] if end <= len(data) else len(data)
        position = end + length
        if position > len(data):
            raise RequestError(
                Reason.LENGTH_MISMATCH,
                f"{thing}: element {index} ends at byte {position}; expected at most {len(data)}",
            )
        array[index] = data[end:position]
    if position != len(data):
        raise RequestError(
            Reason.LENGTH_MISMATCH,
            f"{thing}: expected {count} elements, found {len(data) - position} bytes after them",
        )
    return array


def _length_mismatch(thing: str, message: Any, expected: str, found: str) -> RequestError:
    return RequestError(
        Reason.LENGTH_MISMATCH,
        f"{thing}: {message.datatype} of shape {list(message.shape[:10])} takes {expected}, "
        f"found {found}",
    )
