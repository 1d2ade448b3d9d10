"""Values in another dtype: cast where they live, part by part while they are sent.

One trace for each pair of dtypes serves every shape: nothing that a client sends can cause another.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from varserve_service.core.arrays.reductions import Counted, Reduced, counted, reduced
from varserve_service.core.errors import OutOfMemory
from varserve_service.core.ports.loaded_model import Value
from varserve_service.core.values.casts import FLOATS

from .runtime import FlatCall, flat_call
from .values import OUT_OF_MEMORY, RegionValue, TensorValue, host_array, to_tensor

_INDEX = tf.TensorSpec([], tf.int64)
_calls: dict[tuple[str, str], FlatCall] = {}
_tracing = threading.Lock()


def prepare(source: str) -> None:
    """Trace what values of this dtype can be cast to, so that no call need wait for it."""
    if source in FLOATS:
        for target in FLOATS:
            if target != source:
                _call(source, target)


def _call(source: str, target: str) -> FlatCall:
    with _tracing:
        if (source, target) not in _calls:

            @tf.function(input_signature=[tf.TensorSpec(None, source), _INDEX, _INDEX])
            def cast(tensor: Any, begin: Any, count: Any) -> Any:
                part = tf.slice(tf.reshape(tensor, [-1]), [begin], [count])
                return tf.cast(part, target)

            _calls[source, target] = flat_call(cast.get_concrete_function())
        return _calls[source, target]


class CastValue:
    """A float value as another float dtype, rounded to the nearest. Holds the value as it is.

    Nothing is cast before it is asked for, and no more than that.
    """

    __slots__ = ("_device", "_dtype", "_itemsize", "_value")

    def __init__(self, value: Value, dtype: str, device: str) -> None:
        """`device`: of the variable, and so of the value where that is a tensor."""
        self._value = value
        self._dtype = dtype
        self._itemsize = int(tf.as_dtype(dtype).size)
        self._device = device

    @property
    def dtype(self) -> str:
        return self._dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self._value.shape

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self._itemsize

    def numpy(self) -> np.ndarray[Any, Any]:
        return self._elements(0, math.prod(self.shape)).reshape(self.shape)

    def buffer(self, start: int, stop: int) -> memoryview:
        size = self._itemsize
        first, last = start // size, -(-stop // size)
        data = self._elements(first, last).view(np.uint8)
        return data.data[start - first * size : stop - first * size]

    def reduce(self, start: int, stop: int) -> Sequence[Reduced]:
        return reduced(self._elements(start, stop))

    def count(self, start: int, stop: int, edges: np.ndarray[Any, Any]) -> Counted:
        return counted(self._elements(start, stop), edges)

    def _elements(self, first: int, last: int) -> np.ndarray[Any, Any]:
        """Elements of the flat value, cast, in host memory."""
        value = self._value.cut() if isinstance(self._value, RegionValue) else self._value
        if isinstance(value, TensorValue):
            tensor, begin = value.tensor, first
        else:
            tensor, begin = to_tensor(value.numpy().reshape(-1)[first:last], self._device), 0
        with tf.device("CPU:0"):
            bounds = [tf.constant(each, tf.int64) for each in (begin, last - first)]
        try:
            with tf.device(self._device):
                (part,) = _call(value.dtype, self._dtype)([tensor, *bounds])
            return host_array(part)
        except OUT_OF_MEMORY as error:
            raise OutOfMemory(f"no memory to send a value as {self._dtype}") from error
