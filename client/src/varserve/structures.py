"""How nested arguments and results become flat, named leaves: `x`, `batch/mask`, `z/0`.

One rule for both ends: the service names a function's inputs and outputs by it, the client the
arguments of a call. It takes apart what `tf.nest` takes apart, in the same order. Knows no numpy
and no TensorFlow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_COMPONENTS = {
    "SparseTensor": ("indices", "values", "dense_shape"),
    "IndexedSlices": ("values", "indices", "dense_shape"),
    "RaggedTensor": ("flat_values", "nested_row_splits"),
}
"""Attributes that hold the tensors of a composite tensor, in TensorFlow's order, by class."""


def leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Flat (name, leaf) pairs of a value; a leaf itself has the name that is given."""
    structure = parts(value)
    if structure is None:
        yield name, value
        return
    for part, item in structure:
        yield from leaves(join(name, part), item)


def parts(value: Any) -> list[tuple[str, Any]] | None:
    """The named parts of a structure, one level deep; None for a leaf.

    A mapping's keys in sorted order; the fields of a named tuple, an attrs class or a composite
    tensor; the indices of any other sequence, and of what a class with `__tf_flatten__` gives.
    """
    if isinstance(value, (str, bytes)):
        return None
    if isinstance(value, Mapping):
        return [(str(key), value[key]) for key in _sorted(value)]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return [(field, getattr(value, field)) for field in value._fields]
    attributes = getattr(type(value), "__attrs_attrs__", None)
    if attributes is not None:
        return [(each.name, getattr(value, each.name)) for each in attributes]
    components = _COMPONENTS.get(type(value).__name__)
    if components is not None and all(hasattr(value, each) for each in components):
        pairs = [(each, getattr(value, each)) for each in components]
        return [(each, part) for each, part in pairs if part is not None]
    if hasattr(type(value), "__tf_flatten__"):
        value = value.__tf_flatten__()[1]
    if isinstance(value, Sequence):
        return [(str(index), item) for index, item in enumerate(value)]
    return None


def component_names(kind: str, count: int) -> list[str]:
    """Flat names of the `count` tensors of a composite tensor of the class `kind`."""
    names = list(_COMPONENTS.get(kind, ()))
    if kind == "RaggedTensor":
        return [names[0], *(f"{names[1]}/{index}" for index in range(count - 1))]
    return names[:count] if len(names) >= count else [str(index) for index in range(count)]


def join(name: str, part: str) -> str:
    """The flat name of a part."""
    return f"{name}/{part}" if name else part


def _sorted(mapping: Mapping[Any, Any]) -> list[Any]:
    try:
        return sorted(mapping)
    except TypeError:  # Keys that have no order. TensorFlow refuses those.
        return list(mapping)
