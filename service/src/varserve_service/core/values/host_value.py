"""Values that are in host memory already.

Knows numpy and the ports.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from varserve_service.core.arrays.reductions import Counted, Reduced, counted, reduced
from varserve_service.core.arrays.shapes import dtype_name


class HostValue:
    """A C-contiguous array that is never written again, as a Value."""

    __slots__ = ("_array", "_bytes")

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self._array = array
        self._bytes = None if array.dtype.hasobject else array.reshape(-1).view(np.uint8)

    @property
    def dtype(self) -> str:
        return dtype_name(self._array)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._array.shape)

    @property
    def nbytes(self) -> int:
        if self._bytes is None:
            return sum(len(element) for element in self._array.flat)
        return self._array.nbytes

    def numpy(self) -> np.ndarray[Any, Any]:
        return self._array

    def buffer(self, start: int, stop: int) -> memoryview:
        if self._bytes is None:
            raise TypeError("strings have no buffer of elements")
        return self._bytes.data[start:stop]

    def reduce(self, start: int, stop: int) -> Sequence[Reduced]:
        return reduced(self._array.reshape(-1)[start:stop])

    def count(self, start: int, stop: int, edges: np.ndarray[Any, Any]) -> Counted:
        return counted(self._array.reshape(-1)[start:stop], edges)
