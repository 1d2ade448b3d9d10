"""Watches, through the real wire."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from typing import Any

import grpc
import numpy as np
import pytest

from tests.fakes import FakeModel, FakeVariable
from tests.rpc.bodies import value_of
from tests.rpc.models import counter
from tests.rpc.requests import (
    MODEL,
    assign,
    chunk,
    entry,
    manifest,
    number,
    rows,
    run,
    tensor,
    watch,
)
from tests.rpc.running import SERVING, Running, running
from tests.rpc.watched import f32, failure, next_commit, set_v
from tests.waiting import until_async
from varserve.v1 import history_pb2
from varserve_service.core.commit.history import History
from varserve_service.core.commit.watchers import EventLimits, Watchers
from varserve_service.core.model.live_model import LiveModel
from varserve_service.rpc import Limit
from varserve_service.rpc.serving.watching import Hub


async def test_a_watch_tells_what_was_and_what_comes() -> None:
    """A bookmark first, then each commit with who, why, values and previous values."""
    async with running(counter()) as found:
        await found.stub.AssignVariable(set_v(1, 2, 3, message="one", request_id="r1"))
        stream = found.stub.WatchVariables(
            watch(after_revision=0, values=True, previous_values=True)
        )
        first = await stream.read()
        assert (first.header.revision, first.HasField("commit")) == (0, False)
        event = await stream.read()
        assert (event.header.model, event.header.revision, event.commit.revision) == (MODEL, 1, 1)
        assert (event.commit.message, event.commit.request_id) == ("one", "r1")
        assert event.commit.kind == history_pb2.COMMIT_KIND_ASSIGN
        assert abs(event.commit.time_unix_nanos - time.time_ns()) < 60e9
        (change,) = event.changes
        assert (change.variable, value_of(change.value)) == ("v", [1, 2, 3])
        assert value_of(change.previous) == [1, 1, 1]
        region = rows(2, 0)
        await found.stub.AssignVariable(assign(region=region, value=f32(8, 9), operation=2))
        event = await stream.read()
        (change,) = event.changes
        assert (change.region, value_of(change.value)) == (region, [11, 10])
        await found.stub.RunFunction(run(function="add", inputs={"n": number(5)}, message="fn"))
        event = await stream.read()
        assert (event.commit.kind, event.commit.message) == (history_pb2.COMMIT_KIND_RUN, "fn")
        assert [(c.variable, value_of(c.value)) for c in event.changes] == [("count", 5)]
        stream.cancel()


async def test_a_watch_is_filtered_and_has_values_only_on_request() -> None:
    """Patterns select by name; without `values` an event says only what changed and how large."""
    async with running(counter()) as found:
        stream = found.stub.WatchVariables(watch(patterns=["c*t"]))
        await stream.read()
        await found.stub.AssignVariable(set_v(1, 2, 3))
        entries = [entry(), entry(variable="count", tensor={"dtype": 9, "byte_length": 8})]
        body = [manifest(*entries), chunk(0, bytes(20))]
        await found.stub.AssignVariables(iter(body))
        event = await next_commit(stream)
        (change,) = event.changes
        assert (event.header.revision, change.variable, change.tensor.byte_length) == (
            2,
            "count",
            8,
        )
        assert not change.HasField("value")
        assert change.HasField("previous_tensor")
        assert not change.HasField("previous")
        stream.cancel()


async def test_bookmarks_come_while_idle() -> None:
    """A watcher that nothing is sent to is told how far it has come, beyond what is filtered."""
    async with running(counter(), bookmark_seconds=0.05) as found:
        stream = found.stub.WatchVariables(watch(patterns=["count"]))
        assert (await stream.read()).header.revision == 0
        await found.stub.AssignVariable(set_v(1, 2, 3))
        async with asyncio.timeout(20):
            while (await stream.read()).header.revision == 0:
                pass
        stream.cancel()


async def test_a_commit_larger_than_a_message_comes_in_several() -> None:
    """Each message stays within the limit; a value that fits into none is announced alone."""
    limit = 128 << 10
    small = [FakeVariable(f"s{n}", np.zeros(5000, np.float32)) for n in range(10)]
    large = FakeVariable("large", np.zeros(50_000, np.float32))
    async with running(counter(large, *small), message_bytes=limit) as found:
        stream = found.stub.WatchVariables(watch(values=True, previous_values=True))
        await stream.read()
        names = [v.spec.name for v in (large, *small)]
        sizes = [v.array.nbytes for v in (large, *small) if v.array is not None]
        entries = [
            entry(variable=n, tensor={"dtype": 1, "shape": [s // 4], "byte_length": s})
            for n, s in zip(names, sizes, strict=True)
        ]
        body = np.ones(sum(sizes) // 4, "<f4").tobytes()
        step = 64 << 10
        await found.stub.AssignVariables(
            iter(
                [
                    manifest(*entries),
                    *(chunk(o, body[o : o + step]) for o in range(0, len(body), step)),
                ]
            )
        )
        messages = [await stream.read()]
        while messages[-1].more:
            messages.append(await stream.read())
        assert len(messages) > 3
        assert all(message.ByteSize() <= limit for message in messages)
        assert {message.commit.revision for message in messages} == {1}
        changes = {c.variable: c for message in messages for c in message.changes}
        assert sorted(changes) == sorted(names)
        assert changes["large"].tensor.byte_length == 200_000
        assert not changes["large"].HasField("value")
        assert all(value_of(changes[v.spec.name].value) == [1] * 5000 for v in small)
        stream.cancel()


async def test_where_a_watch_may_begin() -> None:
    """At 0, at the present; not in the future, before the history, or in another epoch."""
    live = LiveModel(
        FakeModel([FakeVariable("v", np.ones(3, np.float32))], name=MODEL),
        history=History(max_commits=3),
    )
    async with running(live) as found:
        for n in range(3):
            await found.stub.AssignVariable(set_v(n, n, n))
        for after in (0, 3):
            stream = found.stub.WatchVariables(watch(after_revision=after))
            assert (await stream.read()).header.revision == after
            stream.cancel()
        await found.stub.AssignVariable(set_v(3, 3, 3))
        for request, reason, metadata in [
            (watch(after_revision=5), "REVISION_IN_FUTURE", ("current_revision", "4")),
            (watch(after_revision=0), "REVISION_COMPACTED", ("oldest_revision", "1")),
            (watch(after_revision=-1), "REVISION_COMPACTED", ("oldest_revision", "1")),
            (watch(epoch="x"), "EPOCH_MISMATCH", ("current_epoch", live.header.epoch)),
            (watch(patterns=["v", "w*"]), "VARIABLE_NOT_FOUND", ("variable", "w*")),
            (watch(patterns=["v"] * 101), "REQUEST_MALFORMED", None),
            (watch(patterns=["v", "[" * 513]), "REQUEST_MALFORMED", None),
            (watch(model="w"), "MODEL_NOT_FOUND", None),
        ]:
            found_failure = await failure(found.stub.WatchVariables(request))
            assert found_failure.reason == reason
            assert metadata is None or metadata in found_failure.metadata.items()
        stream = found.stub.WatchVariables(watch(patterns=["v"] * 100))
        assert (await stream.read()).header.revision == 4
        stream.cancel()
        await until_async(lambda: not found.server._backend.watches)


async def test_a_watcher_that_reads_nothing_is_closed_and_told_where_to_go_on() -> None:
    """What waits for it is bounded; the fast ones beside it get everything."""
    limits = EventLimits(waiting_bytes=2**19)
    watchers = Watchers(limits)
    blob = FakeVariable("blob", np.zeros(10_000, np.float32))
    live = LiveModel(FakeModel([blob], name=MODEL), watchers=watchers)
    async with running(live) as found:
        slow = found.stub.WatchVariables(watch(values=True))
        fast = [found.stub.WatchVariables(watch(values=True)) for _ in range(5)]
        for stream in (slow, *fast):
            await stream.read()

        async def follow(stream: Any) -> list[int]:
            return [(await stream.read()).header.revision for _ in range(150)]

        async def write() -> None:
            for n in range(150):
                data = np.full(10_000, n, "<f4").tobytes()
                value = tensor(shape=[10_000], data=data)
                await found.stub.AssignVariable(assign(variable="blob", value=value))

        _, *revisions = await asyncio.gather(write(), *(follow(stream) for stream in fast))
        assert revisions == [list(range(1, 151))] * 5
        assert len(watchers) == 5
        seen: list[int] = []

        async def drain() -> None:
            while True:
                seen.append((await slow.read()).header.revision)

        told = await failure(drain())
        assert seen == list(range(1, len(seen) + 1))
        assert told.reason == "WATCH_TOO_SLOW"
        assert told.metadata["resume_revision"] == str(seen[-1])
        assert 0 < seen[-1] < 150
        again = found.stub.WatchVariables(watch(after_revision=seen[-1]))
        await again.read()
        assert (await again.read()).header.revision == seen[-1] + 1


async def test_a_hundred_watchers_take_no_threads() -> None:
    """Each of 100 gets every commit; the service has no more threads, and health answers."""
    async with running(counter()) as found:
        await found.stub.AssignVariable(set_v(0, 0, 0))
        first = found.stub.WatchVariables(watch(values=True))
        await first.read()
        before = threading.active_count()
        streams = [found.stub.WatchVariables(watch(values=True)) for _ in range(100)]
        for stream in streams:
            assert (await stream.read()).header.revision == 1
        for n in (2, 3):
            await found.stub.AssignVariable(set_v(n, n, n))
            assert await found.status("") == SERVING
            for stream in (first, *streams):
                event = await stream.read()
                assert (event.header.revision, value_of(event.changes[0].value)) == (n, [n] * 3)
        # Those that make messages, and no more.
        assert threading.active_count() <= before + 2
        for stream in streams:
            stream.cancel()
        await until_async(lambda: len(found.server._backend.watches) == 1)


async def test_a_commit_wakes_those_whom_it_concerns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other watchers go past it where they wait, and are told so by their next bookmark."""
    woken: list[Any] = []
    made = Hub.messages

    async def messages(self: Hub, event: Any, wanted: Any) -> list[bytes]:
        woken.append(wanted.paths)
        return await made(self, event, wanted)

    monkeypatch.setattr(Hub, "messages", messages)
    async with running(counter(), bookmark_seconds=1) as found:
        others = [found.stub.WatchVariables(watch(patterns=["count"])) for _ in range(10)]
        stream = found.stub.WatchVariables(watch(patterns=["v"]))
        for each in (*others, stream):
            await each.read()
        for n in range(1, 6):
            await found.stub.AssignVariable(set_v(n, n, n))
            assert (await next_commit(stream)).header.revision == n
        assert [len(paths) for paths in woken] == [1] * 5
        assert len(set(woken)) == 1
        for each in others:
            while (await each.read()).header.revision < 5:
                pass
            each.cancel()
        stream.cancel()


