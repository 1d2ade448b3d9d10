"""TensorFlow's own TensorProto, without TensorFlow.

A TensorProto may say less than its shape has: the last value repeats, and none at all means zeros.
So a few bytes can claim gigabytes, and what a tensor will take is known before it is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from varserve import tensors
from varserve.tensors import Array
from varserve_service.core.arrays import shapes
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.ports.loaded_model import Value
from varserve_service.rpc.messages import translate

_FIELDS = {
    "float32": "float_val",
    "float64": "double_val",
    "int32": "int_val",
    "int16": "int_val",
    "int8": "int_val",
    "uint8": "int_val",
    "uint16": "int_val",
    "string": "string_val",
    "complex64": "scomplex_val",
    "complex128": "dcomplex_val",
    "int64": "int64_val",
    "bool": "bool_val",
    "float16": "half_val",
    "bfloat16": "half_val",
    "uint32": "uint32_val",
    "uint64": "uint64_val",
}
"""Where a TensorProto has its values one by one, by dtype; float8 has bytes in `float8_val`."""

_HALVES = ("float16", "bfloat16")
# Of a string in an array, beside its bytes.
_POINTER_BYTES = 8


def outline(name: str, message: Any) -> Array:
    """An array of a tensor's dtype and shape that takes no memory. Raises RequestError."""
    thing = f"input {name[:200]!r}"
    shape = message.tensor_shape
    if shape.unknown_rank:
        raise RequestError(Reason.SHAPE_MISMATCH, f"{thing}: expected a shape, found unknown rank")
    sizes = tuple(dimension.size for dimension in shape.dim)
    try:
        dtype = tensors.numpy_dtype(tensors.from_wire_dtype(message.dtype))
        tensors.element_count(sizes)
        tensors.check_numpy_rank(sizes)
    except tensors.TensorError as error:
        raise translate.named(error, thing) from None
    return shapes.outline(dtype, sizes)


def nbytes(outlined: Array) -> int:
    """Bytes that a tensor of this outline will take, without the bytes of its strings."""
    size = _POINTER_BYTES if outlined.dtype.hasobject else outlined.dtype.itemsize
    return outlined.size * size


def decode(name: str, message: Any) -> Array:
    """The array of a TensorProto. Raises RequestError."""
    outlined = outline(name, message)
    thing = f"input {name[:200]!r}"
    dtype = tensors.from_wire_dtype(message.dtype)
    content = message.tensor_content or (message.float8_val if dtype not in _FIELDS else b"")
    if content and dtype != tensors.STRING:
        if len(content) != outlined.nbytes:
            raise RequestError(
                Reason.LENGTH_MISMATCH,
                f"{thing}: expected {outlined.nbytes} bytes of content, found {len(content)}",
            )
        return np.frombuffer(content, outlined.dtype).reshape(outlined.shape)
    values = _values(thing, message, dtype, outlined)
    if len(values) == outlined.size:
        return values.reshape(outlined.shape)
    array = np.empty(outlined.size, outlined.dtype)
    array[: len(values)] = values
    zero: Any = b"" if dtype == tensors.STRING else 0
    array[len(values) :] = values[-1] if len(values) else zero
    return array.reshape(outlined.shape)


def _values(thing: str, message: Any, dtype: str, outlined: Array) -> Array:
    """The values that are given one by one."""
    field = _FIELDS.get(dtype)
    given = getattr(message, field) if field else ()
    stored: Any = {"complex64": np.float32, "complex128": np.float64}.get(dtype)
    if dtype in _HALVES:
        stored = np.uint16
    values = np.empty(len(given), stored or outlined.dtype)
    try:
        for start in range(0, len(given), translate.PAGE):
            values[start : start + translate.PAGE] = given[start : start + translate.PAGE]
    except OverflowError:
        raise RequestError(
            Reason.INPUT_MISMATCH, f"{thing}: {field} has a value that {dtype} cannot hold"
        ) from None
    if stored is not None:
        if values.nbytes % outlined.dtype.itemsize:
            raise RequestError(
                Reason.LENGTH_MISMATCH,
                f"{thing}: expected a real and an imaginary part for each value, found "
                f"{len(given)} parts",
            )
        values = values.view(outlined.dtype)
    if len(values) > outlined.size:
        raise RequestError(
            Reason.LENGTH_MISMATCH,
            f"{thing}: expected at most {outlined.size} values, found {len(values)}",
        )
    return values


def decode_all(messages: Mapping[str, Any]) -> dict[str, Array]:
    """The arrays of several TensorProtos by name."""
    return {name: decode(name, message) for name, message in messages.items()}


def encode(value: Value, message: Any) -> None:
    """Put a value into a TensorProto."""
    message.dtype = tensors.wire_dtype(value.dtype)
    for size in value.shape:
        message.tensor_shape.dim.add(size=size)
    if not value.shape:
        message.tensor_shape.SetInParent()
    if value.dtype == tensors.STRING:
        message.string_val.extend(value.numpy().reshape(-1).tolist())
    else:
        message.tensor_content = bytes(value.buffer(0, value.nbytes))
