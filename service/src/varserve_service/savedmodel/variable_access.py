"""Compiled access to variables: one trace for each kind and dtype serves every variable.

The handle is an input, shapes are unknown: nothing that a client sends can cause another trace.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from .placement import on_device
from .runtime import FlatCall, flat_call

_HANDLE = tf.TensorSpec([], tf.resource, name="handle")
_INDICES = tf.TensorSpec([None], tf.int64)


def _read(dtype: tf.DType) -> Any:
    @tf.function(input_signature=[_HANDLE])
    def read(handle: Any) -> Any:
        return tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype)

    return read


TOGETHER = 16
"""Variables that one call of an access `..._together` reads or assigns."""
_HANDLES = [tf.TensorSpec([], tf.resource)] * TOGETHER


def _read_together(dtype: tf.DType) -> Any:
    @tf.function(input_signature=_HANDLES, autograph=False)
    def read_together(*handles: Any) -> Any:
        return [tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype) for handle in handles]

    return read_together


def _assign(dtype: tf.DType) -> Any:
    @tf.function(input_signature=[_HANDLE, tf.TensorSpec(None, dtype)])
    def assign(handle: Any, value: Any) -> None:
        tf.raw_ops.AssignVariableOp(resource=handle, value=value)

    return assign


def _assign_together(dtype: tf.DType) -> Any:
    values = [tf.TensorSpec(None, dtype)] * TOGETHER

    @tf.function(input_signature=[*_HANDLES, *values], autograph=False)
    def assign_together(*inputs: Any) -> None:
        for handle, value in zip(inputs[:TOGETHER], inputs[TOGETHER:], strict=True):
            tf.raw_ops.AssignVariableOp(resource=handle, value=value)

    return assign_together


def _gather(dtype: tf.DType) -> Any:
    @tf.function(input_signature=[_HANDLE, _INDICES])
    def gather(handle: Any, indices: Any) -> Any:
        return tf.raw_ops.ResourceGather(resource=handle, indices=indices, dtype=dtype)

    return gather


def _scatter(dtype: tf.DType) -> Any:
    @tf.function(input_signature=[_HANDLE, _INDICES, tf.TensorSpec(None, dtype)])
    def scatter(handle: Any, indices: Any, rows: Any) -> None:
        tf.raw_ops.ResourceScatterUpdate(resource=handle, indices=indices, updates=rows)

    return scatter


def _assign_slices(dtype: tf.DType) -> Any:
    value = tf.TensorSpec(None, dtype)

    @tf.function(input_signature=[_HANDLE, _INDICES, _INDICES, _INDICES, value])
    def assign_slices(handle: Any, begin: Any, end: Any, strides: Any, value: Any) -> None:
        tf.raw_ops.ResourceStridedSliceAssign(
            ref=handle, begin=begin, end=end, strides=strides, value=value
        )

    return assign_slices


_KINDS: dict[str, Callable[[tf.DType], Any]] = {
    "read": _read,
    "read_together": _read_together,
    "assign": _assign,
    "assign_together": _assign_together,
    "gather": _gather,
    "scatter": _scatter,
    "assign_slices": _assign_slices,
}
_calls: dict[tuple[str, tf.DType], FlatCall] = {}
_tracing = threading.Lock()


def compiled(kind: str, dtype: tf.DType, device: str) -> Callable[..., Sequence[tf.Tensor]]:
    """The access of this kind to variables on `device`: takes the handle, or handles, and tensors.

    Returns the tensors that were read, on the device.
    """
    call = _call(kind, dtype)

    def access(*inputs: tf.Tensor) -> Sequence[tf.Tensor]:
        # A function's results land on the device of the call, not on that of its variables:
        # without this, a read would copy the whole value to the host.
        with on_device(device):
            return call(list(inputs))

    return access


def _call(kind: str, dtype: tf.DType) -> FlatCall:
    key = (kind, dtype)
    if key in _calls:
        return _calls[key]  # No reader waits while another kind is traced.
    with _tracing:
        if key not in _calls:
            _calls[key] = flat_call(_KINDS[kind](dtype).get_concrete_function())
        return _calls[key]
