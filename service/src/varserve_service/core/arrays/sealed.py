"""Memory that nobody can change any more, so that other processes may have it too.

The kernel guarantees it: the memory is a memfd that was sealed. Here it is mapped privately: what
is written to the mapping after all goes to a copy of the page, which no other process sees. Knows
numpy; knows nothing of how memory comes here or goes elsewhere.
"""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from queue import SimpleQueue
from typing import Any

import numpy as np

from varserve_service.core.threads import started

Array = np.ndarray[Any, Any]

_descriptors: set[int] = set()


class SealedMemory:
    """A sealed memory: its descriptor, which is closed with the object, and its bytes.

    A mapping of it keeps this object alive.
    """

    def __init__(self, fd: int, size: int) -> None:
        """Takes the descriptor over. The memory was found to be sealed, and of this size."""
        self.fd = fd
        self.size = size
        _descriptors.add(fd)
        weakref.finalize(self, _close, fd).atexit = False

    def array(self) -> Array:
        """Its bytes, uint8 of shape [size], aligned to a page, for a variable to take over.

        Raises MemoryError.
        """
        try:
            mapping = _Mapping(
                self.fd,
                self.size,
                flags=mmap.MAP_PRIVATE,
                prot=mmap.PROT_READ | mmap.PROT_WRITE,
            )
        except (OSError, OverflowError) as error:
            raise MemoryError(f"no room to map {self.size} bytes") from error
        mapping.memory = self
        array = np.frombuffer(mapping, np.uint8)
        _let_go.start()
        weakref.finalize(array, _let_go.later.put, mapping).atexit = False
        return array


def _close(fd: int) -> None:
    _descriptors.discard(fd)
    os.close(fd)


def count() -> int:
    """How many memories there are: each takes a file descriptor. From any thread."""
    return len(_descriptors)


class _LetGo:
    """Gives memory back on a thread: the kernel takes 20 ms for 256 MiB, and whoever drops the last
    reference may hold a model's lock."""

    def __init__(self) -> None:
        # What finalizers may put to at any point of any thread.
        self.later: SimpleQueue[mmap.mmap] = SimpleQueue()
        self._started = threading.Lock()

    def start(self) -> None:
        """Be there, from the first time on that there is a thread."""
        if self._started.acquire(blocking=False):
            thread = threading.Thread(target=self._go_on, name="varserve-let-go", daemon=True)
            if not started(thread):
                self._started.release()

    def _go_on(self) -> None:
        while True:
            self.later.get()  # and drop it


_let_go = _LetGo()


class _Mapping(mmap.mmap):
    """A mapping that knows what it maps."""

    memory: SealedMemory


def memory_of(array: Array) -> SealedMemory | None:
    """The sealed memory that has this array's elements, from its first byte on; None for others.

    What was written to the array since it was mapped is not in that memory.
    """
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    mapping = base.obj if isinstance(base, memoryview) else base
    if not isinstance(mapping, _Mapping) or not array.flags.c_contiguous:
        return None
    start = np.frombuffer(mapping, np.uint8).ctypes.data
    return mapping.memory if array.ctypes.data == start else None
