"""Flat names for nested structures: `x`, `batch/mask`, `z/0`.

Walks in the order in which TensorFlow flattens, so that leaves pair with flat tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from varserve_service.core.ports.loaded_model import Constant


def flatten(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Flat (name, leaf) pairs: leaves are TensorSpecs, tensors or Python values."""
    if isinstance(value, Mapping):
        for key in sorted(value):
            yield from flatten(_join(name, key), value[key])
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        for field in value._fields:
            yield from flatten(_join(name, field), getattr(value, field))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from flatten(_join(name, index), item)
    elif isinstance(value, tf.TensorSpec | tf.Tensor):
        yield name, value
    elif isinstance(value, tf.TypeSpec) or tf.is_tensor(value):
        # A ragged, sparse or other composite tensor: the tensors that it is made of.
        parts = tf.nest.flatten(value, expand_composites=True)
        if len(parts) == 1 and parts[0] is value:
            yield name, value
            return
        for index, part in enumerate(parts):
            yield _join(name, index), part
    else:
        yield name, value


def _join(name: str, part: object) -> str:
    return f"{name}/{part}" if name else str(part)


def constant(value: Any) -> Constant:
    """A Python value as a constant of a signature."""
    if value is None or isinstance(value, bool | int | float | str):
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            return Constant(repr(value), is_repr=True)
        return Constant(value)
    return Constant(repr(value), is_repr=True)
