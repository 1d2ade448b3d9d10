"""How shapes and dtypes are written and compared, and how many bytes they take.

Knows numpy.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np

# As many bytes as the longest element has.
_NOTHING = bytes(16)

PartialShape: TypeAlias = tuple[int | None, ...] | None
"""A size, or None for one that is not known; None alone when not even the rank is known."""


def dtype_name(array: np.ndarray[Any, Any]) -> str:
    """The name of an array's dtype as the ports write it."""
    return _dtype_name(array.dtype)


# numpy takes microseconds to put a dtype's name together.
@lru_cache(maxsize=256)
def _dtype_name(dtype: np.dtype[Any]) -> str:
    return "string" if dtype.kind == "O" else dtype.name


def outline(dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """An array of a dtype and shape that takes no memory; its elements mean nothing."""
    if dtype.hasobject:
        return np.broadcast_to(np.empty((), dtype), shape)
    return np.ndarray(shape, dtype, _NOTHING, strides=(0,) * len(shape))


def fits(shape: tuple[int, ...], expected: PartialShape) -> bool:
    """A shape is one of those that a partial shape describes."""
    if expected is None:
        return True
    if len(shape) != len(expected):
        return False
    for want, have in zip(expected, shape, strict=True):
        if want is not None and want != have:
            return False
    return True


def shape_text(shape: PartialShape) -> str:
    """A shape as messages write it: `[?, 3]`, or `any shape`."""
    if shape is None:
        return "any shape"
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


@lru_cache(maxsize=4096)
def least_bytes(dtype: str, shape: PartialShape) -> int:
    """Bytes that a value takes, as far as its shape is known beforehand."""
    if shape is None or None in shape or dtype == "string":
        return 0
    try:
        itemsize = np.dtype(dtype).itemsize
    except TypeError:  # bfloat16 and its like, which numpy knows once ml_dtypes was imported
        itemsize = 1
    return math.prod(size for size in shape if size is not None) * itemsize
