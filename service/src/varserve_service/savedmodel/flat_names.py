"""Flat names for the nested structures of TensorFlow: `x`, `batch/mask`, `z/0`, `r/flat_values`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from varserve import structures
from varserve_service.core.ports.loaded_model import Constant


def flatten(name: str, value: Any) -> list[tuple[str, Any]]:
    """Flat (name, leaf) pairs: leaves are TensorSpecs, tensors or Python values.

    They come in the order in which TensorFlow flattens, so that they pair with flat tensors.
    Raises ValueError for a structure that TensorFlow flattens differently.
    """
    pairs = list(_leaves(name, value))
    expected = tf.nest.flatten(value, expand_composites=True)
    same = len(pairs) == len(expected) and all(
        leaf is other or (isinstance(leaf, tf.TensorSpec) and leaf == other)
        for (_, leaf), other in zip(pairs, expected, strict=True)
    )
    if not same:
        raise ValueError(f"a {type(value).__name__} has no flat names")
    return pairs


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, tf.TensorSpec | tf.Tensor):
        yield name, value
    elif isinstance(value, tf.TypeSpec) or tf.is_tensor(value):
        # A ragged, sparse or other composite tensor: the tensors that it is made of.
        components = tf.nest.flatten(value, expand_composites=True)
        if len(components) == 1 and components[0] is value:
            yield name, value
            return
        kind = value.value_type if isinstance(value, tf.TypeSpec) else type(value)
        names = structures.component_names(kind.__name__, len(components))
        for part, component in zip(names, components, strict=True):
            yield structures.join(name, part), component
    else:
        parts = structures.parts(value)
        if parts is None:
            yield name, value
        for part, item in parts or ():
            yield from _leaves(structures.join(name, part), item)


def constant(value: Any) -> Constant:
    """A Python value as a constant of a signature."""
    if value is None or isinstance(value, bool | int | float | str):
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            return Constant(repr(value), is_repr=True)
        return Constant(value)
    return Constant(repr(value), is_repr=True)
