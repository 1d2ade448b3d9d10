"""Watching from the client: in order, once, through failures, until it is over."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest

import varserve
from tests.serving import serve_here
from tests.waiting import join, until
from varserve.v1 import history_pb2, model_pb2
from varserve_service.core.commit.history import History
from varserve_service.core.commit.watchers import EventLimits, Watchers
from varserve_service.core.model.live_model import LiveModel

from .scripted import Scripted, fail, reply, status
from .served import CHUNK_BYTES, MESSAGE_BYTES, fake_model

# Set when an answer that says nothing shall end.
ENDED = threading.Event()


def silent(requests: list[bytes], context: grpc.ServicerContext) -> list[bytes]:
    """An answer that does not come until then."""
    ENDED.wait(30)
    return []


def bookmark(revision: int, epoch: str = "e") -> history_pb2.WatchVariablesResponse:
    header = model_pb2.StateHeader(model="m", version=1, epoch=epoch, revision=revision)
    return history_pb2.WatchVariablesResponse(header=header)


def commit(revision: int, *, more: bool = False) -> history_pb2.WatchVariablesResponse:
    message = bookmark(revision)
    message.commit.revision = revision
    message.commit.kind = history_pb2.COMMIT_KIND_ASSIGN
    message.changes.add(variable="v", tensor={"dtype": 1, "shape": [2], "byte_length": 8})
    message.more = more
    return message


def test_events_say_who_what_and_why(model: varserve.Model) -> None:
    """A watch gives what is written after it began: values, regions, reason and time."""
    weights = model.variables["weights"]
    with model.watch("w*", previous=True) as watch:
        assert (watch.revision, watch.epoch) == (0, model.epoch)
        model.variables["counter"].assign(1)
        weights[0, 1:3].assign(np.ones((2, 5), np.float32), message="why")
        model.variables["table"].scatter_update([3], np.ones((1, 4), np.float32))
        weights.assign(np.zeros((3, 4, 5), np.float32))
        event = next(watch)
        assert (event.revision, event.model, len(event.changes)) == (2, "fake", 1)
        assert (event.info.kind, event.info.message) == ("assign", "why")
        assert abs((event.info.time - datetime.now(UTC)).total_seconds()) < 60
        change = event["weights"]
        assert change.region == np.s_[0:1:1, 1:3:1]
        assert (change.value.tolist(), change.previous[0, 0, 0]) == ([[[1.0] * 5] * 2], 5)
        assert next(watch)["weights"].region is None
        assert watch.revision == 4
        with pytest.raises(KeyError):
            event["counter"]


def test_a_watch_begins_where_it_is_asked_to(
    client: varserve.Client, model: varserve.Model
) -> None:
    """After a snapshot, or a commit of the past; not in the future, nor in another epoch."""
    counter = model.variables["counter"]
    commits = [counter.assign(n) for n in range(5)]
    for after in (commits[1], commits[1].revision):
        with model.watch(after_revision=after) as watch:
            seen = [int(next(watch)["counter"].value) for _ in range(3)]
            assert seen == [2, 3, 4]
    snapshot = model.read(["counter"])
    counter.assign(9)
    with model.watch(after_revision=snapshot, values=False) as watch:
        assert next(watch)["counter"].value is None
    with pytest.raises(varserve.RevisionInFuture) as caught:
        model.watch(after_revision=99)
    assert caught.value.current_revision == 6
    with pytest.raises(varserve.VariableNotFound):
        model.watch("nothing*")
    with pytest.raises(varserve.EpochMismatch):
        client.watch_variables("fake", after_revision=0, epoch="another")


def test_values_that_fit_into_no_message_are_read(model: varserve.Model) -> None:
    """A large value comes with its event all the same, as the commit left it."""
    large = model.variables["large"]
    before = large.numpy()
    with model.watch(previous=True) as watch:
        large.assign(before + 1)
        large.assign(before + 2)
        for n in (1, 2):
            change = next(watch)["large"]
            np.testing.assert_array_equal(change.value, before + n)
            np.testing.assert_array_equal(change.previous, before + n - 1)
            assert change.nbytes == before.nbytes > MESSAGE_BYTES


def test_a_value_that_is_not_kept_any_more_is_none() -> None:
    """Where the history does not reach back to a large value any more, the event is without it."""
    live = LiveModel(fake_model(), history=History(max_commits=1))
    options = {"message_bytes": MESSAGE_BYTES, "chunk_bytes": CHUNK_BYTES}
    with serve_here(live, **options) as address, varserve.connect(address) as client:
        model = client.model("fake")
        large = model.variables["large"]
        value = large.numpy()
        with model.watch() as watch:
            large.assign(value)
            for n in range(3):
                model.variables["counter"].assign(n)
            assert next(watch)["large"].value is None
            assert int(next(watch)["counter"].value) == 0


def test_it_resumes_by_itself(scripted: Scripted) -> None:
    """After any failure that may pass it asks for what comes after the last event, in its epoch."""
    scripted.script["WatchVariables"] = [
        status(grpc.StatusCode.UNAVAILABLE),
        reply(bookmark(3), commit(4), commit(5, more=True)),
        status(grpc.StatusCode.UNAVAILABLE),
        fail("WATCH_TOO_SLOW", resume_revision="4"),
        fail("SHUTTING_DOWN"),
        fail("TOO_MANY_REQUESTS"),
        reply(bookmark(4), commit(5), bookmark(7)),
        reply(commit(8)),
        fail("EPOCH_MISMATCH"),
    ]
    with varserve.connect(scripted.address) as client:
        watch = client.watch_variables("m", values=False)
        assert watch.revision == 3
        assert [next(watch).revision for _ in range(3)] == [4, 5, 8]
        with pytest.raises(varserve.EpochMismatch):
            next(watch)
        assert list(watch) == []
    asked = [
        history_pb2.WatchVariablesRequest.FromString(*messages)
        for messages in scripted.requests["WatchVariables"]
    ]
    after = [(a.after_revision, a.epoch) if a.HasField("after_revision") else None for a in asked]
    assert after == [None, None, *[(4, "e")] * 5, (7, "e"), (8, "e")]


def test_its_patience_ends(scripted: Scripted) -> None:
    """When nobody has answered for so long, the failure is raised."""
    scripted.script["WatchVariables"] = [
        reply(bookmark(1)),
        status(grpc.StatusCode.UNAVAILABLE),
    ]
    with varserve.connect(scripted.address) as client:
        watch = client.watch_variables("m", patience=0.2)
        with pytest.raises(varserve.Unavailable):
            next(watch)


def test_its_patience_ends_over_one_event(scripted: Scripted) -> None:
    """A value that never comes is no event that comes again and again, for ever."""
    scripted.script["WatchVariables"] = [reply(bookmark(3), commit(4))]
    scripted.script["ReadVariables"] = [status(grpc.StatusCode.UNAVAILABLE)]
    with varserve.connect(scripted.address, retries=0) as client:
        watch = client.watch_variables("m", patience=0.2)
        with pytest.raises(varserve.Unavailable):
            next(watch)


def test_its_patience_is_not_for_its_reader(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who takes longer for an event than its patience is long misses nothing after a failure."""
    taken = 0.0
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + taken)
    monkeypatch.setattr("varserve._client.handles.watches.time", clock)
    scripted.script["WatchVariables"] = [
        reply(bookmark(3), commit(4)),
        status(grpc.StatusCode.UNAVAILABLE),
        fail("WATCH_TOO_SLOW", resume_revision="4"),
        reply(bookmark(4), commit(5)),
    ]
    with varserve.connect(scripted.address) as client:
        watch = client.watch_variables("m", values=False, patience=60)
        assert next(watch).revision == 4
        taken += 100
        assert next(watch).revision == 5


