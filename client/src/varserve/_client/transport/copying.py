"""Copies of large memory, by as many threads as make them faster. Knows numpy alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from varserve import lane
from varserve.tensors import Array

_PART = 16 << 20
"""Bytes that one thread copies at a time: a thread begins and ends in a hundredth of that."""
_MOST_THREADS = 4
"""More of them wait for the memory."""


def copy_all(
    destinations: Sequence[Array], sources: Sequence[Array], copied: Callable[[int], None]
) -> None:
    """Copy flat arrays of uint8 into others of their lengths.

    Other threads go on meanwhile: nothing here holds the interpreter. `copied` is called, on any
    thread, with the bytes that a copy moved.
    """
    parts = [
        (destination[start : start + _PART], source[start : start + _PART])
        for destination, source in zip(destinations, sources, strict=True)
        for start in range(0, destination.nbytes, _PART)
    ]

    def copy(part: tuple[Array, Array]) -> None:
        np.copyto(*part)
        copied(part[0].nbytes)

    threads = min(len(parts), _MOST_THREADS, lane.cores())
    if threads < 2:
        for part in parts:
            copy(part)
        return
    with ThreadPoolExecutor(threads, "varserve-copy") as pool:
        list(pool.map(copy, parts))
