"""What is answered to callers without a credential: health and reflection, with bounds.

gRPC reads the whole message of a call, 4 MiB at most, before a handler is told of it, on each of
very many streams. Here few messages are read at once, each in a short time. Knows gRPC; nothing of
what the services do.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc

MAX_READING = 32
"""Messages of a service that are read at once, or streams of requests that are open."""
MAX_READING_PER_HOST = 8
READING_SECONDS = 2.0


class PublicServer:
    """Stands for a server where services register that anyone may call."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """As of grpc.aio.Server."""
        self._server.add_generic_rpc_handlers(tuple(_Bounded(handler) for handler in handlers))

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        """As of grpc.aio.Server, which takes the generic handlers."""


class _Bounded(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The methods of another handler."""

    def __init__(self, inner: grpc.GenericRpcHandler) -> None:
        self._inner = inner
        self._reading: Counter[str] = Counter()

    def service(self, handler_call_details: Any) -> grpc.RpcMethodHandler | None:
        """As of grpc.GenericRpcHandler."""
        method = self._inner.service(handler_call_details)
        if method is None:
            return None
        serializers = {"response_serializer": method.response_serializer}
        if method.request_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._stream(method.stream_stream),
                request_deserializer=method.request_deserializer,
                **serializers,
            )
        handle = self._one(method.unary_stream or method.unary_unary, method.request_deserializer)
        if method.response_streaming:
            return grpc.stream_stream_rpc_method_handler(handle, **serializers)
        return grpc.stream_unary_rpc_method_handler(handle, **serializers)

    def _one(self, behavior: Any, deserialize: Any) -> Any:
        async def handle(requests: AsyncIterable[bytes], context: Any) -> Any:
            with self._slot(context) as free:
                data = await _first(requests) if free else None
            if data is None:
                await _refuse(context)
                return None
            return await behavior(deserialize(data), context)

        return handle

    def _stream(self, behavior: Any) -> Any:
        async def handle(requests: AsyncIterable[Any], context: Any) -> AsyncIterator[Any]:
            with self._slot(context) as free:
                if not free:
                    await _refuse(context)
                async for response in behavior(requests, context):
                    yield response

        return handle

    @contextmanager
    def _slot(self, context: Any) -> Iterator[bool]:
        # Without the port: one host must not keep the others from being answered.
        host = context.peer().rpartition(":")[0]
        if self._reading.total() >= MAX_READING or self._reading[host] >= MAX_READING_PER_HOST:
            yield False
            return
        self._reading[host] += 1
        try:
            yield True
        finally:
            self._reading[host] -= 1
            if not self._reading[host]:
                del self._reading[host]


async def _first(requests: AsyncIterable[bytes]) -> bytes | None:
    try:
        async with asyncio.timeout(READING_SECONDS):
            async for data in requests:
                return data
    except TimeoutError:
        pass
    return None


async def _refuse(context: Any) -> None:
    await context.abort(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        f"expected the whole request within {READING_SECONDS:g} seconds, and at most "
        f"{MAX_READING_PER_HOST} requests at once from one host; retry later",
    )
