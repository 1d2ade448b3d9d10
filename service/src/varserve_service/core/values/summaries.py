"""What is told of a value instead of the value: statistics, a histogram, a hash.

Goes through a value in parts of a bounded size, wherever it lives; what it needs of a part, the
value does itself. Knows the ports.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from varserve_service.core.arrays.reductions import (
    Array,
    Moments,
    added,
    edges_between,
    lengths,
    merged,
)
from varserve_service.core.ports.loaded_model import Value

# A sum of so many integers of 32 bits is exact in float64.
_ELEMENTS = 2**20
_HASHED_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class HistogramSpec:
    """How many bins, and the outer edges; None: from the smallest to the largest element."""

    bins: int
    bounds: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """`counts` int64 [bins], `edges` float64 [bins + 1]; `below` and `above` are outside."""

    counts: Array
    edges: Array
    below: int
    above: int


@dataclass(frozen=True, slots=True, eq=False)
class Summary:
    """One value in a few numbers; `content_hash` is empty where none was asked for."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    moments: Moments
    histogram: Histogram | None
    content_hash: bytes


def summarize(
    value: Value,
    *,
    histogram: HistogramSpec | None = None,
    content_hash: bool = False,
    go_on: Callable[[], None] = lambda: None,
) -> Summary:
    """A value in a few numbers. `go_on` is called before each part, and raises to end it there.

    Raises what `go_on` raises, and OutOfMemory.
    """
    count = int(np.prod(value.shape, dtype=object))
    runs = _runs(count, _ELEMENTS, go_on)
    moments = merged(each for start, stop in runs for each in value.reduce(start, stop))
    found = None
    if histogram is not None:
        edges = edges_between(*(histogram.bounds or _bounds(moments)), histogram.bins)
        # An empty run gives the counts their size.
        runs = _runs(count, _ELEMENTS, go_on)
        counts = added([value.count(0, 0, edges), *(value.count(a, b, edges) for a, b in runs)])
        found = Histogram(counts.bins, edges, counts.below, counts.above)
    digest = hash_of(value, go_on) if content_hash else b""
    return Summary(value.dtype, value.shape, value.nbytes, moments, found, digest)


def _bounds(moments: Moments) -> tuple[float, float]:
    low, high = moments.reduced.low, moments.reduced.high
    if low is None or high is None:
        return -0.5, 0.5
    low, high = float(low), float(high)
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def hash_of(value: Value, go_on: Callable[[], None] = lambda: None) -> bytes:
    """The content hash of a value: SHA-256, defined at `Summary.content_hash` in the contract.

    Summaries and the audit log use this hash. `go_on` is called before each part of the value.
    """
    sizes = ",".join(str(size) for size in value.shape)
    digest = hashlib.sha256(f"{value.dtype} {sizes}\n".encode())
    if value.dtype == "string":
        strings = value.numpy()
        digest.update(lengths(strings).astype("<u8").tobytes())
        for element in strings.flat:
            digest.update(element)
        return digest.digest()
    for start, stop in _runs(value.nbytes, _HASHED_BYTES, go_on):
        digest.update(value.buffer(start, stop))
    return digest.digest()


def _runs(size: int, step: int, go_on: Callable[[], None]) -> Iterator[tuple[int, int]]:
    """The runs of at most `step` that cover `size`."""
    for start in range(0, size, step):
        go_on()
        yield start, min(size, start + step)
