"""Private variables: what a run reads and writes in place of the model's own.

They begin with given values, share their memory until they are written, and go with the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import tensorflow as tf
from tensorflow.python.eager import context

from varserve_service.core.ports.loaded_model import Value
from varserve_service.savedmodel.values import as_tensor


@dataclass(frozen=True, slots=True)
class Capture:
    """One argument that follows the inputs: the handle of a variable, or another tensor.

    `path` is that of the variable, None for what is not one; `device` is where it lives.
    """

    tensor: tf.Tensor
    path: str | None = None
    dtype: tf.DType | None = None
    shape: tf.TensorShape | None = None
    device: str = ""


def private_captures(
    captures: Sequence[Capture], values: Mapping[str, Value]
) -> tuple[list[tf.Tensor], dict[str, tf.Tensor]]:
    """What to give in place of the captures, and the private handles by path.

    A variable without a value in `values` has none in the run either.
    """
    handles: dict[str, tf.Tensor] = {}
    given = []
    for capture in captures:
        if capture.path is None:
            given.append(capture.tensor)
            continue
        if capture.path not in handles:
            handles[capture.path] = _private(capture, values.get(capture.path))
        given.append(handles[capture.path])
    return given, handles


def _private(capture: Capture, value: Value | None) -> tf.Tensor:
    assert capture.dtype is not None
    with tf.device(capture.device):
        handle = tf.raw_ops.VarHandleOp(
            dtype=capture.dtype, shape=capture.shape, shared_name=context.anonymous_name()
        )
        if value is not None:
            # No copy: the memory is shared until somebody writes it.
            tensor = as_tensor(value, capture.device)
            tf.raw_ops.AssignVariableOp(resource=handle, value=tensor)
    return handle
