"""Patches: values of parts of an array, written over the array or folded into one patch.

The only place where a part of a value is written over a whole. Knows numpy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

from .regions import Region, Rows, Slices, index_of, overlap

Array: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Elements:
    """Single elements, by int64 indices of shape [n] into the flat array in C order.

    Overlapping regions become elements when they are folded without the whole value.
    """

    indices: Array


Part: TypeAlias = Region | Elements | None
"""A part of an array; None: the whole."""


class Patch(Protocol):
    """A part, and the value that it has. The value of `Elements` is flat."""

    @property
    def part(self) -> Part: ...

    @property
    def value(self) -> Array: ...


class Canvas:
    """An array that is written to, part by part: a whole value, or only some of its rows.

    `rows`: indices of the rows that `array` holds, ascending, of a value with `count` rows. What is
    written to other rows is left out.
    """

    def __init__(self, array: Array, rows: Array | None = None, count: int = 0) -> None:
        self.array = array
        self._rows = rows
        self._count = count

    def write(self, part: Part, value: Array) -> None:
        """Write the value of a part. A whole value is copied."""
        if part is None:
            self.array[...] = value
        elif isinstance(part, Elements):
            self.array.reshape(-1)[part.indices] = value
        elif self._rows is None:
            self.array[index_of(part)] = value
        else:
            index, own_rows = overlap(part, self._rows, self._count)
            self.array[index] = value[own_rows]

    def read(self, region: Region) -> Array:
        """A region as it is now, all of whose rows are there."""
        if self._rows is None:
            index = index_of(region)
        else:
            index, _ = overlap(region, self._rows, self._count)
        part: Array = self.array[index]
        return part


def fold(patches: Sequence[Patch], shape: tuple[int, ...] | None) -> tuple[Part, Array]:
    """The part and value that patches, at least one and in this order, amount to.

    With a whole value among them, that is a whole value. Without one, it is the rows or the
    elements that were written, and `shape` is that of the array; rows alone need no shape.
    """
    wholes = [number for number, patch in enumerate(patches) if patch.part is None]
    if wholes:
        patches = patches[wholes[-1] :]
    if len(patches) == 1:
        return patches[0].part, patches[0].value
    if wholes:
        canvas = Canvas(patches[0].value.copy())
        for patch in patches[1:]:
            canvas.write(patch.part, patch.value)
        return None, canvas.array
    rows = [_whole_rows(patch.part, shape) for patch in patches]
    known_rows = [indices for indices in rows if indices is not None]
    if len(known_rows) == len(patches):
        indices, values = _last_of_each(known_rows, [patch.value for patch in patches])
        return Rows(indices), values
    assert shape is not None
    indices, values = _last_of_each(
        [_elements(patch.part, shape) for patch in patches],
        [patch.value.reshape(-1) for patch in patches],
    )
    return Elements(indices), values


def _last_of_each(indices: Sequence[Array], values: Sequence[Array]) -> tuple[Array, Array]:
    """For each index the value that was written last; indices ascend."""
    # Backwards, because np.unique keeps the first of each.
    unique, first = np.unique(np.concatenate(indices)[::-1], return_index=True)
    return unique, np.concatenate(values)[::-1][first]


def _whole_rows(part: Part, shape: tuple[int, ...] | None) -> Array | None:
    """The rows that a part is; None when it is not whole rows."""
    if isinstance(part, Rows):
        return part.indices
    if not isinstance(part, Slices) or not shape or not part.dimensions:
        return None
    first, *inner = (range(size)[index] for index, size in zip(part.index(), shape, strict=False))
    if any(len(taken) != size for taken, size in zip(inner, shape[1:], strict=False)):
        return None
    return np.array(first, np.int64)


def _elements(part: Part, shape: tuple[int, ...]) -> Array:
    """Indices into the flat array of all elements of a part, in the order of the part's value."""
    if isinstance(part, Elements):
        return part.indices
    if isinstance(part, Rows):
        taken: list[Array] = [part.indices]
    else:
        assert isinstance(part, Slices)
        taken = [
            np.array(range(size)[index], np.int64)
            for index, size in zip(part.index(), shape, strict=False)
        ]
    taken += [np.arange(size, dtype=np.int64) for size in shape[len(taken) :]]
    flat = np.zeros((), np.int64)
    for dimension, indices in enumerate(taken):
        flat = np.add.outer(flat, indices * math.prod(shape[dimension + 1 :]))
    return flat.reshape(-1)
