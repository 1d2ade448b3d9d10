"""Summaries of values: statistics, a histogram and a hash.

A value is processed in parts of bounded size, where it lives: the value itself reduces each part.
Knows the ports.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from varserve_service.core.arrays.reductions import (
    Array,
    Counted,
    Moments,
    Reduced,
    added,
    edges_between,
    lengths,
    merged,
)
from varserve_service.core.ports.loaded_model import Value
from varserve_service.core.threads import model_executor

# A sum of so many integers of 32 bits is exact in float64.
_ELEMENTS = 2**20
_HASHED_BYTES = 4 * 2**20
# What one thread takes of a run at a time: the pieces are the same whatever the number of threads.
_PART_ELEMENTS = 2**17

_pool: list[ThreadPoolExecutor] = []
_making = threading.Lock()


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
    """The summary of one value; `content_hash` is empty if it was not requested."""

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
    go_on: Callable[[], bool | None] = lambda: None,
) -> Summary:
    """Summarize a value. `go_on` is called before each part, and raises to stop.

    It is True where others need the processors: then one is used, and not all. Raises what `go_on`
    raises, and OutOfMemory.
    """
    bounds = None if histogram is None else histogram.bounds
    edges = None if histogram is None or bounds is None else edges_between(*bounds, histogram.bins)
    digest = _digest(value) if content_hash else None
    moments, counts = _pass(value, edges, digest, go_on)
    found = None
    if histogram is not None:
        if edges is None:
            # Which bins there are, only the elements tell: a second pass.
            edges = edges_between(*_bounds(moments), histogram.bins)
            _, counts = _pass(value, edges, None, go_on, reduce=False)
        assert counts is not None
        found = Histogram(counts.bins, edges, counts.below, counts.above)
    hashed = b"" if digest is None else digest.digest()
    return Summary(value.dtype, value.shape, value.nbytes, moments, found, hashed)


def _pass(
    value: Value,
    edges: Array | None,
    digest: Any,
    go_on: Callable[[], bool | None],
    *,
    reduce: bool = True,
) -> tuple[Moments, Counted | None]:
    """All of a value once: reduced, counted and hashed, each run of it by all processors."""
    count = int(np.prod(value.shape, dtype=object))
    size = value.nbytes // count if count and value.dtype != "string" else 0
    moments: list[Reduced] = []
    # An empty run gives the counts their size.
    counts = [] if edges is None else [value.count(0, 0, edges)]

    def work(part: tuple[int, int]) -> tuple[Sequence[Reduced], Counted | None]:
        start, stop = part
        return (
            value.reduce(start, stop) if reduce else (),
            None if edges is None else value.count(start, stop, edges),
        )

    def hash_elements(start: int, stop: int) -> None:
        if digest is not None and size:
            digest.update(value.buffer(start * size, stop * size))

    for start, stop in _runs(count, _ELEMENTS):
        parts = [(start + a, start + b) for a, b in _runs(stop - start, _PART_ELEMENTS)]
        done = []
        for number, part in enumerate(parts):
            if go_on() or number:
                done.append(work(part))
                hash_elements(*part)
                continue
            later = [_threads().submit(work, each) for each in parts[1:]]
            done.append(work(part))
            hash_elements(start, stop)
            done += [each.result() for each in later]
            break
        for reduced, counted in done:
            moments.extend(reduced)
            counts += () if counted is None else (counted,)
    if digest is not None and not size:
        _hash_strings(value, digest)
    return merged(moments), added(counts) if counts else None


def _threads() -> ThreadPoolExecutor:
    """As many threads as there are processors, for all summaries together."""
    with _making:
        if not _pool:
            _pool.append(model_executor(os.cpu_count() or 1, "summaries"))
        return _pool[0]


def _bounds(moments: Moments) -> tuple[float, float]:
    low, high = moments.reduced.low, moments.reduced.high
    if low is None or high is None:
        return -0.5, 0.5
    low, high = float(low), float(high)
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def hash_of(value: Value, go_on: Callable[[], object] = lambda: None) -> bytes:
    """The content hash of a value: SHA-256, defined at `Summary.content_hash` in the contract.

    Summaries and the audit log use this hash. `go_on` is called before each part of the value.
    """
    digest = _digest(value)
    if value.dtype == "string":
        _hash_strings(value, digest)
    else:
        for start, stop in _runs(value.nbytes, _HASHED_BYTES, go_on):
            digest.update(value.buffer(start, stop))
    return bytes(digest.digest())


def _digest(value: Value) -> Any:
    sizes = ",".join(str(size) for size in value.shape)
    return hashlib.sha256(f"{value.dtype} {sizes}\n".encode())


def _hash_strings(value: Value, digest: Any) -> None:
    if value.dtype != "string":
        return
    strings = value.numpy()
    digest.update(lengths(strings).astype("<u8").tobytes())
    for element in strings.flat:
        digest.update(element)


def _runs(
    size: int, step: int, go_on: Callable[[], object] = lambda: None
) -> Iterator[tuple[int, int]]:
    """The runs of at most `step` that cover `size`."""
    for start in range(0, size, step):
        go_on()
        yield start, min(size, start + step)
