"""Callers that go away or go silent: what they hold is given back."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from tests.fakes import FakeVariable, Gate
from tests.rpc.models import counter
from tests.rpc.requests import MODEL, chunk, entry, header, manifest, read, run, run_manifest
from tests.rpc.running import (
    BIG,
    SET_TWOS,
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
from varserve_service.access.policy import Policy
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.memory import SMALL_BYTES, MemoryBudget, Room
from varserve_service.rpc import Access, Limit
from varserve_service.rpc.calls.giving_way import SmallCalls
from varserve_service.rpc.calls.transfers import UPLOAD, Transfers


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
