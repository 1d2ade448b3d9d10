"""1 MiB chunks as protobuf objects over a gRPC stream: what a careful service does without frames.

The server sends from and receives into warm memory; the client reads into a fresh array.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import grpc.aio
import numpy as np

from benchmarks.sides import Ready
from varserve.v1 import tensor_pb2

CHUNK = 2**20
_SERVICE = "benchmarks.Chunks"
_UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))

Chunk: Any = tensor_pb2.Chunk


def _chunks(view: memoryview) -> Iterator[Any]:
    for offset in range(0, len(view), CHUNK):
        yield Chunk(offset=offset, data=bytes(view[offset : offset + CHUNK]))


def _take(chunk: Any, into: np.ndarray[Any, Any]) -> None:
    piece = np.frombuffer(chunk.data, np.uint8)
    np.copyto(into[chunk.offset : chunk.offset + piece.size], piece)


class _Server:
    def __init__(self) -> None:
        self._value = np.ones(0, np.uint8)

    def _sized(self, nbytes: int) -> np.ndarray[Any, Any]:
        if self._value.size != nbytes:
            self._value = np.ones(nbytes, np.uint8)
        return self._value

    async def read(self, request: Any, context: Any) -> AsyncIterator[Any]:
        for chunk in _chunks(self._sized(request.offset).data):
            yield chunk

    async def assign(self, requests: AsyncIterator[Any], context: Any) -> Any:
        value = self._value
        async for chunk in requests:
            if chunk.data:
                _take(chunk, value)
            else:  # the first one, which says how much will come
                value = self._sized(chunk.offset)
        return Chunk()


async def _serve(ready: Ready) -> None:
    own = _Server()
    options = {"request_deserializer": Chunk.FromString, "response_serializer": _written}
    handlers = {
        "Read": grpc.unary_stream_rpc_method_handler(own.read, **options),
        "Assign": grpc.stream_unary_rpc_method_handler(own.assign, **options),
    }
    server = grpc.aio.server(options=_UNLIMITED)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    ready(f"127.0.0.1:{port}")
    await server.wait_for_termination()


def _written(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data


def serve(ready: Ready) -> None:
    asyncio.run(_serve(ready))


class Client:
    """Works over one channel."""

    def __init__(self, address: str) -> None:
        channel = grpc.insecure_channel(address, options=_UNLIMITED)
        options = {"request_serializer": _written, "response_deserializer": Chunk.FromString}
        self._read = channel.unary_stream(f"/{_SERVICE}/Read", **options)
        self._assign = channel.stream_unary(f"/{_SERVICE}/Assign", **options)

    @contextmanager
    def read(self, nbytes: int) -> Iterator[Callable[[], Any]]:
        def act() -> Any:
            value = np.empty(nbytes, np.uint8)
            for chunk in self._read(Chunk(offset=nbytes)):
                _take(chunk, value)
            return value

        yield act
        list(self._read(Chunk(offset=0)))

    @contextmanager
    def assign(self, nbytes: int) -> Iterator[Callable[[], Any]]:
        value = np.ones(nbytes, np.uint8)

        def messages() -> Iterator[Any]:
            yield Chunk(offset=nbytes)
            yield from _chunks(value.data)

        yield lambda: self._assign(messages())
        self._assign(iter([Chunk(offset=0)]))
