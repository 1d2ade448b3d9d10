"""Uploads and downloads are bounded in time and rate, and give way where memory is short."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from tests.fakes import FakeVariable
from tests.rpc.models import counter
from tests.rpc.requests import chunk, entry, manifest
from tests.rpc.running import Running, reason_of, running
from tests.rpc.test_identity import Claimed
from tests.rpc.wire import outcome_of
from tests.waiting import until_async
from varserve.v1 import history_pb2, model_service_pb2_grpc, session_pb2
from varserve.v1 import model_service_pb2 as pb
from varserve_service.core import holdings
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.memory import MemoryBudget, Room
from varserve_service.rpc import Access
from varserve_service.rpc.services.shared_stream import SharedStream

MIB = 2**20
ANN, BOB = (("name", "ann"),), (("name", "bob"),)


def upload_of(nbytes: int) -> Any:
    header = {"dtype": 4, "shape": [nbytes], "byte_length": nbytes}
    return manifest(entry(variable="free", tensor=header))


def free() -> FakeVariable:
    return FakeVariable("free", np.zeros(1, np.uint8), shape=(None,))


async def to_its_end(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def read_revisions(call: Any, revisions: list[int]) -> None:
    while True:
        revisions.append((await call.read()).header.revision)


async def test_an_upload_that_trickles_is_given_up() -> None:
    """One that moves something in time, again and again, and never enough."""
    async with running(counter(free()), transfer_silence=1.0, transfer_rate=1000.0) as found:
        began = time.monotonic()  # before the service begins to count

        def trickle() -> Iterator[Any]:
            yield upload_of(MIB)
            for sent in range(MIB):
                yield chunk(sent, b"x")
                time.sleep(0.02)  # less than the silence that ends it, always

        def ask() -> grpc.RpcError:
            # By threads: a write of gRPC's asyncio that meets the end of its call is INTERNAL.
            with grpc.insecure_channel(found.address) as channel:
                stub = model_service_pb2_grpc.ModelServiceStub(channel)
                with pytest.raises(grpc.RpcError) as caught:
                    stub.AssignVariables(trickle(), timeout=60)
            return caught.value

        error = await asyncio.to_thread(ask)
        assert outcome_of(error).reason == "DEADLINE_EXCEEDED"
        assert time.monotonic() - began >= 1
        assert "bytes a second" in error.details()
        await until_async(lambda: found.server._admission.staged == 0)


async def test_a_download_that_nobody_reads_is_given_up() -> None:
    """Nothing holds its value any more, and the client is told when it reads on."""
    big = FakeVariable("big", np.zeros(64 * MIB, np.uint8))
    value = weakref.ref(big.array)
    async with running(counter(big), transfer_silence=0.2) as found:
        request = pb.ReadVariablesRequest(model="counter", reads=[{"variable": "big"}])
        call = found.stub.ReadVariables(request)
        await call.read()  # it has begun
        await until_async(lambda: len(found.server._transfers) == 0)
        big.array = np.zeros(1, np.uint8)
        await until_async(lambda: value() is None)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await to_its_end(call)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("kind", ["unary", "stream"])
async def test_the_idle_give_way_where_memory_is_short(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The upload that has been idle longest ends with OUT_OF_MEMORY, and the write goes through."""
    monkeypatch.setattr(holdings, "IDLE_SECONDS", 0.1)
    memory = MemoryBudget("host", lambda: Room(40 * MIB, 100 * MIB))
    table = FakeVariable("table", np.zeros(16 * MIB, np.uint8))
    live = counter(free(), table, host_memory=memory)
    async with running(live, access=Access(authenticator=Claimed())) as found:
        idle = found.stub.AssignVariables(metadata=ANN)
        await idle.write(upload_of(36 * MIB))
        await idle.initial_metadata()
        (transfer,) = found.server._transfers._transfers
        await until_async(lambda: transfer.idle > 0.1)
        if kind == "stream":
            other = found.stub.AssignVariables(metadata=BOB)
            await other.write(upload_of(16 * MIB))
            for offset in range(0, 16 * MIB, MIB):
                await other.write(chunk(offset, bytes(MIB)))
            await other.done_writing()
        else:
            region = {"slices": {"dimensions": [{"start": 0, "stop": 3 * MIB}]}}
            value = {"dtype": 4, "shape": [3 * MIB], "data": bytes(3 * MIB)}
            other = found.stub.AssignVariable(
                pb.AssignVariableRequest(
                    model="counter", variable="table", operation=2, region=region, value=value
                ),
                metadata=BOB,
            )
        assert await reason_of(other) == "OK"
        assert await reason_of(idle) == "OUT_OF_MEMORY"
        assert memory.reserved == 0


async def test_who_is_not_idle_does_not_give_way() -> None:
    """A transfer that makes progress is not ended: the write is refused with the numbers."""
    memory = MemoryBudget("host", lambda: Room(40 * MIB, 100 * MIB))
    live = counter(free(), host_memory=memory)
    async with running(live, access=Access(authenticator=Claimed())) as found:
        busy = found.stub.AssignVariables(metadata=ANN)
        await busy.write(upload_of(36 * MIB))
        await busy.initial_metadata()
        other = found.stub.AssignVariables(metadata=BOB)
        await other.write(upload_of(16 * MIB))
        assert await reason_of(other) == "OUT_OF_MEMORY"
        busy.cancel()


