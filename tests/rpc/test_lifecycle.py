"""Health, deadlines, too much at once, callers that go away, defects, and the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.fakes import FakeFunction, FakeModel, FakeVariable, Gate
from tests.rpc.bodies import value_of
from tests.rpc.models import INT64, counter, counter_version
from tests.rpc.requests import (
    MODEL,
    assign,
    chunk,
    entry,
    header,
    manifest,
    number,
    read,
    run,
    run_manifest,
)
from tests.rpc.wire import outcome_of
from tests.waiting import until_async
from varserve.v1 import model_service_pb2 as pb
from varserve.v1 import model_service_pb2_grpc
from varserve_service.access.policy import Policy
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.memory import SMALL_BYTES, MemoryBudget, Room
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.registry import Models
from varserve_service.core.ports.loaded_model import TensorSpec
from varserve_service.rpc import OPEN, Access, Limit, Server, ServerOptions, public
from varserve_service.rpc.calls.giving_way import SmallCalls
from varserve_service.rpc.calls.observers import CallObserver
from varserve_service.rpc.calls.transfers import UPLOAD, Transfers

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


# Health and reflection.


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


# The end.


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


# Deadlines, and too much at once.


async def test_a_write_whose_deadline_passes_while_it_waits_is_not_done() -> None:
    """A write that waits for a running function gives up at its deadline and changes nothing."""
    gate = Gate()
    async with running(counter(functions=(gated(gate),))) as found:
        call = asyncio.ensure_future(found.stub.RunFunction(WAIT))
        await passed(gate)
        late = [
            found.stub.AssignVariable(SET_TWOS, timeout=0.1),
            found.stub.AssignVariables(iter([manifest(), chunk(0, TWOS)]), timeout=0.1),
            found.stub.RunFunction(run(function="add", inputs={"n": number(1)}), timeout=0.1),
        ]
        for each in late:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await each
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until_async(lambda: pending(found) == 1)
        gate.opened.set()
        await call
        assert await v_of(found) == UNCHANGED


async def test_work_whose_deadline_passes_in_the_queue_is_dropped() -> None:
    """A call whose turn comes after its deadline is not run at all."""
    gate, ran = Gate(), []
    count = FakeFunction("count", lambda: ran.append(1) or {})  # type: ignore[func-returns-value]
    live = counter(functions=(gated(gate), count))
    async with running(live, threads_per_model=1) as found:
        call = asyncio.ensure_future(found.stub.RunFunction(WAIT))
        await passed(gate)
        for _ in range(3):
            with pytest.raises(grpc.aio.AioRpcError):
                await found.stub.RunFunction(run(function="count", inputs={}), timeout=0.05)
        gate.opened.set()
        await call
        await found.stub.RunFunction(run(function="count", inputs={}))
        assert len(ran) == 1


@pytest.mark.parametrize(
    ("limit", "reason"), [(1, "TOO_MANY_REQUESTS"), (2, "TOO_MANY_REQUESTS"), (3, "OK"), (4, "OK")]
)
@pytest.mark.parametrize("threads", [1, 8])
async def test_too_many_calls_at_once(limit: int, reason: str, threads: int) -> None:
    """Beside two calls that run or wait a third is let in up to the limit, and all are after."""
    gate = Gate()
    options = {"max_pending_calls": limit, "threads_per_model": threads}
    async with running(counter(functions=(gated(gate),)), **options) as found:
        calls = [asyncio.ensure_future(found.stub.RunFunction(WAIT)) for _ in range(min(limit, 2))]
        await until_async(lambda: pending(found) == len(calls))
        third = asyncio.ensure_future(reason_of(found.stub.ReadVariable(read())))
        if reason == "OK":
            gate.opened.set()
        assert await third == reason
        gate.opened.set()
        assert [await reason_of(call) for call in calls] == ["OK"] * len(calls)
        await until_async(lambda: pending(found) == 0)
        assert await reason_of(found.stub.ReadVariable(read())) == "OK"


async def test_a_list_does_not_wait_for_a_model_that_is_busy() -> None:
    """While a function that writes holds one, all are listed: that one as far as it is known."""
    gate = Gate()
    free = FakeVariable("free", np.zeros(5, np.float32), shape=(None,))
    other = LiveModel(FakeModel([FakeVariable("w", np.zeros(2, np.float32))], name="other"))
    busy = counter(free, functions=(gated(gate, writes=True),))
    async with running(busy, other) as found:
        before = await found.stub.ListModels(pb.ListModelsRequest())
        call = asyncio.ensure_future(found.stub.RunFunction(WAIT))
        await passed(gate)
        async with asyncio.timeout(20):
            during = await found.stub.ListModels(pb.ListModelsRequest())
        gate.opened.set()
        await call
    assert [each.header.model for each in during.models] == [MODEL, "other"]
    assert during.models[1] == before.models[1]
    # What only the model itself can tell, the size of a variable of any size, is not counted.
    before.models[0].variable_bytes -= 20
    assert during.models[0] == before.models[0]


# Callers that go away.


async def test_a_cancelled_upload_changes_nothing_and_gives_its_memory_back() -> None:
    """Uploads hold their bytes while they arrive; one that is given up holds none, and did none."""
    free = FakeVariable("free", np.zeros(1, np.uint8), shape=(None,))
    claim = entry(variable="free", tensor=header(dtype=4, shape=[1000], byte_length=1000))
    async with running(counter(free), staging_bytes=1999) as found:
        for _ in range(3):
            first = found.stub.AssignVariables()
            await first.write(manifest(claim))
            await first.write(chunk(0, b"\1" * 10))
            second = [manifest(claim), chunk(0, b"\2" * 1000)]
            await until_async(lambda: found.server._admission.staged == 1000)
            assert await reason_of(found.stub.AssignVariables(iter(second))) == "TOO_MANY_REQUESTS"
            first.cancel()
            await until_async(lambda: found.server._dispatcher._in_progress == set())
            assert await reason_of(found.stub.AssignVariables(iter(second))) == "OK"
        value = (await found.stub.ReadVariable(read(variable="free"))).value
        assert value.data == b"\2" * 1000


NOTHING: list[Any] = []
LARGE = 2 * SMALL_BYTES
CLAIM = manifest(entry(variable="free", tensor=header(dtype=4, shape=[LARGE], byte_length=LARGE)))
SMALL = manifest(entry(variable="free", tensor=header(dtype=4, shape=[10], byte_length=10)))
RUN = pb.StreamRunFunctionRequest


@pytest.mark.parametrize(
    ("method", "messages"),
    [
        ("AssignVariables", NOTHING),
        ("AssignVariables", [CLAIM]),
        ("AssignVariables", [CLAIM, chunk(0, b"\1" * 1000)]),
        ("AssignVariables", [SMALL, chunk(0, b"\1" * 10)]),  # whole, but not ended
        ("StreamRunFunction", NOTHING),
        ("StreamRunFunction", [run_manifest()]),
        ("StreamRunFunction", [run_manifest(), chunk(0, bytes(12), kind=RUN)]),
    ],
)
async def test_an_upload_that_goes_silent_is_given_up(method: str, messages: list[Any]) -> None:
    """Without a deadline, too; it changes nothing, and its place and its memory are there again."""
    free = FakeVariable("free", np.zeros(1, np.uint8), shape=(None,))
    memory = MemoryBudget("host", lambda: Room(2**40, 2**40))
    live = counter(free, host_memory=memory)
    limits = {verb: Limit(calls=1) for verb in ("assign", "run")}
    async with running(live, limits=limits, transfer_silence=0.1) as found:
        for _ in range(3):
            call = getattr(found.stub, method)()
            with suppress(asyncio.InvalidStateError):  # it may be given up already
                for message in messages:
                    await call.write(message)
            async with asyncio.timeout(20):
                answer = call if method == "AssignVariables" else call.read()
                assert await reason_of(answer) == "DEADLINE_EXCEEDED"
            await until_async(lambda: found.server._dispatcher._in_progress == set())
            assert (found.server._admission.staged, memory.reserved) == (0, 0)
        assert await reason_of(found.stub.AssignVariable(SET_TWOS)) == "OK"
        assert await reason_of(found.stub.RunFunction(run())) == "OK"
        response = await found.stub.ReadVariable(read(variable="free"))
        assert (response.value.data, response.header.revision) == (b"\0", 1)


@pytest.mark.parametrize("method", ["AssignVariables", "StreamRunFunction"])
async def test_who_says_nothing_is_given_up_by_the_guard(method: str) -> None:
    """With a policy the manifest is waited for before the handler is there: as long, and no longer.

    Else whoever may do nothing at all could take every place that there is for a verb.
    """
    access = Access(policy=lambda: Policy([]))
    async with running(counter(), access=access, transfer_silence=0.1) as found:
        call = getattr(found.stub, method)()
        async with asyncio.timeout(20):
            answer = call if method == "AssignVariables" else call.read()
            assert await reason_of(answer) == "DEADLINE_EXCEEDED"
        await until_async(lambda: found.server._dispatcher._in_progress == set())


async def test_silence_is_counted_from_the_last_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a body takes, as long as something of it comes; then an eighth more at most."""
    loop, now = asyncio.get_running_loop(), 0.0
    monkeypatch.setattr(loop, "time", lambda: now)

    async def pass_by(seconds: float) -> None:
        nonlocal now
        now += seconds
        for _ in range(3):  # a timer, what it calls, and what that cancels
            await asyncio.sleep(0)

    async def last_for(pace: float) -> None:
        async with Transfers(8, 1e-9, SmallCalls()).begin(UPLOAD) as transfer:
            for _ in range(100):
                await pass_by(pace)
                transfer.moved(1)
            await pass_by(8)
            silent.append(pace)
            await pass_by(1.01)

    silent: list[float] = []
    paces = [0.01, 0.9, 1.1, 7.9, 8.0]
    for pace in paces:
        with pytest.raises(RequestError, match="some every 8 seconds") as caught:
            await last_for(pace)
        assert caught.value.reason is Reason.DEADLINE_EXCEEDED
    assert silent == paces


async def test_a_write_that_has_begun_is_done_though_its_caller_is_gone() -> None:
    """A caller that hangs up in the middle of a commit does not leave half of it."""
    gate = Gate()
    async with running(counter(functions=(gated(gate, writes=True),))) as found:
        call = asyncio.ensure_future(found.stub.RunFunction(WAIT))
        await passed(gate)
        call.cancel()
        await until_async(lambda: found.server._dispatcher._in_progress == set())
        gate.opened.set()
        await until_async(lambda: pending(found) == 0)
        assert await v_of(found) == ([1, 1, 1], 1)


async def test_a_download_that_is_given_up_ends() -> None:
    """A reader that stops in the middle of a stream leaves nothing in progress."""
    big = FakeVariable("big", np.zeros(64 * BIG, np.uint8))
    async with running(counter(big)) as found:
        request = pb.ReadVariablesRequest(model=MODEL, reads=[{"variable": "big"}])
        call = found.stub.ReadVariables(request)
        await call.read()
        await call.read()
        assert len(found.server._dispatcher._in_progress) == 1
        call.cancel()
        await until_async(lambda: found.server._dispatcher._in_progress == set())
        assert await v_of(found) == UNCHANGED


# Defects.


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
