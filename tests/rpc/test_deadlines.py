"""Deadlines of calls that wait, and too many calls at once."""

from __future__ import annotations

import asyncio

import grpc
import numpy as np
import pytest

from tests.fakes import FakeFunction, FakeModel, FakeVariable, Gate
from tests.rpc.models import counter
from tests.rpc.requests import MODEL, chunk, manifest, number, read, run
from tests.rpc.running import (
    SET_TWOS,
    TWOS,
    UNCHANGED,
    WAIT,
    gated,
    passed,
    pending,
    reason_of,
    running,
    v_of,
)
from tests.waiting import until_async
from varserve.v1 import model_service_pb2 as pb
from varserve_service.core.model.live_model import LiveModel


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
