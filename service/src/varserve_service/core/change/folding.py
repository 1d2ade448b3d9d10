"""Several changes of one variable as one, which leaves the same value.

Knows the journal's port and numpy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from varserve_service.core.arrays.regions import Rows, Slices, index_of
from varserve_service.core.ports.journal import Array, Elements, KeptChange, Part


def fold(changes: Sequence[KeptChange], shape: tuple[int, ...] | None) -> KeptChange:
    """What these changes, in this order, amount to; all are to one variable, and at least one.

    With the whole value among them the result is the whole value. Without, `shape` is that of the
    variable, and the result is the rows or the elements that were written.
    """
    whole = [number for number, change in enumerate(changes) if change.part is None]
    if whole:
        changes = changes[whole[-1] :]
    if len(changes) == 1:
        return changes[0]
    path = changes[0].path
    if whole:
        value = changes[0].value.copy()
        for change in changes[1:]:
            _write(value, change)
        return KeptChange(path, None, value)
    assert shape is not None
    rows = [_rows(change.part, shape) for change in changes]
    if all(each is not None for each in rows):
        indices, values = _last_of_each(
            [each for each in rows if each is not None], [change.value for change in changes]
        )
        return KeptChange(path, Rows(indices), values)
    indices, values = _last_of_each(
        [_elements(change.part, shape) for change in changes],
        [change.value.reshape(-1) for change in changes],
    )
    return KeptChange(path, Elements(indices), values)


def _write(value: Array, change: KeptChange) -> None:
    match change.part:
        case Slices() | Rows():
            value[index_of(change.part)] = change.value
        case Elements():
            value.reshape(-1)[change.part.indices] = change.value


def _last_of_each(indices: Sequence[Array], values: Sequence[Array]) -> tuple[Array, Array]:
    """For each index the value that was written last; indices ascend."""
    # Backwards, because np.unique keeps the first of each.
    unique, first = np.unique(np.concatenate(indices)[::-1], return_index=True)
    return unique, np.concatenate(values)[::-1][first]


def _rows(part: Part, shape: tuple[int, ...]) -> Array | None:
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
    """Indices into the flat value of all elements of a part, in the order of the part's value."""
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