def test_it_ends_with_its_time_or_when_it_is_closed(model: varserve.Model) -> None:
    """A watch with a timeout just ends, and one that is closed by another thread too."""
    counter = model.variables["counter"]
    watch = model.watch(timeout=2)
    counter.assign(1)
    assert [event.revision for event in watch] == [1]
    watch = model.watch()
    timer = threading.Timer(0.1, watch.close)
    timer.start()
    assert list(watch) == []
    timer.join(60)


@pytest.mark.parametrize(
    "answer",
    [
        silent,
        status(grpc.StatusCode.UNAVAILABLE),
        reply(bookmark(3)),
    ],
    ids=["silent", "refused", "ended"],
)
def test_it_is_closed_by_another_thread_whatever_it_waits_for(
    scripted: Scripted, answer: Any
) -> None:
    """For its first message, for its next turn to connect, or for an event: its iteration ends."""
    ENDED.clear()
    scripted.script["WatchVariables"] = [reply(bookmark(3)), *[answer] * 1000]
    with varserve.connect(scripted.address) as client:
        watch = client.watch_variables("m", values=False, patience=3600)
        events: list[object] = []
        reading = threading.Thread(target=lambda: events.extend(watch))
        reading.start()
        until(lambda: len(scripted.requests.get("WatchVariables", ())) >= 2)
        watch.close()
        try:
            join([reading], 10)
        finally:
            ENDED.set()
        assert events == []
        assert list(watch) == []


