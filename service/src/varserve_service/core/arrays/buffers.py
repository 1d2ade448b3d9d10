"""Host memory that a loaded model can take over without a copy.

Knows numpy; knows nothing of what the memory is for.
"""

from __future__ import annotations

import math
import mmap
import threading
import weakref
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

ALIGNMENT = 64
"""Bytes: TensorFlow's kernels load whole cache lines and abort the process on less."""


def aligned_empty(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray[Any, Any]:
    """A writable, C-contiguous array that starts at a multiple of ALIGNMENT bytes.

    Its elements are whatever the memory held. Not for object dtypes, which raise ValueError.
    """
    dtype = np.dtype(dtype)
    if dtype.hasobject:
        raise ValueError(f"expected a dtype of plain bytes, found {dtype}")
    nbytes = math.prod(shape) * dtype.itemsize
    memory = _recycler.take(nbytes)
    if memory is None:
        memory = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + nbytes].view(dtype).reshape(shape)


def aligned_copy(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The same elements in writable memory that a variable can take over; strings as they are."""
    if array.dtype.hasobject:
        return array.copy()
    copy = aligned_empty(array.shape, array.dtype)
    np.copyto(copy, array)
    return copy


def is_aligned(array: np.ndarray[Any, Any]) -> bool:
    """Whether the array starts at a multiple of ALIGNMENT bytes."""
    return int(array.ctypes.data) % ALIGNMENT == 0


class Recycler:
    """Keeps the memory of large arrays that were freed, for later arrays of about the same size.

    The first touch of fresh memory costs several times the copy into it. A variable that is
    assigned again and again swaps between two pieces of memory that have both been touched.
    `max_idle_bytes` bounds what is kept for later.
    """

    def __init__(self, min_bytes: int = 2**20, max_idle_bytes: int = 512 * 2**20) -> None:
        self._min_bytes = min_bytes
        self._max_idle_bytes = max_idle_bytes
        self._lock = threading.Lock()
        self._idle: list[mmap.mmap] = []  # the longest idle first
        # Filled by finalizers, which may run at any point of any thread: without the lock.
        self._returned: deque[mmap.mmap] = deque()

    def take(self, nbytes: int) -> np.ndarray[Any, Any] | None:
        """At least so many bytes, aligned to a page; None for few, which are not worth it.

        The memory comes back when the array and all its views are gone. Raises MemoryError.
        """
        if nbytes < self._min_bytes:
            return None
        memory = self._fitting(nbytes)
        if memory is None:
            try:
                memory = mmap.mmap(-1, nbytes)
            except (OSError, OverflowError) as error:
                raise MemoryError(f"no memory for {nbytes} bytes") from error
            memory.madvise(mmap.MADV_HUGEPAGE)
        array = np.frombuffer(memory, np.uint8)
        weakref.finalize(array, self._returned.append, memory).atexit = False
        return array

    def idle_bytes(self) -> int:
        """Bytes that are kept for later."""
        with self._lock:
            self._collect()
            return sum(len(memory) for memory in self._idle)

    def _fitting(self, nbytes: int) -> mmap.mmap | None:
        with self._lock:
            self._collect()
            for index in reversed(range(len(self._idle))):
                if nbytes <= len(self._idle[index]) <= nbytes + nbytes // 4:
                    return self._idle.pop(index)
        return None

    def _collect(self) -> None:
        while self._returned:
            self._idle.append(self._returned.popleft())
        total = sum(len(memory) for memory in self._idle)
        while total > self._max_idle_bytes:
            total -= len(self._idle[0])
            # Its pages go back to the system with its last reference.
            self._idle.pop(0)


_recycler = Recycler()


def idle_bytes() -> int:
    """Bytes of freed memory that are kept for later arrays."""
    return _recycler.idle_bytes()
