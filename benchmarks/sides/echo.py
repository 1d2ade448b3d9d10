"""A bare `grpc.aio` server that answers with the bytes that it was sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc
import grpc.aio

from benchmarks.flights import several
from benchmarks.sides import Ready

PATH = "/benchmarks.Peer/Echo"


async def _serve(ready: Ready) -> None:
    async def echo(request: bytes, context: Any) -> bytes:
        return request

    _, service, method = PATH.split("/")
    handlers = {method: grpc.unary_unary_rpc_method_handler(echo)}
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    ready(f"127.0.0.1:{port}")
    await server.wait_for_termination()


def serve(ready: Ready) -> None:
    asyncio.run(_serve(ready))


class Client:
    """Works over a channel each, of `grpc` and of `grpc.aio`."""

    def __init__(self, address: str) -> None:
        self._address = address

    @contextmanager
    def echo(self, nbytes: int, times: int = 1) -> Iterator[Callable[[], None]]:
        """One echo, or so many one after the other."""
        payload = bytes(nbytes)
        with grpc.insecure_channel(self._address) as channel:
            call = channel.unary_unary(PATH)

            def act() -> None:
                for _ in range(times):
                    call(payload)

            yield act

    @asynccontextmanager
    async def echo_aio(self, nbytes: int) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        payload = bytes(nbytes)
        async with grpc.aio.insecure_channel(self._address) as channel:
            call = channel.unary_unary(PATH)

            async def act() -> None:
                await call(payload)

            yield act

    @asynccontextmanager
    async def echo_many_aio(
        self, nbytes: int, times: int, in_flight: int
    ) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """So many echoes, so many of them in flight."""
        async with self.echo_aio(nbytes) as echo:
            yield several(echo, times, in_flight)
