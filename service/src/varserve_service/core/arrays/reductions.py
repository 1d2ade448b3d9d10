"""Statistics of runs of elements, and how those of several runs are merged.

The numpy implementation; devices have kernels of their own. Knows numpy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

LARGE, SMALL = 2.0**400, 2.0**-400
"""Numbers within these bounds are squared and summed in float64 as they are."""

SHIFT = 600
"""The others after a division by 2**SHIFT or 2**-SHIFT, which brings any float64 within them."""

# So few float64 stay near the processor.
_AT_ONCE = 2**16

# From here on an index worked out from an element's distance to the first edge is within one bin.
_NARROWEST_BIN = 2.0**-40


@dataclass(frozen=True, slots=True)
class Reduced:
    """What a run of elements comes to.

    `low` and `high` are of the finite elements, None where there is none. `total` is the sum of
    these, `squares` of their squares, `spread` of the squared distances from their own mean: with
    the elements divided by 2**exponent, so that nothing overflows.
    """

    count: int
    nans: int = 0
    infinities: int = 0
    zeros: int = 0
    low: int | float | None = None
    high: int | float | None = None
    total: float = 0.0
    squares: float = 0.0
    spread: float = 0.0
    exponent: int = 0

    @property
    def finite(self) -> int:
        """How many elements are neither NaN nor infinite."""
        return self.count - self.nans - self.infinities


def as_numbers(elements: Array) -> Array:
    """The float64 array of what the elements count as: modulus, 0 and 1, or a string's length."""
    kind, size = elements.dtype.kind, elements.dtype.itemsize
    if kind == "O":
        return lengths(elements).astype(np.float64)
    if kind == "c":
        return _modulus(elements)
    if elements.dtype.name == "bfloat16":
        # What ml_dtypes casts, it casts while nothing else in the process can run.
        bits = elements.view(np.uint16).astype(np.uint32) << np.uint32(16)
        return bits.view(np.float32).astype(np.float64)
    if size == 1 and kind not in "biu":
        every = np.arange(256, dtype=np.uint8)
        numbers: Array = every.view(elements.dtype).astype(np.float64)
        return numbers[elements.view(np.uint8)]
    return elements.astype(np.float64)


def _modulus(elements: Array) -> Array:
    wide = elements.astype(np.complex128)
    modulus: Array = np.abs(wide)
    # C's hypot takes an infinite part to be stronger than one that is none, and overflows where
    # the parts do not.
    modulus[np.isnan(wide.real) | np.isnan(wide.imag)] = np.nan
    finite = np.isfinite(wide.real) & np.isfinite(wide.imag)
    modulus[np.isinf(modulus) & finite] = np.finfo(np.float64).max
    return modulus


def lengths(strings: Array) -> Array:
    """The int64 array of the lengths of byte strings, in C order."""
    return np.fromiter((len(each) for each in strings.flat), np.int64, strings.size)


def _cut(elements: Array) -> Iterator[Array]:
    for start in range(0, elements.size, _AT_ONCE):
        yield elements[start : start + _AT_ONCE]


def reduced(elements: Array) -> list[Reduced]:
    """Reduces a one-dimensional array of any dtype of the contract, in one or more runs."""
    return [_reduced(part) for part in _cut(elements)]


def _reduced(elements: Array) -> Reduced:
    count = elements.size
    if elements.dtype.kind == "O":
        elements = lengths(elements)
    low: int | float
    high: int | float
    with np.errstate(all="ignore"):
        numbers = as_numbers(elements)
        low, high = float(numbers.min()), float(numbers.max())
        nans = infinities = 0
        if not (math.isfinite(low) and math.isfinite(high)):
            nans = int(np.count_nonzero(np.isnan(numbers)))
            numbers = numbers[np.isfinite(numbers)]
            infinities = count - nans - numbers.size
            if numbers.size == 0:
                return Reduced(count, nans, infinities)
            low, high = float(numbers.min()), float(numbers.max())
        zeros = numbers.size - int(np.count_nonzero(numbers))
        exponent = exponent_of(max(abs(low), abs(high)))
        if exponent:
            numbers = np.ldexp(numbers, -exponent)
        total = float(numbers.sum())
        # Not by BLAS, whose threads take processors from everybody else for a run so short.
        squares = float(np.square(numbers).sum())
        numbers -= total / numbers.size
        left = float(numbers.sum())
        spread = float(np.square(numbers).sum()) - left * left / numbers.size
    if elements.dtype.kind in "biu":  # float64 does not hold all of them
        low, high = int(elements.min()), int(elements.max())
    return Reduced(
        count, nans, infinities, zeros, low, high, total, squares, max(0.0, spread), exponent
    )


