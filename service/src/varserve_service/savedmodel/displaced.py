"""Large values that were swapped out: their memory is given back on a thread.

The last reference to one is often dropped by a commit, under the model's lock. Python would hold
its own lock, too, while the kernel takes a gigabyte back, and no thread could do anything. So the
memory is given to a variable that nobody uses, and an operation frees it there. Knows tensors.
"""

from __future__ import annotations

import math
import threading
from contextlib import suppress
from queue import SimpleQueue

import tensorflow as tf

from varserve_service.core.threads import started

from .runtime import shape_of
from .values import TensorValue

_LARGE_BYTES = 16 * 2**20


def displaced(tensor: tf.Tensor) -> TensorValue:
    """What a variable held before a swap, as a Value."""
    if math.prod(shape_of(tensor)) * int(tensor.dtype.size) < _LARGE_BYTES:
        return TensorValue(tensor)
    _letting_go.start()
    return _Displaced(tensor)


class _Displaced(TensorValue):
    __slots__ = ()

    def __del__(self) -> None:
        _letting_go.later.put(self._tensor)


class _LettingGo:
    def __init__(self) -> None:
        # What may be put to at any point of any thread.
        self.later: SimpleQueue[tf.Tensor] = SimpleQueue()
        self._started = threading.Lock()

    def start(self) -> None:
        """Be there, from the first time on that there is a thread."""
        if self._started.acquire(blocking=False):
            thread = threading.Thread(target=self._go_on, name="varserve-let-go", daemon=True)
            if not started(thread):
                self._started.release()

    def _go_on(self) -> None:
        while True:
            tensor = self.later.get()
            with suppress(tf.errors.OpError), tf.device(tensor.backing_device):
                unused = tf.raw_ops.VarHandleOp(
                    dtype=tensor.dtype, shape=None, shared_name=f"varserve_let_go_{tensor.dtype}"
                )
                tf.raw_ops.AssignVariableOp(resource=unused, value=tensor)
                nothing = tf.zeros([0], tensor.dtype)
                del tensor
                tf.raw_ops.AssignVariableOp(resource=unused, value=nothing)


_letting_go = _LettingGo()
