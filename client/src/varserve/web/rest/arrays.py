"""Arrays in JSON and in raw bytes, as the two protocols have them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import numpy as np

from varserve import InvalidRequest, open_inference
from varserve.tensors import (
    STRING,
    Array,
    TensorError,
    as_array,
    dtype_name,
    element_count,
    numpy_dtype,
)


def datatype(dtype: np.dtype[Any], thing: str) -> str:
    """The protocol's word for a dtype. Raises InvalidRequest."""
    try:
        return open_inference.datatype(dtype_name(dtype), thing)
    except TensorError as error:
        raise InvalidRequest(error.message) from None


def from_json(value: Any, dtype: str, thing: str) -> Array:
    """An array of nested lists. Text stands for its UTF-8 bytes, `{"b64": ...}` for any bytes.

    Raises InvalidRequest.
    """
    try:
        return as_array(decoded(value), dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidRequest(f"{thing}: {error}") from None


def decoded(value: Any) -> Any:
    """Nested lists of JSON with bytes for text and `{"b64": ...}`. Raises ValueError."""
    if isinstance(value, list):
        return [decoded(each) for each in value]
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, Mapping):
        if set(value) != {"b64"}:
            raise ValueError('expected {"b64": TEXT} for bytes, found another object')
        try:
            return base64.b64decode(value["b64"], validate=True)
        except (binascii.Error, TypeError, ValueError) as error:
            raise ValueError(f"b64: {error}") from None
    return value


def to_json(array: Array, *, as_base64: bool = False) -> Any:
    """Nested lists; strings as text, or as `{"b64": ...}`."""
    kind = dtype_name(array.dtype)
    if kind == STRING:
        return _texts(array.tolist(), as_base64)
    if array.dtype.kind == "c":
        return np.stack([array.real, array.imag], -1).tolist()
    if kind in ("float16", "bfloat16") or array.dtype.kind == "V":
        return array.astype(np.float32).tolist()
    return array.tolist()


def _texts(value: Any, as_base64: bool) -> Any:
    if isinstance(value, list):
        return [_texts(each, as_base64) for each in value]
    if as_base64:
        return {"b64": base64.b64encode(value).decode()}
    return value.decode(errors="replace")


def from_raw(data: memoryview, dtype: str, shape: tuple[int, ...], thing: str) -> Array:
    """An array of the protocol's raw bytes. Raises InvalidRequest."""
    count = element_count(shape)
    if dtype != STRING:
        expected = count * numpy_dtype(dtype).itemsize
        if len(data) != expected:
            raise InvalidRequest(f"{thing}: expected {expected} bytes, found {len(data)}")
        return np.frombuffer(data, numpy_dtype(dtype)).reshape(shape)
    try:
        return open_inference.strings_from_raw(data, count).reshape(shape)
    except TensorError as error:
        raise InvalidRequest(f"{thing}: {error.message}") from None


def to_raw(array: Array) -> bytes:
    """The protocol's raw bytes of an array."""
    if dtype_name(array.dtype) != STRING:
        return np.ascontiguousarray(array).tobytes()
    return open_inference.strings_to_raw(array)