def exponent_of(largest: float) -> int:
    """The power of two to divide numbers by, none of which is larger, before they are squared."""
    if largest == 0 or SMALL < largest < LARGE:
        return 0
    return SHIFT if largest >= LARGE else -SHIFT


@dataclass(frozen=True, slots=True)
class Moments:
    """What all elements come to: `Reduced` without its parts' exponents."""

    reduced: Reduced
    mean: float
    deviation: float
    norm: float


def merged(parts: Iterable[Reduced]) -> Moments:
    """What the runs come to together."""
    parts = [part for part in parts if part.count]
    whole = Reduced(
        sum(part.count for part in parts),
        sum(part.nans for part in parts),
        sum(part.infinities for part in parts),
        sum(part.zeros for part in parts),
    )
    parts = [part for part in parts if part.finite]
    if not parts:
        return Moments(whole, 0.0, 0.0, 0.0)
    # Exponents of parts of zeros say nothing; where all are, any does.
    exponent = max((p.exponent for p in parts if p.squares), default=0)
    finite = whole.finite
    totals = [_scaled(p.total, p.exponent - exponent) for p in parts]
    mean = math.fsum(totals) / finite
    squares = math.fsum(_scaled(p.squares, 2 * (p.exponent - exponent)) for p in parts)
    spread = math.fsum(
        term
        for part, total in zip(parts, totals, strict=True)
        for term in (
            _scaled(part.spread, 2 * (part.exponent - exponent)),
            part.finite * (total / part.finite - mean) ** 2,
        )
    )
    whole = Reduced(
        whole.count,
        whole.nans,
        whole.infinities,
        whole.zeros,
        min(part.low for part in parts if part.low is not None),
        max(part.high for part in parts if part.high is not None),
    )
    return Moments(
        whole,
        _scaled(mean, exponent),
        _scaled(math.sqrt(spread / finite), exponent),
        _scaled(math.sqrt(squares), exponent),
    )


def _scaled(number: float, exponent: int) -> float:
    try:
        return math.ldexp(number, exponent)
    except OverflowError:
        return math.copysign(math.inf, number)


def edges_between(low: float, high: float, bins: int) -> Array:
    """The float64 array of the `bins + 1` edges; ascending, though not always strictly."""
    halves = 1 if math.isfinite(high - low) else 2
    low, high = low / halves, high / halves
    edges: Array = (low + (high - low) * (np.arange(bins + 1) / bins)) * halves
    edges[-1] = high * halves
    return np.maximum.accumulate(np.minimum(edges, edges[-1]))


@dataclass(frozen=True, slots=True, eq=False)
class Counted:
    """How many finite elements are in each bin (int64), below the first and above the last."""

    bins: Array
    below: int
    above: int


def counted(elements: Array, edges: Array) -> Counted:
    """Counts a one-dimensional array of any dtype of the contract."""
    # An empty run gives the counts their size.
    return added([_counted(elements[:0], edges), *(_counted(e, edges) for e in _cut(elements))])


def _counted(elements: Array, edges: Array) -> Counted:
    with np.errstate(all="ignore"):
        numbers = as_numbers(elements)
        low, high = float(edges[0]), float(edges[-1])
        inside = (numbers >= low) & (numbers <= high)
        below = above = 0
        if not inside.all():
            below = int(np.count_nonzero((numbers < low) & (numbers > -np.inf)))
            above = int(np.count_nonzero((numbers > high) & (numbers < np.inf)))
            numbers = numbers[inside]
    index = _bins_of(numbers, edges)
    return Counted(np.bincount(index, minlength=len(edges) - 1), below, above)


def _bins_of(numbers: Array, edges: Array) -> Array:
    """The bin of each number, all of which are between the outer edges."""
    last = len(edges) - 2
    low, high = float(edges[0]), float(edges[-1])
    width = (high - low) / (last + 1)
    if not _NARROWEST_BIN * max(abs(low), abs(high)) < width < LARGE or width < SMALL:
        index = np.searchsorted(edges, numbers, side="right") - 1
        return np.clip(index, 0, last)
    # Several times as fast as to search; what rounding put a bin too low or too high is put right.
    index = np.clip(((numbers - low) / width).astype(np.intp), 0, last)
    index -= numbers < edges[index]
    index += (numbers >= edges[index + 1]) & (index < last)
    return index


def added(parts: Sequence[Counted]) -> Counted:
    """What is counted in several runs, at least one."""
    return Counted(
        np.asarray(np.sum([part.bins for part in parts], axis=0, dtype=np.int64)),
        sum(part.below for part in parts),
        sum(part.above for part in parts),
    )
