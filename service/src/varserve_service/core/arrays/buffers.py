"""Host memory that a loaded model can take over without a copy.

Knows numpy; knows nothing of what the memory is for.
"""

from __future__ import annotations

import math
import mmap
import threading
import time
import weakref
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from varserve_service.core.threads import started

ALIGNMENT = 64
"""Bytes: TensorFlow's kernels load whole cache lines and abort the process on less."""

# Shared memory, which is what Python maps unless told, takes a third longer to touch and give back.
# Huge pages would take a quarter of that, or three times as long where the kernel has to make them.
_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS

IDLE_SECONDS = 3.0
"""Freed memory is kept for so long for the next array."""


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
    `max_idle_bytes` bounds what is kept for later, `idle_seconds` for how long. A thread gives it
    back then; it runs as long as there is any memory to come back or to be given back.
    """

    def __init__(
        self,
        min_bytes: int = 2**20,
        max_idle_bytes: int = 512 * 2**20,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._min_bytes = min_bytes
        self._max_idle_bytes = max_idle_bytes
        self._idle_seconds = idle_seconds
        self._lock = threading.Lock()
        self._idle: list[tuple[float, mmap.mmap]] = []  # and since when; the longest idle first
        self._in_use = 0
        # Filled by finalizers, which may run at any point of any thread: only such queues bear it.
        self._returned: SimpleQueue[mmap.mmap] = SimpleQueue()
        self._news: SimpleQueue[None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def take(self, nbytes: int) -> np.ndarray[Any, Any] | None:
        """At least so many bytes, aligned to a page; None for few, which are not worth it.

        The memory comes back when the array and all its views are gone. Raises MemoryError.
        """
        if nbytes < self._min_bytes:
            return None
        memory = self._fitting(nbytes)
        if memory is None:
            try:
                memory = mmap.mmap(-1, nbytes, flags=_PRIVATE)
            except (OSError, OverflowError) as error:
                raise MemoryError(f"no memory for {nbytes} bytes") from error
        array = np.frombuffer(memory, np.uint8)
        with self._lock:
            self._in_use += 1
            if self._thread is None:
                thread = threading.Thread(
                    target=self._give_back, name="varserve-memory", daemon=True
                )
                self._thread = thread if started(thread) else None
        weakref.finalize(array, self._come_back, memory).atexit = False
        return array

    def idle_bytes(self) -> int:
        """Bytes that are kept for later."""
        with self._lock:
            self._collect()
            return sum(len(memory) for _, memory in self._idle)

    def _come_back(self, memory: mmap.mmap) -> None:
        self._returned.put(memory)
        self._news.put(None)

    def _fitting(self, nbytes: int) -> mmap.mmap | None:
        with self._lock:
            self._collect()
            for index in reversed(range(len(self._idle))):
                if nbytes <= len(self._idle[index][1]) <= nbytes + nbytes // 4:
                    return self._idle.pop(index)[1]
        return None

    def _collect(self) -> None:
        with suppress(Empty):
            while True:
                self._idle.append((time.monotonic(), self._returned.get_nowait()))
                self._in_use -= 1
        total = sum(len(memory) for _, memory in self._idle)
        while total > self._max_idle_bytes:
            # Its pages go back to the system with its last reference.
            total -= len(self._idle.pop(0)[1])

    def _give_back(self) -> None:
        while True:
            with self._lock:
                self._collect()
                due = time.monotonic() - self._idle_seconds
                while self._idle and self._idle[0][0] <= due:
                    self._idle.pop(0)
                if not self._idle and not self._in_use:
                    self._thread = None
                    return
                wait = self._idle[0][0] - due if self._idle else None
            with suppress(Empty):
                self._news.get(timeout=wait)


_recycler = Recycler()


def idle_bytes() -> int:
    """Bytes of freed memory that are kept for later arrays."""
    return _recycler.idle_bytes()
