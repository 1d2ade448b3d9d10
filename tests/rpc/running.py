"""A server in the loop of a test, a client of it, and calls that wait."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.fakes import FakeFunction, Gate
from tests.rpc.bodies import value_of
from tests.rpc.requests import assign, read, run
from tests.rpc.wire import outcome_of
from tests.waiting import until_async
from varserve.v1 import model_service_pb2_grpc
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.registry import Models
from varserve_service.core.ports.loaded_model import TensorSpec
from varserve_service.rpc import OPEN, Access, Server, ServerOptions
from varserve_service.rpc.calls.observers import CallObserver

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
BIG = 2**20


@dataclass
class Running:
    """A server in this loop, and a client of it."""

    server: Server
    address: str
    channel: grpc.aio.Channel
    stub: Any
    health: Any

    async def status(self, name: str) -> int:
        found = await self.health.Check(health_pb2.HealthCheckRequest(service=name))
        status: int = found.status
        return status


@asynccontextmanager
async def running(
    *models: LiveModel,
    access: Access = OPEN,
    observers: Sequence[CallObserver] = (),
    **options: Any,
) -> AsyncIterator[Running]:
    server = Server(Models(models), ServerOptions(port=0, **options), access, observers)
    address = await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        try:
            yield Running(server, address, channel, stub, health_pb2_grpc.HealthStub(channel))
        finally:
            await server.stop(5)


def pending(found: Running) -> int:
    """Calls that run on a model's threads or wait for one."""
    return sum(served.workers.pending for served in found.server._serving.all)


async def reason_of(call: Any) -> str:
    """The reason that a call fails for, checked; OK when it does not."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        outcome = outcome_of(error)
        outcome.check()
        return outcome.reason
    return "OK"


async def passed(gate: Gate) -> None:
    await until_async(gate.reached.is_set)


def gated(gate: Gate, *, writes: bool = False) -> FakeFunction:
    """A function `wait` that stops at a gate and gives 4 MiB less a little."""
    y = np.zeros(BIG - 2**15, np.float32)

    def wait() -> dict[str, Any]:
        gate()
        return {"y": y}

    outputs = {"y": TensorSpec("float32", y.shape)}
    return FakeFunction("wait", wait, outputs=outputs, writes=("v",) if writes else ())


WAIT = run(function="wait", inputs={})
TWOS = np.full(3, 2, "<f4").tobytes()
SET_TWOS = assign(value={"dtype": 1, "shape": [3], "data": TWOS})


async def v_of(found: Running) -> tuple[list[float], int]:
    response = await found.stub.ReadVariable(read())
    return value_of(response.value), response.header.revision


UNCHANGED = ([1, 1, 1], 0)
