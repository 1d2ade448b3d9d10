"""Parts of a variable: from numpy's way of indexing to the contract's Region and back.

Owns what an index means. The contract drops no dimension and counts nothing from the end; both are
done here. Knows numpy and the contract's messages; knows no calls.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import EllipsisType
from typing import Any, SupportsIndex, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from varserve._client.errors import InvalidRequest, RegionInvalid, ShapeMismatch, about
from varserve.tensors import Array
from varserve.v1 import tensor_pb2

from .specs import PartialShape, VariableSpec, shape_text

N = TypeVar("N")

IndexItem: TypeAlias = SupportsIndex | slice | EllipsisType
Index: TypeAlias = IndexItem | tuple[IndexItem, ...]
"""What selects a part of a variable: integers, slices with a positive step, `...`."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Whole rows: elements along the first dimension, by their indices, in any order.

    `indices`: integers of shape [n]; negative ones count from the end where the number of rows is
    known.
    """

    indices: npt.ArrayLike


Reads: TypeAlias = "Iterable[str] | Mapping[str, Index | Rows | None]"
"""Names or paths of variables; in a mapping, each with a region or None."""


@dataclass(frozen=True, eq=False, repr=False)
class Part:
    """A part of a variable, resolved. `message` None: the whole variable."""

    shape: PartialShape
    """Of the part as it travels: with as many dimensions as the variable."""
    message: tensor_pb2.Region | None = None
    dropped: tuple[int, ...] = ()
    """Dimensions that an integer index selected one element of, and numpy does not show."""

    @cached_property
    def shown_shape(self) -> PartialShape:
        """The shape that numpy would give the part."""
        if self.shape is None or not self.dropped:
            return self.shape
        return _without(self.shape, self.dropped)

    def shown_sizes(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """The shape as numpy would give it, from the shape as it travels."""
        return _without(sizes, self.dropped)

    def show(self, array: Array) -> Array:
        """The array as numpy would give it, from the array as it travels. No copy."""
        return array.reshape(_without(array.shape, self.dropped)) if self.dropped else array

    def is_of(self, array: Array) -> bool:
        """The array, as numpy shows it, can be this part."""
        return _fits(self.shown_shape, array.shape)

    def fit(self, array: Array) -> Array:
        """The array as it travels, from the array as a user gives it. No copy.

        Raises ShapeMismatch.
        """
        expected = self.shown_shape
        if not _fits(expected, array.shape):
            raise ShapeMismatch(
                f"expected shape {shape_text(expected)}, found {shape_text(array.shape)}"
            )
        return np.expand_dims(array, self.dropped) if self.dropped else array

    @cached_property
    def count(self) -> int | None:
        """Elements of the part, None when its shape does not tell."""
        if self.shape is None:
            return None
        known = [size for size in self.shape if size is not None]
        return math.prod(known) if len(known) == len(self.shape) else None

    def nbytes(self, itemsize: int) -> int | None:
        """Bytes of the part, None when its shape does not tell."""
        return None if self.count is None else self.count * itemsize


@lru_cache(maxsize=1024)  # most parts are whole variables, of few shapes
def whole(shape: PartialShape) -> Part:
    """All of a variable of this shape."""
    return Part(shape)


def _without(shape: Sequence[N], dropped: tuple[int, ...]) -> tuple[N, ...]:
    return tuple(size for axis, size in enumerate(shape) if axis not in dropped)


def _fits(expected: PartialShape, found: tuple[int, ...]) -> bool:
    return (
        expected is None
        or expected == found
        or (
            len(expected) == len(found)
            and all(n is None or n == m for n, m in zip(expected, found, strict=True))
        )
    )


def resolve(region: Index | Rows | Part | None, shape: PartialShape = None) -> Part:
    """The part of a variable of this shape that an index selects.

    Where the shape is unknown, nothing can be counted from the end, and the service finds what
    reaches outside. Raises RegionInvalid.
    """
    if region is None:
        return whole(shape)
    if isinstance(region, Part):
        return region
    if isinstance(region, Rows):
        return _rows(region.indices, shape)
    items = region if isinstance(region, tuple) else (region,)
    items = _without_ellipsis(items, shape)
    sizes: list[int | None] = []
    slices: list[tensor_pb2.Slice] = []
    dropped: list[int] = []
    for axis, item in enumerate(items):
        size = None if shape is None else shape[axis]
        if isinstance(item, slice):
            start, stop, step = _slice(item, size, axis)
        else:
            start, stop, step = _integer(item, size, axis)
            dropped.append(axis)
        try:
            slices.append(tensor_pb2.Slice(start=start, stop=stop, step=step))
        except ValueError:  # of a dimension of unknown size
            raise RegionInvalid(f"dimension {axis}: no size reaches {item}") from None
        sizes.append(None if stop is None else -(-(stop - start) // step))
    if not slices:
        return whole(shape)
    message = tensor_pb2.Region(slices=tensor_pb2.Slices(dimensions=slices))
    left = None if shape is None else (*sizes, *shape[len(sizes) :])
    return Part(left, message, tuple(dropped))


def part_of(spec: VariableSpec, region: Index | Rows | Part | None) -> Part:
    """The part of a variable that a region is. Raises RegionInvalid."""
    if region is None:
        return whole(spec.shape)
    with about(f"variable {spec.name!r}", variable=spec.name):
        return resolve(region, spec.shape)


def regions_of(variables: Reads) -> Mapping[str, Index | Rows | None]:
    """Each name with its region. Raises InvalidRequest for one name where a list is expected."""
    if isinstance(variables, str):
        raise InvalidRequest(f"expected a list of names, found {variables!r}")
    return variables if isinstance(variables, Mapping) else dict.fromkeys(variables)


def _without_ellipsis(items: tuple[Any, ...], shape: PartialShape) -> tuple[Any, ...]:
    places = [place for place, item in enumerate(items) if item is Ellipsis]
    if len(places) > 1:
        raise RegionInvalid("an index has at most one '...'")
    given = len(items) - len(places)
    if shape is not None and given > len(shape):
        raise RegionInvalid(
            f"too many indices: the variable has {len(shape)} dimensions, found {given}"
        )
    if not places:
        return items
    before, after = items[: places[0]], items[places[0] + 1 :]
    if not after:
        return before
    if shape is None:
        raise RegionInvalid("'...' must come last where the number of dimensions is unknown")
    return (*before, *[slice(None)] * (len(shape) - given), *after)


def _slice(item: slice, size: int | None, axis: int) -> tuple[int, int | None, int]:
    where = f"dimension {axis}"
    try:
        start, stop, step = (
            None if bound is None else operator.index(bound)
            for bound in (item.start, item.stop, item.step)
        )
    except TypeError:
        raise RegionInvalid(f"{where}: a slice has integers, found {item}") from None
    if step is not None and step < 1:
        raise RegionInvalid(f"{where}: expected a step of at least 1, found {step}")
    if size is not None:
        first, last, step = slice(start, stop, step).indices(size)
        return first, max(first, last), step
    start = start or 0
    if start < 0 or (stop is not None and stop < 0):
        raise RegionInvalid(
            f"{where} is of unknown size: nothing counts from its end, found {item}"
        )
    return start, None if stop is None else max(start, stop), step or 1


def _integer(item: Any, size: int | None, axis: int) -> tuple[int, int, int]:
    where = f"dimension {axis}"
    if isinstance(item, (bool, np.bool_)) or not hasattr(item, "__index__") or np.ndim(item):
        raise RegionInvalid(
            f"{where}: expected an integer, a slice or '...', found {type(item).__name__}; "
            "for a list of rows use sparse_read and scatter_update"
        )
    index = operator.index(item)
    if size is None and index < 0:
        raise RegionInvalid(
            f"{where} is of unknown size: nothing counts from its end, found {index}"
        )
    if size is not None and not -size <= index < size:
        raise RegionInvalid(f"{where}: index {index} is out of bounds for size {size}")
    index = index + size if size is not None and index < 0 else index
    return index, index + 1, 1


def _rows(indices: npt.ArrayLike, shape: PartialShape) -> Part:
    rows = np.asarray(indices)
    if rows.size == 0:
        rows = rows.astype(np.int64)
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise RegionInvalid(
            f"rows: expected integers of shape [n], found {rows.dtype.name} "
            f"{shape_text(rows.shape)}"
        )
    if shape == ():
        raise RegionInvalid("a scalar has no rows")
    count = None if shape is None else shape[0]
    low, high = (int(rows.min()), int(rows.max())) if rows.size else (0, -1)
    if count is not None and not (-count <= low and high < count):
        wrong = high if high >= count else low
        raise RegionInvalid(f"rows: index {wrong} is out of bounds for {count} rows")
    if count is None and low < 0:
        raise RegionInvalid(
            f"the number of rows is unknown: nothing counts from its end, found {low}"
        )
    if high > np.iinfo(np.int64).max:
        raise RegionInvalid(f"rows: no number of rows reaches {high}")
    rows = rows.astype(np.int64)
    if low < 0 and count is not None:
        rows = np.where(rows < 0, rows + count, rows)
    message = tensor_pb2.Region(rows=tensor_pb2.Rows(indices=rows.tolist()))
    return Part(None if shape is None else (len(rows), *shape[1:]), message)


def index_text(index: Any) -> str:
    """An index as it is written between brackets: `0:3, ..., 2`; `[2, 5]` for rows."""
    if isinstance(index, Rows):
        return str(np.asarray(index.indices).tolist())
    if isinstance(index, tuple):
        return ", ".join(index_text(each) for each in index) or "()"
    if isinstance(index, slice):
        bounds = [index.start, index.stop, *([] if index.step is None else [index.step])]
        return ":".join("" if bound is None else str(bound) for bound in bounds)
    return "..." if index is Ellipsis else str(index)
