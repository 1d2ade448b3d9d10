"""Whole values in TensorFlow's own memory, without other references, that become a variable's.

TensorFlow writes rows of a variable in place only where nobody else refers to its memory, and where
it allocated that itself; otherwise the next access copies all of it. So a large value is received
into such memory, and given away. Knows tensors and arrays; nothing of variables.
"""

from __future__ import annotations

import ctypes
import sys
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from varserve_service.core.arrays.buffers import aligned_empty
from varserve_service.core.arrays.regions import Region, index_of
from varserve_service.core.errors import OutOfMemory
from varserve_service.core.ports.loaded_model import Value

from .values import NO_KERNEL, OUT_OF_MEMORY, TensorValue

_HUGE_PAGES = 14  # MADV_HUGEPAGE
_MAPPED_BYTES = 64 * 2**20
"""The C library maps what is this large by itself, so that advice concerns nothing else."""

# The tensors whose memory `blank` arrays are, by the id of the array; each goes with its array.
_tensors: dict[int, tf.Tensor] = {}
_libc = ctypes.CDLL(None)


def blank(shape: Sequence[int], dtype: tf.DType) -> np.ndarray[Any, Any]:
    """A writable array in TensorFlow's memory, where it can be had. Raises OutOfMemory."""
    try:
        with tf.device("CPU:0"):
            tensor = tf.raw_ops.Empty(shape=tf.constant(list(shape), tf.int32), dtype=dtype)
    except OUT_OF_MEMORY as error:
        raise OutOfMemory(f"no memory for a value of shape {list(shape)}") from error
    except NO_KERNEL:
        return aligned_empty(tuple(shape), dtype.as_numpy_dtype)
    # What `numpy()` gives is a copy, and what `np.asarray` gives is not to be written to. Nobody
    # else has this tensor yet.
    array: np.ndarray[Any, Any] = tensor._numpy()
    _advise(array)
    _tensors[id(array)] = tensor
    weakref.finalize(array, _tensors.pop, id(array), None).atexit = False
    return array


def _advise(array: np.ndarray[Any, Any]) -> None:
    """Ask for large pages: the first touch of small ones costs several times the copy."""
    if array.nbytes >= _MAPPED_BYTES and hasattr(_libc, "madvise"):
        start = -(-array.ctypes.data // 4096) * 4096
        length = (array.ctypes.data + array.nbytes - start) // 4096 * 4096
        _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), _HUGE_PAGES)


def staged(array: np.ndarray[Any, Any]) -> OwnedTensor | None:
    """The value of an array that `blank` gave, or of a view of all of it; None of any other."""
    root = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    tensor = _tensors.get(id(root))
    if tensor is None or array.ctypes.data != root.ctypes.data or array.nbytes != root.nbytes:
        return None
    if array.shape != root.shape or array.dtype != root.dtype:
        return None
    del _tensors[id(root)]
    return OwnedTensor(tensor, weakref.ref(root))


class OwnedTensor(TensorValue):
    """Implements the core's OwnedValue. `array` is what the tensor was filled through."""

    __slots__ = ("_array",)

    def __init__(
        self, tensor: tf.Tensor, array: weakref.ref[np.ndarray[Any, Any]] | None = None
    ) -> None:
        super().__init__(tensor)
        self._array = array

    @property
    def is_alone(self) -> bool:
        """Nobody else refers to its memory."""
        unread = self._bytes is None and self._flat is None
        # One reference is the argument of getrefcount.
        alone = self._tensor is not None and sys.getrefcount(self._tensor) == 2
        return unread and alone and (self._array is None or self._array() is None)

    def put(self, region: Region, part: np.ndarray[Any, Any]) -> None:
        """Write a region of it, in host memory that nobody else refers to."""
        assert self.is_alone
        # As in `blank`: an array that may be written to, of the tensor's own memory.
        self.tensor._numpy()[index_of(region)] = part

    def take(self) -> tf.Tensor:
        """The tensor, which is not held here any more."""
        tensor, self._tensor = self._tensor, None
        self._bytes = self._flat = None
        assert tensor is not None
        return tensor

    @property
    def tensor(self) -> tf.Tensor:
        if self._tensor is None:
            raise RuntimeError("the value was given to its variable and is not held here any more")
        return self._tensor


def is_alone(value: Value) -> bool:
    """Whether the value can be given away as it is."""
    return isinstance(value, OwnedTensor) and value.is_alone
