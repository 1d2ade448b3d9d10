"""The rule by which structures are taken apart, held against TensorFlow's own."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from varserve import structures

attr = pytest.importorskip("attr")

Pair = collections.namedtuple("Pair", ["z", "a"])


@attr.s
class Attrs:
    second = attr.ib()
    first = attr.ib()


class Custom:
    """What TensorFlow calls a custom nest."""

    def __init__(self, *items: Any) -> None:
        self.items = items

    def __tf_flatten__(self) -> tuple[Any, tuple[Any, ...]]:
        return len(self.items), self.items

    @classmethod
    def __tf_unflatten__(cls, metadata: Any, components: tuple[Any, ...]) -> Any:
        return cls(*components)


STRUCTURES: list[Any] = [
    1,
    "text",
    b"bytes",
    None,
    np.arange(3),
    [1, [2, (3,)], []],
    (1,),
    {"b": 1, "a": {"d": 2, "c": [3]}},
    {10: 1, 9: 2},
    collections.OrderedDict(z=1, a=2),
    collections.defaultdict(list, z=[1], a=[2]),
    Pair(1, Pair([2], "3")),
    Attrs(second=1, first={"b": 2, "a": 3}),
    Custom(1, [2], {"b": 3, "a": 4}),
    range(3),
    collections.deque([1, 2]),
    {1, 2},
    bytearray(b"bytes"),
    memoryview(b"bytes"),
    tf.ragged.constant([[[1.0], []], [[2.0, 3.0]]]),
    tf.sparse.from_dense([[0.0, 1.0], [2.0, 0.0]]),
    tf.IndexedSlices(tf.ones([1, 2]), tf.constant([0])),
    tf.IndexedSlices(tf.ones([1, 2]), tf.constant([0]), tf.constant([3, 2])),
    {"r": tf.ragged.constant([[1], []]), "a": (tf.constant(1), None)},
]


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda structure: type(structure).__name__)
def test_leaves_are_those_of_tensorflow(structure: Any) -> None:
    """The same leaves in the same order as `tf.nest.flatten`, each with a name of its own."""
    pairs = list(structures.leaves("x", structure))
    expected = tf.nest.flatten(structure, expand_composites=True)
    assert len(pairs) == len(expected)
    for (_, leaf), other in zip(pairs, expected, strict=True):
        same = leaf is other or np.array_equal(leaf, other)
        assert same, (leaf, other)
    names = [name for name, _ in pairs]
    assert len(set(names)) == len(names)
    if not tf.nest.is_nested(structure) and len(pairs) == 1:
        assert names == ["x"]


def test_names_of_composite_tensors() -> None:
    """The parts of a composite tensor have the names that its spec's components have."""
    for value in STRUCTURES[-5:-1]:
        kind, count = type(value).__name__, len(tf.nest.flatten(value, expand_composites=True))
        names = [name for name, _ in structures.leaves("", value)]
        assert names == structures.component_names(kind, count)
