"""Health answers anybody, within bounds."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.rpc.models import counter
from tests.rpc.running import running
from tests.waiting import until_async
from varserve_service.rpc import health


def channels(address: str, count: int) -> list[grpc.aio.Channel]:
    """Channels with a connection of their own each."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    return [grpc.aio.insecure_channel(address, options=options) for _ in range(count)]


async def watching(channel: grpc.aio.Channel, service: str = "") -> Any:
    """A watch of health that has begun. Raises grpc.aio.AioRpcError."""
    stream = health_pb2_grpc.HealthStub(channel).Watch(
        health_pb2.HealthCheckRequest(service=service)
    )
    assert isinstance(await stream.read(), health_pb2.HealthCheckResponse)
    return stream


async def code_of(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()


async def test_watches_of_a_connection_and_of_all_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One more is RESOURCE_EXHAUSTED, checks go on, and who leaves makes room."""
    monkeypatch.setattr(health, "MAX_WATCHES", 5)
    monkeypatch.setattr(health, "MAX_WATCHES_PER_CONNECTION", 3)
    async with running(counter()) as found:
        first, second = channels(found.address, 2)
        async with first, second:
            mine = [await watching(first) for _ in range(3)]
            assert await code_of(watching(first)) is grpc.StatusCode.RESOURCE_EXHAUSTED
            others = [await watching(second) for _ in range(2)]
            assert await code_of(watching(second)) is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert found.server.health_watches == 5
            stub = health_pb2_grpc.HealthStub(second)
            answer = await stub.Check(health_pb2.HealthCheckRequest(service="counter"))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            mine[0].cancel()
            await until_async(lambda: found.server.health_watches == 4)
            others.append(await watching(second))
            for stream in (*mine, *others):
                stream.cancel()
            await until_async(lambda: found.server.health_watches == 0)


async def test_a_name_that_is_kept_is_short() -> None:
    """A watch of a name that nothing has is open; a long name is refused."""
    async with running(counter()) as found:
        (channel,) = channels(found.address, 1)
        async with channel:
            stream = await watching(channel, "x" * 512)
            stream.cancel()
            refused = watching(channel, "x" * 513)
            assert await code_of(refused) is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_change_reaches_all_who_watch() -> None:
    """Of the service, and of a model by each of its names."""
    async with running(counter()) as found:
        (channel,) = channels(found.address, 1)
        async with channel:
            streams = [await watching(channel, name) for name in ("", "counter", "counter@1")]
            stopping = asyncio.ensure_future(found.server.stop(5))
            for stream in streams:
                answer = await asyncio.wait_for(stream.read(), 30)
                assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
                stream.cancel()
            await stopping