def test_a_slow_reader_misses_nothing() -> None:
    """One who is cut off for slowness gets every commit all the same."""
    limits = EventLimits(waiting_bytes=50_000)
    live = LiveModel(fake_model(), watchers=Watchers(limits))
    small_window = [("grpc.http2.bdp_probe", 0)]
    with serve_here(live) as address, varserve.connect(address, options=small_window) as client:
        model = client.model("fake")
        watch = model.watch(after_revision=0)
        large = np.zeros((1000, 4), np.float32)
        for n in range(60):
            model.variables["table"].assign(large + n)
        assert len(live.timeline.watchers) == 0
        events = [next(watch) for _ in range(60)]
        assert [(e.revision, e["table"].value[7, 1]) for e in events] == [
            (n + 1, n) for n in range(60)
        ]


async def test_the_same_with_await(address: str) -> None:
    """`async for`; giving up an event in the middle of waiting for it loses none."""
    async with varserve.aio.connect(address) as client:
        model = await client.model("fake")
        counter = model.variables["counter"]
        with await model.watch("counter") as watch:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(anext(watch), 0.05)
            for n in range(5):
                await counter.assign(n)
            seen = []
            async for event in watch:
                seen.append(int(event["counter"].value))
                if len(seen) == 5:
                    break
            assert seen == list(range(5))
        assert [event async for event in watch] == []
        with pytest.raises(TypeError, match="async for"):
            iter(watch)


async def test_it_is_closed_by_async_with(address: str) -> None:
    """As everything else that is awaited; a watch that is not says `with`."""
    async with varserve.aio.connect(address) as client:
        model = await client.model("fake")
        async with await model.watch("counter") as watch:
            await model.variables["counter"].assign(1)
            assert (await anext(watch)).revision == 1
        assert [event async for event in watch] == []
    with varserve.connect(address) as blocking:
        watched = blocking.model("fake").watch()
        with pytest.raises(TypeError, match="with"), watched:
            await watched.__aenter__()  # type: ignore[misc]


def test_it_outlives_a_restart_with_the_state() -> None:
    """A watch goes on against the next process of the same state; another epoch is raised."""
    live = LiveModel(fake_model())
    with serve_here(live) as address:
        port = int(address.rsplit(":", 1)[1])
        client = varserve.connect(address)
        model = client.model("fake")
        watch = model.watch("counter")
        model.variables["counter"].assign(1)
        assert next(watch).revision == 1
    with serve_again(port, live):
        model.variables["counter"].assign(2)
        assert (next(watch).revision, watch.epoch) == (2, live.header.epoch)
    with serve_again(port, LiveModel(fake_model())), pytest.raises(varserve.EpochMismatch):
        next(watch)
    client.close()


@contextmanager
def serve_again(port: int, live: LiveModel, **options: Any) -> Iterator[None]:
    """The same address once more, as soon as it is free."""
    with ExitStack() as stack:

        def bound() -> bool:
            with suppress(OSError):
                stack.enter_context(serve_here(live, port=port, **options))
                return True
            return False

        until(bound, pause=0.05)
        yield
