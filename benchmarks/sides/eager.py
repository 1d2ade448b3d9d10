"""TensorFlow's remote eager: a `tf.distribute.Server`, and `experimental_connect_to_host`.

The variable lives in the server. A read gives a fresh array; what is assigned is one warm array.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.sides import Ready

_DEVICE = "/job:worker/replica:0/task:0/device:CPU:0"


def serve(ready: Ready) -> None:
    # It takes no port 0.
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    server = tf.distribute.Server({"worker": [address]}, job_name="worker", task_index=0)
    ready(address)
    server.join()


class Client:
    """Works over one connection: TensorFlow has one cluster for each process."""

    def __init__(self, address: str) -> None:
        tf.config.experimental_connect_to_host(address, job_name="worker")
        with tf.device(_DEVICE):
            bias = tf.Variable(1.0)
            spec = tf.TensorSpec([None], tf.float32)
            self._add = tf.function(lambda x: x + bias).get_concrete_function(spec)

    @contextmanager
    def _variable(self, nbytes: int) -> Iterator[Any]:
        with tf.device(_DEVICE):
            variable = tf.Variable(tf.ones([nbytes // 4]))
        yield variable

    @contextmanager
    def read(self, nbytes: int) -> Iterator[Callable[[], Any]]:
        with self._variable(nbytes) as variable:
            yield lambda: variable.numpy()

    @contextmanager
    def assign(self, nbytes: int) -> Iterator[Callable[[], Any]]:
        value = np.full(nbytes // 4, 2, np.float32)
        with self._variable(nbytes) as variable:

            def act() -> None:
                variable.assign(value)
                # An assign is sent and not waited for; one element back says that it is done.
                float(variable[0])

            yield act

    @contextmanager
    def call(self) -> Iterator[Callable[[], Any]]:
        yield from self._calls(4)

    @contextmanager
    def transform(self, nbytes: int) -> Iterator[Callable[[], Any]]:
        yield from self._calls(nbytes // 4)

    def _calls(self, count: int) -> Iterator[Callable[[], Any]]:
        x = np.ones(count, np.float32)

        def act() -> Any:
            with tf.device(_DEVICE):
                return self._add(tf.constant(x)).numpy()

        yield act
