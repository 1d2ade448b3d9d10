"""A watch in a session is a watch: what it gives, and what is told of it, is as if it was alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import pytest

from tests.fakes import FakeModel, FakeVariable
from tests.rpc.models import counter
from tests.rpc.requests import MODEL, assign, tensor, watch
from tests.rpc.running import Running, running
from tests.rpc.session_wire import CODES
from tests.rpc.test_identity import Claimed
from tests.rpc.test_sessions import Expiring, Recorder
from tests.rpc.watched import set_v
from tests.rpc.wire import outcome_of
from tests.waiting import until_async
from varserve.reasons import read_details
from varserve.v1 import history_pb2
from varserve.v1 import session_pb2 as pb
from varserve_service.access.policy_file import read_policy
from varserve_service.core.commit.watchers import EventLimits, Watchers
from varserve_service.core.model.live_model import LiveModel
from varserve_service.rpc import Access, Limit
from varserve_service.rpc.services.watch_sessions import WINDOW_BYTES

METHOD = "/varserve.v1.ModelService/WatchSession"


class Shared:
    """A watch session, and what each of its watches was sent."""

    def __init__(self, channel: grpc.aio.Channel, **metadata: str) -> None:
        call = channel.stream_stream(
            METHOD,
            request_serializer=pb.WatchSessionRequest.SerializeToString,
            response_deserializer=pb.WatchSessionResponse.FromString,
        )
        self.stream = call(metadata=tuple(metadata.items()), timeout=120)
        self.updates: list[pb.WatchUpdate] = []
        self.events: dict[int, list[history_pb2.WatchVariablesResponse]] = {}
        self.ends: dict[int, Any] = {}
        self._changed = asyncio.Condition()
        self.reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for response in self.stream:
            async with self._changed:
                for update in response.updates:
                    self._take(update)
                self._changed.notify_all()

    def _take(self, update: pb.WatchUpdate) -> None:
        self.updates.append(update)
        for ident in update.watch_ids:
            assert ident not in self.ends
            if update.WhichOneof("outcome") == "error":
                self.ends[ident] = update.error
            else:
                event = history_pb2.WatchVariablesResponse.FromString(update.response)
                self.events.setdefault(ident, []).append(event)

    async def send(self, *watches: Any, cancelled: Any = (), taken: Any = (), **more: Any) -> None:
        """`watches`: pairs of id and request."""
        creates = [
            pb.WatchCreate(watch_id=ident, request=request.SerializeToString(), **more)
            for ident, request in watches
        ]
        await self.stream.write(
            pb.WatchSessionRequest(creates=creates, cancelled_ids=cancelled, taken=taken)
        )

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(30), self._changed:
            await self._changed.wait_for(condition)

    async def revisions(self, ident: int, count: int) -> list[int]:
        """Of the first events, bookmarks included, of a watch."""
        await self.until(lambda: len(self.events.get(ident, ())) >= count)
        return [event.header.revision for event in self.events[ident][:count]]

    async def end_of(self, ident: int) -> tuple[str, dict[str, str]]:
        """The reason that a watch ended for, and its metadata."""
        await self.until(lambda: ident in self.ends)
        status = self.ends[ident]
        failure = read_details(status.SerializeToString())
        if failure is None:
            return CODES[status.code].name, {}
        assert failure.status is CODES[status.code]
        return failure.reason, dict(failure.metadata)


@asynccontextmanager
async def shared(found: Running, **metadata: str) -> AsyncIterator[Shared]:
    session = Shared(found.channel, **metadata)
    try:
        yield session
    finally:
        session.stream.cancel()
        await asyncio.wait([session.reader])


async def test_watches_share_a_stream_and_what_is_the_same() -> None:
    """Each watch has a bookmark and its commits in order; an event of several is sent once."""
    async with running(counter()) as found, shared(found) as session:
        await session.send(*((n, watch(patterns=["v"], values=True)) for n in range(1, 6)))
        await session.send((9, watch(patterns=["count"])))
        for ident in (*range(1, 6), 9):
            assert await session.revisions(ident, 1) == [0]
        before = len(session.updates)
        for n in (1, 2):
            await found.stub.AssignVariable(set_v(n, n, n))
        for ident in range(1, 6):
            assert await session.revisions(ident, 3) == [0, 1, 2]
        told = [(sorted(each.watch_ids), len(each.response)) for each in session.updates[before:]]
        assert [ids for ids, _ in told] == [[1, 2, 3, 4, 5]] * 2
        alone = found.stub.WatchVariables(watch(after_revision=0, patterns=["v"], values=True))
        await alone.read()
        for n in (1, 2):
            expected = await alone.read()
            # The same as the message of a call of its own, to the byte.
            assert session.updates[before + n - 1].response == expected.SerializeToString()
        assert len(session.events[9]) == 1


async def test_watches_begin_resume_and_end_apart() -> None:
    """A watch that cannot begin ends alone, with its reason; one that is cancelled is sent no more;
    its id is free again."""
    async with running(counter()) as found, shared(found) as session:
        await found.stub.AssignVariable(set_v(1, 2, 3))
        await session.send(
            (1, watch(after_revision=0)),
            (2, watch(patterns=["none*"])),
            (3, watch(after_revision=5)),
            (4, watch(model="nothing")),
            (5, watch(patterns=["v"] * 101)),
        )
        assert await session.revisions(1, 2) == [0, 1]
        reasons = [(await session.end_of(ident))[0] for ident in (2, 3, 4, 5)]
        assert reasons == [
            "VARIABLE_NOT_FOUND",
            "REVISION_IN_FUTURE",
            "MODEL_NOT_FOUND",
            "REQUEST_MALFORMED",
        ]
        await session.send(cancelled=[1, 77])
        await until_async(lambda: not found.server._backend.watches)
        await found.stub.AssignVariable(set_v(4, 5, 6))
        await session.send((1, watch(after_revision=1)))
        assert await session.revisions(1, 4) == [0, 1, 1, 2]
        assert 1 not in session.ends


async def test_a_slow_watch_holds_up_no_other() -> None:
    """What a watch was sent and has not taken is bounded; others of its session get all, and it
    goes on when it takes."""
    blob = FakeVariable("blob", np.zeros(50_000, np.float32))
    live = LiveModel(FakeModel([blob], name=MODEL))
    async with running(live) as found, shared(found) as session:
        await session.send((1, watch(values=True)), (2, watch(values=True)))
        await session.revisions(1, 1)
        await session.revisions(2, 1)
        count = 3 * WINDOW_BYTES // 200_000
        for n in range(1, count + 1):
            value = tensor(shape=[50_000], data=np.full(50_000, n, "<f4").tobytes())
            await found.stub.AssignVariable(assign(variable="blob", value=value))
            # The second one takes what it is sent, the first one nothing.
            await session.revisions(2, n + 1)
            size = session.events[2][n].ByteSize()
            await session.send(taken=[pb.WatchTaken(watch_id=2, nbytes=size)])
        sent = sum(event.ByteSize() for event in session.events[1])
        assert WINDOW_BYTES <= sent < WINDOW_BYTES + 250_000
        await session.send(taken=[pb.WatchTaken(watch_id=1, nbytes=2**40)])
        assert await session.revisions(1, len(session.events[1]) + 3)
        await session.send(taken=[pb.WatchTaken(watch_id=1, nbytes=2**40)])
        await session.send(taken=[pb.WatchTaken(watch_id=1, nbytes=2**40)])
        assert await session.revisions(1, count + 1) == list(range(count + 1))


async def test_a_watch_that_takes_nothing_ends_alone() -> None:
    """One for which too much waits is WATCH_TOO_SLOW, with where to resume; the others go on."""
    blob = FakeVariable("blob", np.zeros(100_000, np.float32))
    watchers = Watchers(EventLimits(waiting_bytes=2**20))
    live = LiveModel(FakeModel([blob], name=MODEL), watchers=watchers)
    async with running(live) as found, shared(found) as session:
        await session.send((1, watch(values=True)), (2, watch(values=False)))
        await session.revisions(1, 1)
        await session.revisions(2, 1)
        for n in range(1, 16):
            value = tensor(shape=[100_000], data=np.full(100_000, n, "<f4").tobytes())
            await found.stub.AssignVariable(assign(variable="blob", value=value))
        assert await session.revisions(2, 16) == list(range(16))
        await session.send(taken=[pb.WatchTaken(watch_id=1, nbytes=2**40)])
        reason, metadata = await session.end_of(1)
        assert reason == "WATCH_TOO_SLOW"
        assert int(metadata["resume_revision"]) == session.events[1][-1].header.revision < 15
        assert 2 not in session.ends


async def test_each_watch_is_admitted() -> None:
    """The limits count each watch, and the session as one more."""
    async with running(counter(), limits={"watch": Limit(calls=3)}) as found:
        async with shared(found) as session:
            await session.send((1, watch()), (2, watch()), (3, watch()))
            await session.until(lambda: session.ends)
            assert await session.end_of(3) == ("TOO_MANY_REQUESTS", {"verb": "watch", "limit": "3"})
            await session.send(cancelled=[1])
            await until_async(lambda: len(found.server._backend.watches) == 1)
            await session.send((4, watch()))
            assert await session.revisions(4, 1) == [0]
        await until_async(lambda: not found.server._backend.watches)


async def test_each_watch_is_told_of() -> None:
    """Observers are told of each watch with its own trace, and of the messages that it was sent."""

    class Messages(Recorder):
        def __init__(self) -> None:
            super().__init__()
            self.sent_to: list[str] = []

        def sent(self, call: Any) -> None:
            self.sent_to.append(call.trace_id if call.method.name == "WatchVariables" else "")

    recorder = Messages()
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    async with running(counter(), observers=[recorder]) as found, shared(found) as session:
        await session.send((1, watch()), traceparent=f"00-{trace}-00f067aa0ba902b7-01")
        await session.revisions(1, 1)
        await found.stub.AssignVariable(set_v(1, 1, 1))
        await session.revisions(1, 2)
        assert recorder.sent_to.count(trace) == 2
        await session.send(cancelled=[1])
        await until_async(lambda: not found.server._backend.watches)
        calls = [recorder.next() for _ in range(2)]
        ended = {call.method.name: call for call in calls}["WatchVariables"]
        assert (ended.code, ended.model, ended.trace_id) == (
            grpc.StatusCode.CANCELLED,
            MODEL,
            trace,
        )


POLICY = b"""
rules:
  - {subjects: [ann], verbs: [watch, read, assign], models: ["*"], variables: ["*"]}
  - {subjects: [bob], verbs: [watch], models: ["*"], variables: [count]}
