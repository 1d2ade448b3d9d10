"""The memory of arrays that were read and let go of."""

from __future__ import annotations

import gc
import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from varserve._client.transport.pool import LEAST_BYTES, Pool

MIB = 1 << 20
FLOATS = np.dtype(np.float32)

pytestmark = pytest.mark.skipif(not hasattr(mmap, "MADV_FREE"), reason="needs MADV_FREE")


def test_memory_that_was_let_go_of_is_there_for_the_next_array() -> None:
    """Once nothing refers to it any more, a view neither."""
    pool = Pool()
    array = pool.empty((2, MIB), FLOATS)
    array[:] = 1
    address, view = array.ctypes.data, array[1, 5:]
    del array
    gc.collect()
    other = pool.empty((2 * MIB,), FLOATS)
    assert other.ctypes.data != address
    assert (view == 1).all()
    del view, other
    gc.collect()
    assert pool.idle_bytes == 16 * MIB
    again = {pool.empty((2 * MIB,), FLOATS).ctypes.data for _ in range(3)}
    assert len(again) == 1


def test_arrays_are_ordinary_ones() -> None:
    """Writable, contiguous, and apart from each other, of every size."""
    pool = Pool()
    for nbytes in (0, 4, LEAST_BYTES - 4, LEAST_BYTES, LEAST_BYTES + 4):
        first, second = (pool.empty((nbytes // 4,), FLOATS) for _ in range(2))
        first[:], second[:] = 1, 2
        assert (first == 1).all()
        assert first.flags.c_contiguous
        assert first.flags.writeable
        assert first.shape == (nbytes // 4,)


def test_what_is_kept_is_bounded() -> None:
    """The longest idle goes first, and what is larger than all that may be kept at once."""
    pool = Pool(8 * MIB)
    arrays = [pool.empty((size * MIB,), np.dtype(np.uint8)) for size in (4, 3, 2, 9)]
    addresses = [each.ctypes.data for each in arrays]
    while arrays:
        arrays.pop(0)
    gc.collect()
    assert pool.idle_bytes == 5 * MIB
    assert pool.empty((3 * MIB,), np.dtype(np.uint8)).ctypes.data == addresses[1]


def test_memory_for_another_size_is_not_used() -> None:
    """Of a much larger array most would lie idle."""
    pool = Pool()
    pool.empty((8 * MIB,), np.dtype(np.uint8))
    gc.collect()
    small = pool.empty((2 * MIB,), np.dtype(np.uint8))
    assert pool.idle_bytes == 8 * MIB
    assert small.nbytes == 2 * MIB


def test_the_kernel_may_take_idle_memory_back() -> None:
    """It is told so: the pages are lazily free, and what is written to them later counts."""
    pool = Pool()
    array = pool.empty((64 * MIB,), np.dtype(np.uint8))
    array[:] = 1
    del array
    gc.collect()
    assert pool.idle_bytes == 64 * MIB
    rollup = Path("/proc/self/smaps_rollup").read_text()
    (free,) = [int(line.split()[1]) for line in rollup.splitlines() if line.startswith("LazyFree")]
    assert free >= 60 * 1024
    again = pool.empty((64 * MIB,), np.dtype(np.uint8))
    again[:] = 3
    assert (again == 3).all()


def test_a_forked_child_has_memory_of_its_own() -> None:
    """What it writes to an array that it inherited, its parent does not see."""
    pool = Pool()
    array = pool.empty((MIB,), np.dtype(np.uint8))
    array[:] = 1
    child = os.fork()
    if not child:
        array[:] = 2
        os._exit(0)
    os.waitpid(child, 0)
    assert (array == 1).all()
