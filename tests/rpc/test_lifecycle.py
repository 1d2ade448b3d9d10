"""Health, reflection, the end, and what a defect tells."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.fakes import FakeFunction, FakeModel, Gate
from tests.rpc.bodies import value_of
from tests.rpc.models import INT64, counter, counter_version
from tests.rpc.requests import MODEL, chunk, manifest, number, read, run
from tests.rpc.running import (
    NOT_SERVING,
    SERVING,
    SET_TWOS,
    TWOS,
    WAIT,
    gated,
    passed,
    reason_of,
    running,
)
from tests.rpc.wire import outcome_of
from tests.waiting import until_async
from varserve.v1 import model_service_pb2 as pb
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.registry import Models
from varserve_service.rpc import Server, ServerOptions, public


async def test_health() -> None:
    """The service and each of its models are SERVING; another name is not known."""
    async with running(counter(), LiveModel(FakeModel([], name="other"))) as found:
        assert [await found.status(name) for name in ("", MODEL, "other")] == [SERVING] * 3
        for name in ("nope", "varserve.v1.ModelService"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await found.status(name)
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_health_says_at_once_that_the_service_stops() -> None:
    """From the first moment of stopping health is NOT_SERVING, while calls are still finished."""
    gate = Gate()
    async with running(counter(functions=(gated(gate),))) as found:
        call = asyncio.ensure_future(found.stub.RunFunction(WAIT))
        await passed(gate)
        watch = found.health.Watch(health_pb2.HealthCheckRequest(service=MODEL))
        assert (await watch.read()).status == SERVING
        stopping = asyncio.ensure_future(found.server.stop(20))
        assert (await watch.read()).status == NOT_SERVING
        assert [await found.status(name) for name in ("", MODEL)] == [NOT_SERVING] * 2
        gate.opened.set()
        await call
        watch.cancel()
        assert await stopping


@pytest.mark.parametrize("enabled", [True, False])
async def test_reflection_is_answered_when_it_is_switched_on(enabled: bool) -> None:
    """With the flag the services are listed, without it reflection is not implemented."""
    async with running(counter(), reflection=enabled) as found:
        stub = reflection_pb2_grpc.ServerReflectionStub(found.channel)
        if not enabled:
            # Nothing is sent: grpc.aio may give a write that meets the end of its call the code
            # INTERNAL in place of the server's own (grpc/grpc#36066).
            assert await stub.ServerReflectionInfo().code() is grpc.StatusCode.UNIMPLEMENTED
            return
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        call = stub.ServerReflectionInfo(iter([request]))
        listed = {service.name for service in (await call.read()).list_services_response.service}
        assert {"varserve.v1.ModelService", "grpc.health.v1.Health"} <= listed


async def test_one_host_is_answered_again_and_again() -> None:
    """Calls without a credential count while they last: many, one after the other, are answered."""
    async with running(counter(), reflection=True) as found:
        health = health_pb2_grpc.HealthStub(found.channel)
        reflect = reflection_pb2_grpc.ServerReflectionStub(found.channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        for _ in range(4 * public.MAX_READING):
            answer = await health.Check(health_pb2.HealthCheckRequest())
            assert answer.status == SERVING
            assert (await reflect.ServerReflectionInfo(iter([request])).read()) is not None


async def test_calls_in_progress_are_finished_and_new_ones_are_refused() -> None:
    """While the service stops, what was begun gets its answer, and what comes gets a reason."""
    gate = Gate()
    async with running(counter(functions=(gated(gate, writes=True),))) as found:
        call = asyncio.ensure_future(found.stub.RunFunction(WAIT))
        upload = found.stub.AssignVariables()
        await upload.write(manifest())
        await passed(gate)
        await until_async(lambda: found.server._admission.staged == len(TWOS))
        stopping = asyncio.ensure_future(found.server.stop(20))
        await until_async(lambda: found.server._dispatcher._draining)
        refused = [
            found.stub.ListModels(pb.ListModelsRequest()),
            found.stub.ReadVariable(read()),
            found.stub.AssignVariable(SET_TWOS),
            found.stub.AssignVariables(),  # nothing is written: grpc/grpc#36066
        ]
        assert [await reason_of(each) for each in refused] == ["SHUTTING_DOWN"] * 4
        gate.opened.set()
        await upload.write(chunk(0, TWOS))
        await upload.done_writing()
        assert ((await call).header.revision, (await upload).header.revision) == (1, 2)
        assert await stopping


async def test_new_calls_are_refused_while_watchers_are_told() -> None:
    """From the first moment of stopping: a watcher that does not listen lets nobody in."""
    async with running(counter()) as found:
        deaf = asyncio.ensure_future(asyncio.Event().wait())
        found.server._backend.watches.add(deaf)  # type: ignore[arg-type]
        stopping = asyncio.ensure_future(found.server.stop(20))
        await until_async(lambda: not found.server.ready)
        for call in (found.stub.AssignVariable(SET_TWOS), found.stub.ReadVariable(read())):
            assert await reason_of(call) == "SHUTTING_DOWN"
        assert not stopping.done()
        deaf.cancel()
        assert await stopping


async def test_a_load_that_ends_while_the_service_stops_does_not_make_it_ready() -> None:
    """Neither for health nor for the metrics."""
    gate = Gate()
    async with running(counter(functions=(gated(gate),))) as found:
        call = asyncio.ensure_future(found.stub.RunFunction(WAIT))
        await passed(gate)
        stopping = asyncio.ensure_future(found.server.stop(20))
        await until_async(lambda: not found.server.ready)
        await found.server.serve(counter_version(2), "canary")
        assert not found.server.ready
        assert await found.status("") == NOT_SERVING
        gate.opened.set()
        assert await reason_of(call) == "OK"
        assert await stopping


async def test_every_call_in_progress_gets_its_answer() -> None:
    """Of many large answers that are ready in the moment of stopping, none is lost."""
    for _ in range(3):
        gate = Gate()
        async with running(counter(functions=(gated(gate),))) as found:
            calls = [asyncio.ensure_future(found.stub.RunFunction(WAIT)) for _ in range(8)]
            await until_async(lambda: len(found.server._dispatcher._in_progress) == len(calls))  # noqa: B023
            stopping = asyncio.ensure_future(found.server.stop(20))
            await until_async(lambda: found.server._dispatcher._draining)
            gate.opened.set()
            assert [await reason_of(call) for call in calls] == ["OK"] * len(calls)
            assert await stopping


async def test_what_does_not_end_in_time_is_cut_off() -> None:
    """When the grace is over the service stops, and says that work was still in progress."""
    gate = Gate()
    async with running(counter(functions=(gated(gate),))) as found:
        call = asyncio.ensure_future(found.stub.RunFunction(WAIT))
        await passed(gate)
        assert not await found.server.stop(0.05)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        gate.opened.set()


async def test_two_servers_do_not_share_a_port() -> None:
    """A port that is taken is an error, not half of the connections."""
    async with running(counter()) as found:
        port = int(found.address.rpartition(":")[2])
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
            await Server(Models([counter()]), ServerOptions(port=port)).start()


async def test_a_defect_tells_nothing_but_its_incident(caplog: pytest.LogCaptureFixture) -> None:
    """What nobody foresaw is INTERNAL with an id; the log has it all; the state is as before."""

    def broken(n: Any) -> dict[str, Any]:
        count = found_live._parts.by_path["count"]
        count.array = n  # type: ignore[attr-defined]
        raise RuntimeError("secret /etc/passwd at 0x7f00")

    function = FakeFunction("broken", broken, inputs={"n": INT64}, writes=("count",))
    found_live = counter(functions=(function,))
    async with running(found_live) as found:
        with caplog.at_level(logging.ERROR, logger="varserve.rpc"):
            call = found.stub.RunFunction(run(function="broken", inputs={"n": number(7)}))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
        outcome = outcome_of(caught.value)
        outcome.check()
        assert (outcome.reason, outcome.code) == ("INTERNAL", grpc.StatusCode.INTERNAL)
        told = f"{caught.value.debug_error_string()} {caught.value.trailing_metadata()}"
        for inner in ("secret", "passwd", "RuntimeError", "Traceback", ".py"):
            assert inner not in outcome.text
            assert inner not in told
        incident = outcome.text.rpartition(" ")[2]
        logged: Any = [record.msg for record in caplog.records if record.levelname == "ERROR"]
        assert [entry_["incident"] for entry_ in logged] == [incident]
        assert "secret /etc/passwd" in str(logged[0])
        response = await found.stub.ReadVariable(read(variable="count"))
        assert (value_of(response.value), response.header.revision) == (0, 0)