async def test_the_bodies_of_one_subject_take_half_of_the_memory() -> None:
    """Whatever verbs they are for; another subject has the other half."""
    memory = MemoryBudget("host", lambda: Room(2**40, 100 * MIB))
    live = counter(free(), host_memory=memory)
    async with running(live, access=Access(authenticator=Claimed())) as found:
        first = found.stub.AssignVariables(metadata=ANN)
        await first.write(upload_of(40 * MIB))
        await first.initial_metadata()
        second = found.stub.AssignVariables(metadata=ANN)
        await second.write(upload_of(11 * MIB))
        assert await reason_of(second) == "TOO_MANY_REQUESTS"
        large = found.stub.AssignVariables(metadata=ANN)
        await large.write(upload_of(51 * MIB))
        assert await reason_of(large) == "TOO_MANY_REQUESTS"
        other = found.stub.AssignVariables(metadata=BOB)
        await other.write(upload_of(40 * MIB))
        await other.initial_metadata()
        first.cancel()
        other.cancel()
        await until_async(lambda: found.server._admission.staged == 0)
        assert memory.holdings.held_by("ann") == 0


@pytest.fixture
def cut_off(monkeypatch: pytest.MonkeyPatch) -> list[Reason]:
    """Why sessions were ended at once."""
    reasons: list[Reason] = []
    end = SharedStream.cut_off

    def cut_off(stream: SharedStream, why: RequestError) -> None:
        reasons.append(why.reason)
        end(stream, why)

    monkeypatch.setattr(SharedStream, "cut_off", cut_off)
    return reasons


async def deaf_session(found: Running, reads: int, who: Any) -> Any:
    """A session that asks for a MiB so often, and takes no answer."""
    read = pb.ReadVariableRequest(model="counter", variable="table").SerializeToString()
    calls = [
        session_pb2.SessionCall(id=ident, method="ReadVariable", request=read)
        for ident in range(1, reads + 1)
    ]
    call = found.stub.Session(metadata=who)
    await call.write(session_pb2.SessionRequest(calls=calls))
    return call


async def test_answers_that_a_session_does_not_take_are_of_its_subjects_share(
    cut_off: list[Reason],
) -> None:
    """Beyond half of the memory the session ends; those of another subject go on."""
    memory = MemoryBudget("host", lambda: Room(2**40, 32 * MIB))
    table = FakeVariable("table", np.zeros(MIB, np.uint8))
    async with running(
        counter(table, host_memory=memory), access=Access(authenticator=Claimed())
    ) as found:
        other = await deaf_session(found, 1, BOB)
        deaf = await deaf_session(found, 60, ANN)
        await until_async(lambda: cut_off)
        assert cut_off[0] is Reason.TOO_MANY_REQUESTS
        await until_async(lambda: memory.holdings.held_by("ann") == 0)
        (answer,) = (await other.read()).answers
        assert len(answer.response) > MIB
        for call in (deaf, other):
            call.cancel()


async def test_a_session_that_takes_nothing_gives_way(
    cut_off: list[Reason], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where memory is short it ends with OUT_OF_MEMORY, and the write of another goes through."""
    monkeypatch.setattr(holdings, "IDLE_SECONDS", 0.1)
    table = FakeVariable("table", np.zeros(MIB, np.uint8))

    def room() -> Room:
        return Room(0 if memory.holdings.held_by("ann") else 2**40, 2**40)

    memory = MemoryBudget("host", room)
    live = counter(free(), table, host_memory=memory)
    async with running(live, access=Access(authenticator=Claimed())) as found:
        deaf = await deaf_session(found, 60, ANN)
        await until_async(lambda: memory.holdings.held_by("ann") > 16 * MIB)
        held = memory.holdings._holdings
        await until_async(lambda: all(time.monotonic() - each.touched_at > 0.1 for each in held))
        other = found.stub.AssignVariables(metadata=BOB)
        await other.write(upload_of(16 * MIB))
        for offset in range(0, 16 * MIB, MIB):
            await other.write(chunk(offset, bytes(MIB)))
        await other.done_writing()
        assert await reason_of(other) == "OK"
        assert cut_off[0] is Reason.OUT_OF_MEMORY
        deaf.cancel()


async def test_an_event_that_nobody_takes_ends_its_watch() -> None:
    """Each such watch would keep a copy of a large event; it is told where to resume."""
    big = FakeVariable("big", np.zeros(3 * MIB, np.uint8))
    live = counter(big)
    async with running(live, transfer_silence=0.3, max_streams=1000) as found:
        options = [
            ("grpc.http2.lookahead_bytes", 65536),
            ("grpc.http2.bdp_probe", 0),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        async with grpc.aio.insecure_channel(found.address, options=options) as channel:
            stub = model_service_pb2_grpc.ModelServiceStub(channel)
            request = history_pb2.WatchVariablesRequest(
                model="counter", values=True, patterns=["big"]
            )
            watch = stub.WatchVariables(request)
            assert not (await watch.read()).HasField("commit")
            for fill in range(8):
                value = {"dtype": 4, "shape": [3 * MIB], "data": bytes([fill]) * (3 * MIB)}
                write = pb.AssignVariableRequest(
                    model="counter", variable="big", operation=1, value=value
                )
                assert await reason_of(found.stub.AssignVariable(write)) == "OK"
            await until_async(lambda: not found.server._backend.watches)
            assert len(found.server._transfers) == 0
            revisions = [0]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await read_revisions(watch, revisions)
            outcome = outcome_of(caught.value)
            assert outcome.reason == "WATCH_TOO_SLOW"
            assert outcome.failure is not None
            # What was on its way when it ended may have arrived.
            assert int(outcome.failure.metadata["resume_revision"]) <= revisions[-1]