async def test_watches_of_the_same_variables_have_one_set_of_them() -> None:
    """As long as one of them lasts."""
    async with running(counter()) as found:
        streams = [found.stub.WatchVariables(watch(patterns=["v"])) for _ in range(5)]
        for each in streams:
            await each.read()
        (served,) = found.server._serving.all
        hub = served._hub
        assert hub is not None
        assert len(hub._paths) == 1
        other = frozenset(["v"])
        (kept,) = hub._paths
        assert hub.same(other) is kept is not other
        del kept
        for each in streams:
            each.cancel()
        await until_async(lambda: not found.server._backend.watches)
        gc.collect()
        assert not hub._paths


async def test_watches_end_at_shutdown() -> None:
    """Watchers are told to go elsewhere, and none of them holds the shutdown up."""
    async with running(counter()) as found:
        streams = [found.stub.WatchVariables(watch()) for _ in range(20)]
        for stream in streams:
            await stream.read()
        failures = asyncio.gather(*(failure(stream) for stream in streams))
        async with asyncio.timeout(60):
            await found.server.stop(600)
        assert {each.reason for each in await failures} == {"SHUTTING_DOWN"}


async def test_too_many_watches_are_refused() -> None:
    """Beyond the bound a watch is TOO_MANY_REQUESTS, until another one ends."""
    async with running(counter(), limits={"watch": Limit(calls=2)}) as found:
        streams = [found.stub.WatchVariables(watch()) for _ in range(2)]
        for stream in streams:
            await stream.read()
        assert (await failure(found.stub.WatchVariables(watch()))).reason == "TOO_MANY_REQUESTS"
        streams[0].cancel()
        await until_async(lambda: len(found.server._backend.watches) == 1)
        assert (await found.stub.WatchVariables(watch()).read()).header.revision == 0


async def test_a_client_whose_machine_is_gone_is_forgotten() -> None:
    """The watch of a half-open connection is freed when it does not answer a keepalive."""
    keepalive = {"keepalive_seconds": 1.0, "keepalive_timeout": 1.0}
    async with (
        running(counter(), **keepalive) as found,
        _Proxy(found) as proxy,
        grpc.aio.insecure_channel(proxy.address) as channel,
    ):
        stream = type(found.stub)(channel).WatchVariables(watch())
        await stream.read()
        proxy.frozen = True
        await until_async(lambda: not found.server._backend.watches)
        proxy.frozen = False


class _Proxy:
    """Passes bytes on both ways, until it is frozen: then neither side hears of the other."""

    def __init__(self, found: Running) -> None:
        host, port = found.address.split(":")
        self._target = (host, int(port))
        self.frozen = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> _Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(*self._target)
        for source, sink in ((reader, there[1]), (there[0], writer)):
            self._tasks.add(asyncio.create_task(self._pass(source, sink)))

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            if not self.frozen:
                sink.write(data)
        while self.frozen:  # noqa: ASYNC110 (the end of a connection is not passed on either)
            await asyncio.sleep(0.01)
        sink.close()
