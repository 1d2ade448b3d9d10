"""Memory of large arrays that the program let go of, for the next ones of about the same size.

The kernel gives fresh memory its pages one by one when it is first written to, which takes as long
as to receive the bytes. Idle memory is bounded, and the kernel may take its pages back at any time
(MADV_FREE): it does so before anything else when memory is short. Knows numpy and the operating
system.
"""

from __future__ import annotations

import math
import mmap
import threading
import weakref
from collections import deque
from typing import Any

import numpy as np

from varserve.tensors import Array

from .forks import GATE, Renewable

LEAST_BYTES = 1 << 20
"""Less comes from the heap, which keeps what is freed by itself."""
MOST_IDLE_BYTES = 512 << 20

_FREE = getattr(mmap, "MADV_FREE", None)
_HUGE = getattr(mmap, "MADV_HUGEPAGE", None)
_FLAGS = getattr(mmap, "MAP_PRIVATE", 0) | getattr(mmap, "MAP_ANONYMOUS", 0)


class Pool(Renewable):
    """Makes arrays, and keeps the memory of those that are gone."""

    def __init__(self, most_idle_bytes: int = MOST_IDLE_BYTES) -> None:
        self._most = most_idle_bytes
        self._idle: list[mmap.mmap] = []  # the longest idle first
        # Filled by finalizers, which run at any point of any thread: without the lock.
        self._returned: deque[mmap.mmap] = deque()
        self._after_fork()
        GATE.renew_in_child(self)

    def _after_fork(self) -> None:
        """A lock of this process. The memory is its own: it is copied when it is written to."""
        self._turn = threading.Lock()

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """A C-contiguous, writable array of any content."""
        nbytes = math.prod(shape) * dtype.itemsize
        # Where the kernel cannot take idle memory back, none is kept.
        if nbytes < LEAST_BYTES or _FREE is None:
            return np.empty(shape, dtype)
        memory = self._fitting(nbytes)
        if memory is None:
            try:
                memory = mmap.mmap(-1, nbytes, flags=_FLAGS)
            except (OSError, OverflowError) as error:
                raise MemoryError(f"no memory for {nbytes} bytes") from error
            if _HUGE is not None:
                memory.madvise(_HUGE)
        whole = np.frombuffer(memory, np.uint8)
        weakref.finalize(whole, self._take_back, memory).atexit = False
        return whole[:nbytes].view(dtype).reshape(shape)

    @property
    def idle_bytes(self) -> int:
        """Bytes that are kept for later."""
        with self._turn:
            self._collect()
            return sum(map(len, self._idle))

    def _take_back(self, memory: mmap.mmap) -> None:
        if len(memory) <= self._most:
            self._returned.append(memory)

    def _fitting(self, nbytes: int) -> mmap.mmap | None:
        with self._turn:
            self._collect()
            for index in reversed(range(len(self._idle))):
                if nbytes <= len(self._idle[index]) <= nbytes + nbytes // 4:
                    return self._idle.pop(index)
        return None

    def _collect(self) -> None:
        while self._returned:
            memory = self._returned.popleft()
            assert _FREE is not None
            memory.madvise(_FREE)
            self._idle.append(memory)
        while sum(map(len, self._idle)) > self._most:
            self._idle.pop(0)  # its pages go back to the system with its last reference


POOL = Pool()
