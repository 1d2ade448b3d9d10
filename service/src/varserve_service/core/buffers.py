"""Host memory that a loaded model can take over without a copy.

Knows numpy and nothing of who fills or takes the memory.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

ALIGNMENT = 64
"""Bytes: TensorFlow's kernels load whole cache lines and abort the process on less."""


def aligned_empty(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray[Any, Any]:
    """A fresh, writable, C-contiguous array that starts at a multiple of ALIGNMENT bytes.

    Its elements are whatever the memory held. Not for object dtypes, which raise ValueError.
    """
    dtype = np.dtype(dtype)
    if dtype.hasobject:
        raise ValueError(f"expected a dtype of plain bytes, found {dtype}")
    nbytes = math.prod(shape) * dtype.itemsize
    memory = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + nbytes].view(dtype).reshape(shape)


def is_aligned(array: np.ndarray[Any, Any]) -> bool:
    """Whether the array starts at a multiple of ALIGNMENT bytes."""
    return int(array.ctypes.data) % ALIGNMENT == 0