"""


async def test_each_watch_is_judged() -> None:
    """A watch shows what its caller may watch; one that the policy forbids now ends, alone."""
    now = [read_policy(POLICY)]
    access = Access(authenticator=Claimed(), policy=lambda: now[0])
    async with running(counter(), access=access) as found:
        async with shared(found, name="bob") as session:
            await session.send((1, watch()), (2, watch(values=True)), (3, watch(patterns=["v"])))
            await session.revisions(1, 1)
            assert (await session.end_of(2))[0] == "PERMISSION_DENIED"
            assert (await session.end_of(3))[0] == "VARIABLE_NOT_FOUND"
        async with shared(found, name="ann") as session:
            await session.send((1, watch(values=True, patterns=["v"])), (2, watch(patterns=["v"])))
            await session.revisions(2, 1)
            await session.revisions(1, 1)
            now[0] = read_policy(POLICY.replace(b"watch, read, assign", b"watch, assign"))
            await found.stub.AssignVariable(set_v(1, 1, 1), metadata=(("name", "ann"),))
            assert (await session.end_of(1))[0] == "PERMISSION_DENIED"
            assert await session.revisions(2, 2) == [0, 1]
        async with shared(found) as nobody:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await nobody.reader
            assert outcome_of(caught.value).reason == "UNAUTHENTICATED"


async def test_a_credential_that_ends_ends_its_watches() -> None:
    """Each watch is authenticated again while it lasts."""
    expiring = Expiring()
    access = Access(authenticator=expiring)
    async with (
        running(counter(), access=access, bookmark_seconds=0.1) as found,
        shared(found, name="ann") as session,
    ):
        await session.send((1, watch()))
        await session.revisions(1, 1)
        expiring.expired = True
        assert (await session.end_of(1))[0] == "UNAUTHENTICATED"


async def test_an_id_in_use_ends_the_session() -> None:
    """Two watches with one id could not be told apart."""
    async with running(counter()) as found, shared(found) as session:
        await session.send((1, watch()), (1, watch()))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(session.reader, 30)
        assert outcome_of(caught.value).reason == "REQUEST_MALFORMED"
        await until_async(lambda: not found.server._backend.watches)


async def test_a_client_that_ends_its_side_ends_its_watches() -> None:
    """The session ends well, and nothing is watched any more."""
    async with running(counter()) as found, shared(found) as session:
        await session.send((1, watch()), (2, watch()))
        await session.revisions(2, 1)
        await session.stream.done_writing()
        await asyncio.wait_for(session.reader, 30)
        assert await session.stream.code() is grpc.StatusCode.OK
        assert not found.server._backend.watches


async def test_a_shutdown_ends_watches_and_session() -> None:
    """Each watch is told to go elsewhere, and then the session ends by the same reason."""
    async with running(counter()) as found, shared(found) as session:
        await session.send(*((n, watch()) for n in range(1, 21)))
        for n in range(1, 21):
            await session.revisions(n, 1)
        async with asyncio.timeout(60):
            await found.server.stop(600)
        for n in range(1, 21):
            reason, metadata = await session.end_of(n)
            assert (reason, metadata["resume_revision"]) == ("SHUTTING_DOWN", "0")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(session.reader, 30)
        assert outcome_of(caught.value).reason == "SHUTTING_DOWN"


async def test_an_idle_session_of_watches_ends() -> None:
    """Without a watch it ends by itself, and well; with one it lasts."""
    silence = {"transfer_silence": 1.0, "bookmark_seconds": 0.5}
    async with running(counter(), **silence) as found, shared(found) as session:
        await session.send((1, watch()))
        assert await session.revisions(1, 4) == [0, 0, 0, 0]
        assert not session.reader.done()
        await session.send(cancelled=[1])
        await asyncio.wait_for(session.reader, 30)
        assert await session.stream.code() is grpc.StatusCode.OK
