"""Regions of a variable: a slice for each dimension, or a list of rows; and their shapes.

Knows numpy and the core's errors.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from varserve_service.core.errors import Reason, RequestError


@dataclass(frozen=True, slots=True)
class Slice:
    """Elements start, start + step, ... below stop. `stop` None: to the end of the dimension."""

    start: int = 0
    stop: int | None = None
    step: int = 1


@dataclass(frozen=True, slots=True)
class Slices:
    """A slice for each dimension, outermost first; dimensions beyond the last are taken whole."""

    dimensions: tuple[Slice, ...]

    def index(self) -> tuple[slice, ...]:
        """The same as an index that numpy and TensorFlow understand."""
        return tuple(slice(s.start, s.stop, s.step) for s in self.dimensions)


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Whole rows along the first dimension, by int64 indices of shape [n]."""

    indices: np.ndarray[Any, Any]


Region: TypeAlias = Slices | Rows


def index_of(region: Region) -> Any:
    """The same as an index that numpy understands: what it gives and takes is an array."""
    # Without the dots a scalar's would be its element, and an object's would be an array in it.
    return region.indices if isinstance(region, Rows) else (*region.index(), ...)


def touched_rows(regions: Iterable[Region], count: int) -> np.ndarray[Any, Any]:
    """The rows that regions of a value of so many rows touch: ascending, each once."""
    return np.unique(np.concatenate([_own_rows(region, count) for region in regions]))


def overlap(
    region: Region, rows: np.ndarray[Any, Any], count: int
) -> tuple[Any, np.ndarray[Any, Any]]:
    """Where a region of a value of `count` rows is in a value of some of its rows, which ascend.

    The index of it there, and which rows of the region's own value these are.
    """
    own = _own_rows(region, count)
    at = np.searchsorted(rows, own)
    found = np.flatnonzero(at < rows.size)
    found = found[rows[at[found]] == own[found]]
    inner = () if isinstance(region, Rows) else region.index()[1:]
    return (at[found], *inner), found


def _own_rows(region: Region, count: int) -> np.ndarray[Any, Any]:
    if isinstance(region, Rows):
        return region.indices
    first = region.index()[:1] or (slice(None),)
    return np.arange(*first[0].indices(count), dtype=np.int64)


def region_shape(region: Region, shape: tuple[int, ...], *, variable: str) -> tuple[int, ...]:
    """The shape of a region of a value of this shape.

    Raises RequestError REGION_INVALID when the region reaches outside the value or is not one;
    `variable` names it in the message.
    """

    def invalid(problem: str) -> RequestError:
        return RequestError(
            Reason.REGION_INVALID,
            f"region of variable {variable!r} of shape {list(shape)}: {problem}",
            variable=variable,
        )

    if isinstance(region, Rows):
        if not shape:
            raise invalid("a scalar has no rows")
        indices = region.indices
        if indices.size:
            low, high = int(indices.min()), int(indices.max())
            if low < 0 or high >= shape[0]:
                wrong = low if low < 0 else high
                raise invalid(f"expected row indices from 0 to {shape[0] - 1}, found {wrong}")
        return (int(indices.size), *shape[1:])

    if len(region.dimensions) > len(shape):
        raise invalid(
            f"expected at most {len(shape)} slices, one for each dimension, "
            f"found {len(region.dimensions)}"
        )
    sizes = list(shape)
    for dimension, part in enumerate(region.dimensions):
        size = shape[dimension]
        stop = size if part.stop is None else part.stop
        if part.step < 1:
            raise invalid(
                f"dimension {dimension}: expected a step of at least 1, found {part.step}"
            )
        if not 0 <= part.start <= stop <= size:
            raise invalid(
                f"dimension {dimension}: expected 0 <= start <= stop <= {size}, "
                f"found start {part.start}, stop {stop}"
            )
        sizes[dimension] = -(-(stop - part.start) // part.step)
    return tuple(sizes)
