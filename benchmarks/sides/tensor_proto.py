"""A plain unary service that answers with TensorProto: what people write today.

`tf.make_tensor_proto` and `tf.make_ndarray` on both sides, and a blocking gRPC server with a pool
of threads. The server's state is a tf.Variable. Every transfer allocates what it needs; what is
assigned is one warm array.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, tensor_pb2

from benchmarks.model import SNAPSHOT
from benchmarks.sides import Ready

_SERVICE = "benchmarks.TensorProto"
_UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))

One: Any = tensor_pb2.TensorProto
Many: Any = attr_value_pb2.AttrValue.ListValue
"""A message with a repeated TensorProto."""


class _Server:
    def __init__(self) -> None:
        self._variable = tf.Variable(tf.zeros([0]), shape=[None])
        self._small = [tf.Variable(tf.ones([16, 16])) for _ in range(SNAPSHOT)]
        bias = tf.Variable(1.0)
        spec = tf.TensorSpec([None], tf.float32)
        self._add = tf.function(lambda x: x + bias).get_concrete_function(spec)

    def size(self, request: Any, context: Any) -> Any:
        self._variable.assign(tf.ones([int(tf.make_ndarray(request))]))
        return One()

    def read(self, request: Any, context: Any) -> Any:
        return tf.make_tensor_proto(self._variable.numpy())

    def assign(self, request: Any, context: Any) -> Any:
        self._variable.assign(tf.make_ndarray(request))
        return One()

    def call(self, request: Any, context: Any) -> Any:
        return tf.make_tensor_proto(self._add(tf.constant(tf.make_ndarray(request))).numpy())

    def snapshot(self, request: Any, context: Any) -> Any:
        return Many(tensor=[tf.make_tensor_proto(each.numpy()) for each in self._small])


def _written(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data


def serve(ready: Ready) -> None:
    own = _Server()
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            getattr(own, name), request_deserializer=One.FromString, response_serializer=_written
        )
        for name in ("size", "read", "assign", "call", "snapshot")
    }
    server = grpc.server(ThreadPoolExecutor(8), options=_UNLIMITED)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    ready(f"127.0.0.1:{port}")
    server.wait_for_termination()


class Client:
    """Works over one channel."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address, options=_UNLIMITED)

    def _method(self, name: str, answer: Any = One) -> Callable[[Any], Any]:
        call: Callable[[Any], Any] = self._channel.unary_unary(
            f"/{_SERVICE}/{name}",
            request_serializer=_written,
            response_deserializer=answer.FromString,
        )
        return call

    @contextmanager
    def _sized(self, nbytes: int) -> Iterator[None]:
        size = self._method("size")
        size(tf.make_tensor_proto(nbytes // 4))
        yield
        size(tf.make_tensor_proto(0))

    @contextmanager
    def read(self, nbytes: int) -> Iterator[Callable[[], Any]]:
        read = self._method("read")
        with self._sized(nbytes):
            yield lambda: tf.make_ndarray(read(One()))

    @contextmanager
    def assign(self, nbytes: int) -> Iterator[Callable[[], Any]]:
        assign, value = self._method("assign"), np.full(nbytes // 4, 2, np.float32)
        with self._sized(nbytes):
            yield lambda: assign(tf.make_tensor_proto(value))

    @contextmanager
    def call(self) -> Iterator[Callable[[], Any]]:
        call, x = self._method("call"), np.ones(4, np.float32)
        yield lambda: tf.make_ndarray(call(tf.make_tensor_proto(x)))

    @contextmanager
    def transform(self, nbytes: int) -> Iterator[Callable[[], Any]]:
        call, x = self._method("call"), np.ones(nbytes // 4, np.float32)
        yield lambda: tf.make_ndarray(call(tf.make_tensor_proto(x)))

    @contextmanager
    def snapshot(self) -> Iterator[Callable[[], Any]]:
        snapshot = self._method("snapshot", Many)
        yield lambda: [tf.make_ndarray(each) for each in snapshot(One()).tensor]
