"""Arrays in memory that other processes have too."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import pytest

from tests.waiting import until
from varserve_service.core.arrays.sealed import SealedMemory, count, memory_of

SIZE = 64


@pytest.fixture
def memory() -> SealedMemory:
    fd = os.memfd_create("test")
    os.write(fd, bytes(range(SIZE)))
    return SealedMemory(fd, SIZE)


def test_its_bytes_are_an_array(memory: SealedMemory) -> None:
    """What is written to the array is not in the memory, nor in another array of it."""
    one, two = memory.array(), memory.array()
    assert (one.dtype, one.tolist()) == (np.dtype(np.uint8), list(range(SIZE)))
    one[0] = 200
    assert (one[0], two[0], os.pread(memory.fd, 1, 0)) == (200, 0, b"\0")


def test_the_memory_of_an_array(memory: SealedMemory) -> None:
    """Of the whole of it or its beginning, in any shape and dtype; of nothing that is elsewhere."""
    array = memory.array()
    whole = array.view(np.float32).reshape(2, 8)
    for part in (array, array[: SIZE // 2], whole, whole[:1]):
        assert memory_of(part) is memory
    for other in (
        array[1:],
        whole[1:],
        whole[:, :4],
        whole.T,
        array[::2],
        array.copy(),
        np.frombuffer(bytes(SIZE), np.uint8),
        np.zeros(3),
    ):
        assert memory_of(other) is None


def test_the_descriptor_is_open_for_as_long_as_an_array_is_there(memory: SealedMemory) -> None:
    """An array keeps its memory, and with the last one it is closed."""
    fd, array = memory.fd, memory.array()
    found = memory_of(array)
    assert found is not None
    del memory, found
    gc.collect()
    os.fstat(fd)
    assert memory_of(array) is not None


def test_memory_that_cannot_be_mapped() -> None:
    """It is told as a want of memory."""
    fd = os.memfd_create("test")
    os.ftruncate(fd, 2**62)
    with pytest.raises(MemoryError, match=f"no room to map {2**62} bytes"):
        SealedMemory(fd, 2**62).array()


def test_memory_that_nobody_has_any_more_is_given_back() -> None:
    """On another thread: the descriptors and the mappings of all of them, also the second time."""
    gc.collect()
    before, mapped = count(), Path("/proc/self/maps").read_text().count("memfd:given")
    for _ in range(2):
        fd = os.memfd_create("given")
        os.ftruncate(fd, SIZE)
        memory = SealedMemory(fd, SIZE)
        arrays = [memory.array(), memory.array()[3:]]
        assert count() == before + 1
        assert Path("/proc/self/maps").read_text().count("memfd:given") == mapped + 2
        del memory
        gc.collect()
        assert count() == before + 1
        arrays.clear()
        until(lambda: gc.collect() >= 0 and count() == before)
        until(lambda: Path("/proc/self/maps").read_text().count("memfd:given") == mapped)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
