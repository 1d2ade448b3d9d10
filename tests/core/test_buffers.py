"""Memory that is handed out again once nobody holds it."""

from __future__ import annotations

import gc
import threading

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


def test_idle_memory_is_given_back_without_a_thread_at_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Memory is there where the system gives no thread; the next that is taken has one again."""

    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    recycler = Recycler(min_bytes=MIB, idle_seconds=0.05)
    with monkeypatch.context() as short:
        short.setattr(threading.Thread, "start", refused)
        array = recycler.take(2 * MIB)
    assert array is not None
    again = recycler.take(3 * MIB)
    thread = recycler._thread
    assert thread is not None
    del array, again
    gc.collect()
    join([thread], 20)
    assert recycler.idle_bytes() == 0


def test_too_much_memory() -> None:
    """What the machine does not have is a MemoryError, as numpy's would be."""
    with pytest.raises(MemoryError):
        Recycler().take(2**62)


def test_as_much_as_may_be_idle_is_kept() -> None:
    """Up to the bound itself; beyond it what has been idle longest goes."""
    recycler = Recycler(min_bytes=MIB, max_idle_bytes=4 * MIB)
    held = [recycler.take(2 * MIB) for _ in range(3)]
    addresses = [array.ctypes.data for array in held if array is not None]
    for count in (2, 4, 4):
        held.pop(0)
        gc.collect()
        assert recycler.idle_bytes() == count * MIB
    again = [recycler.take(2 * MIB) for _ in range(2)]
    assert {array.ctypes.data for array in again if array is not None} == set(addresses[1:])


@pytest.mark.parametrize(
    ("nbytes", "used"),
    [(4 * MIB - 4, False), (4 * MIB, True), (5 * MIB, True), (5 * MIB + 1, False)],
)
def test_memory_up_to_a_quarter_larger_is_used_again(nbytes: int, used: bool) -> None:
    """An array has the memory of one that was somewhat larger, and not of a smaller one."""
    recycler = Recycler(min_bytes=MIB)
    assert recycler.take(5 * MIB) is not None
    gc.collect()
    array = recycler.take(nbytes)
    assert array is not None
    assert len(array) >= nbytes
    assert recycler.idle_bytes() == (0 if used else 5 * MIB)


def test_threads_never_have_the_same_memory(quick_switches: None) -> None:
    """What one of many threads holds is nobody else's, however often they take and give back."""
    recycler, problems = Recycler(min_bytes=4096), []

    def take(number: int) -> None:
        try:
            for _ in range(200):
                held = [recycler.take(4096 * (1 + number % 2)) for _ in range(8)]
                for array in held:
                    assert array is not None
                    array[0] = number
                assert all(array[0] == number for array in held if array is not None)
                held.clear()
                recycler.idle_bytes()
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    join(threads)
    assert not problems
