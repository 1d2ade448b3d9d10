"""Which rows of an array are other bits than those of another. Knows numpy and the C library."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_BLOCK_BYTES = 2**18
_libc = ctypes.CDLL(None)
_libc.memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


def differing_rows(left: Array, right: Array) -> Array:
    """Indices int64, ascending, of the rows of two C-contiguous arrays of one shape and dtype.

    At the speed of memory, while other threads go on. Not for objects, nor for scalars.
    """
    assert left.shape == right.shape
    assert left.dtype == right.dtype
    count, row = len(left), left[:1].nbytes
    first, second = left.ctypes.data, right.ctypes.data
    if not count or not row:
        return np.empty(0, np.int64)
    block = max(1, _BLOCK_BYTES // row)
    found = []
    for start in range(0, count, block):
        stop = min(start + block, count)
        at, size = start * row, (stop - start) * row
        # numpy would write down each comparison before it asks whether there is any difference.
        if _libc.memcmp(first + at, second + at, size):
            differ = _bytes(left[start:stop], row) != _bytes(right[start:stop], row)
            found.append(start + np.flatnonzero(differ.any(axis=1)))
    return np.concatenate(found) if found else np.empty(0, np.int64)


def _bytes(rows: Array, row: int) -> Array:
    return rows.reshape(-1).view(np.uint8).reshape(-1, row)
