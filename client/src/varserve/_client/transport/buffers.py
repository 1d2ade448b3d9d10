"""Arrays in memory that can be handed over to a service on this host.

Owns how such memory is sealed while the caller still has its array: the array's pages are mapped
anew, privately, so that the caller may go on writing to it, which nobody else sees. Knows numpy
and Linux's memfds; knows no calls.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import threading
import weakref
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from varserve import lane
from varserve.tensors import Array

_MAP_FIXED = 0x10


class _Memory(mmap.mmap):
    """Memory of an array of the caller's, and its descriptor; `sealed` when it was handed over."""

    fd: int
    sealed = False


_turn = threading.Lock()


def shared_empty(shape: Sequence[int], dtype: npt.DTypeLike) -> Array:
    """A writable array of zeros whose memory can be handed over; elsewhere an ordinary one.

    Raises ValueError for objects, OSError or MemoryError where there is no memory.
    """
    dtype = np.dtype(dtype)
    if dtype.hasobject:
        raise ValueError(f"expected a dtype of plain bytes, found {dtype}")
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < lane.OWN_BYTES or not lane.is_possible():
        return np.zeros(shape, dtype)
    size = -(-nbytes // lane.PAGE) * lane.PAGE
    fd = lane.new_memory(size)
    try:
        memory = _Memory(fd, size)
    except BaseException:
        os.close(fd)
        raise
    memory.fd = fd
    array = np.frombuffer(memory, np.uint8)
    weakref.finalize(memory, os.close, fd).atexit = False
    return array[:nbytes].view(dtype).reshape(shape)


def sealed_memory(array: Array) -> int | None:
    """The descriptor of the memory of an array that `shared_empty` made, sealed; not to be closed.

    None where the memory cannot be given away: it is another array's, it was given away before, or
    another process may write to it.
    """
    memory = _memory_of(array)
    if memory is None:
        return None
    with _turn:
        if memory.sealed:
            return None
        _map_privately(memory, array.ctypes.data)
        memory.sealed = True  # what is written from now on is not in the memory
        try:
            lane.seal(memory.fd)
        except OSError:  # a forked child has it mapped, too
            return None
        return memory.fd


def _memory_of(array: Array) -> _Memory | None:
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    memory = base.obj if isinstance(base, memoryview) else base
    if not isinstance(memory, _Memory) or not array.flags.c_contiguous:
        return None
    start = np.frombuffer(memory, np.uint8).ctypes.data
    whole = len(memory) - lane.PAGE < array.nbytes <= len(memory)
    return memory if whole and array.ctypes.data == start else None


@cache
def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    number = ctypes.c_int
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, number, number, number, ctypes.c_long)
    return libc


def _map_privately(memory: _Memory, address: int) -> None:
    """Map the same pages at the same address, so that what is written to them stays here."""
    access = mmap.PROT_READ | mmap.PROT_WRITE
    flags = mmap.MAP_PRIVATE | _MAP_FIXED
    found = _libc().mmap(address, len(memory), access, flags, memory.fd, 0)
    if found != address:
        raise OSError(ctypes.get_errno(), "a buffer could not be mapped anew")
