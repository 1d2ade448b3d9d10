"""Memory that is handed out again once nobody holds it."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from tests.waiting import join
from varserve_service.core.arrays.buffers import Recycler, aligned_empty, is_aligned

MIB = 2**20


@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (1024, 512), (3, 1_000_003)])
@pytest.mark.parametrize("dtype", ["bool", "float32", "complex128"])
def test_aligned_empty(shape: tuple[int, ...], dtype: str) -> None:
    """Arrays of any size are aligned, writable and of the shape and dtype asked for."""
    array = aligned_empty(shape, dtype)
    assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
    assert is_aligned(array) or not array.size
    assert array.flags.c_contiguous
    array.fill(1)
    assert np.all(array == 1)


def test_memory_is_used_again_when_all_views_are_gone() -> None:
    """As long as a view is held its memory is nobody else's; afterwards the next array has it."""
    recycler = Recycler(min_bytes=MIB)
    first = recycler.take(2 * MIB)
    assert first is not None
    address, view = first.ctypes.data, first[5:10].view(np.int8)
    del first
    gc.collect()
    assert recycler.idle_bytes() == 0
    second = recycler.take(2 * MIB)
    assert second is not None
    assert second.ctypes.data != address
    del view
    gc.collect()
    assert recycler.idle_bytes() == 2 * MIB
    third = recycler.take(2 * MIB - 1000)
    assert third is not None
    assert third.ctypes.data == address
    assert recycler.idle_bytes() == 0


def test_little_memory_is_kept() -> None:
    """Small arrays are left alone, much smaller ones get memory of their own, and the rest goes."""
    recycler = Recycler(min_bytes=MIB, max_idle_bytes=3 * MIB)
    assert recycler.take(MIB - 1) is None
    held = [recycler.take(2 * MIB) for _ in range(3)]
    held.clear()
    gc.collect()
    assert recycler.idle_bytes() == 2 * MIB
    smaller = recycler.take(MIB)
    assert smaller is not None
    assert recycler.idle_bytes() == 2 * MIB


def test_idle_memory_is_given_back_in_time() -> None:
    """Without anybody asking for more, by a thread that ends when it has nothing to wait for."""
    recycler = Recycler(min_bytes=MIB, idle_seconds=0.05)
    array = recycler.take(2 * MIB)
    thread = recycler._thread
    assert thread is not None
    del array
    gc.collect()
    join([thread], 20)
    assert recycler.idle_bytes() == 0
    again = recycler.take(2 * MIB)
    assert again is not None
    assert recycler._thread is not None


def test_too_much_memory() -> None:
    """What the machine does not have is a MemoryError, as numpy's would be."""
    with pytest.raises(MemoryError):
        Recycler().take(2**62)
