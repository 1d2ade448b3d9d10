"""Tensors of the Open Inference Protocol: typed fields or raw bytes in, raw bytes out.

Trusts nothing in a message: what a shape says is compared with the bytes that came before anything
is allocated.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from varserve import open_inference, tensors
from varserve.tensors import Array
from varserve_service.core.arrays import shapes
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.ports.loaded_model import Value
from varserve_service.rpc.messages import translate

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


def datatype(dtype: str, thing: str) -> str:
    """The protocol's word for a dtype. Raises TensorError DTYPE_UNSUPPORTED."""
    return open_inference.datatype(dtype, thing, "; use RunFunction")


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
            try:
                strings = open_inference.strings_from_raw(data, count)
            except tensors.TensorError as error:
                raise translate.named(error, thing) from None
            arrays[message.name] = strings.reshape(shape)
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
        arrays[message.name] = shapes.outline(tensors.numpy_dtype(dtype), tuple(message.shape))
    return arrays


def raw(value: Value) -> bytes:
    """The bytes of an output: elements little-endian, strings each after its length."""
    if value.dtype != tensors.STRING:
        return bytes(value.buffer(0, value.nbytes))
    return open_inference.strings_to_raw(value.numpy())


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
    dtype = open_inference.DTYPES.get(message.datatype)
    if dtype is None:
        raise RequestError(
            Reason.DTYPE_UNSUPPORTED,
            f"{thing}: expected a datatype of {', '.join(open_inference.DTYPES)}, found "
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


def _length_mismatch(thing: str, message: Any, expected: str, found: str) -> RequestError:
    return RequestError(
        Reason.LENGTH_MISMATCH,
        f"{thing}: {message.datatype} of shape {list(message.shape[:10])} takes {expected}, "
        f"found {found}",
    )
