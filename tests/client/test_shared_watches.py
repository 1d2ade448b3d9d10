"""Watches of one client share a stream: each is as if it had one of its own."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import numpy as np
import pytest

import varserve
from tests.serving import serve_here
from tests.waiting import join, until, until_async
from varserve._client.transport.watch_sessions import base as watch_sessions
from varserve_service.core.commit.watchers import EventLimits, Watchers
from varserve_service.core.model.live_model import LiveModel
from varserve_service.rpc import Access
from varserve_service.rpc.calls.observers import CallObserver

from .scripted import Scripted, fail, reply, status
from .served import fake_model
from .test_watches import bookmark, commit, serve_again


class Calls(CallObserver):
    """Counts the calls in progress by method."""

    def __init__(self) -> None:
        self.now: Counter[str] = Counter()

    def started(self, call: Any) -> None:
        self.now[call.method.name] += 1

    def ended(self, call: Any) -> None:
        self.now[call.method.name] -= 1


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def served(calls: Calls) -> Iterator[str]:
    with serve_here(LiveModel(fake_model()), observers=[calls]) as address:
        yield address


def test_all_but_the_first_share_a_stream(served: str, calls: Calls) -> None:
    """Each watch has every commit of its own variables, whatever the others do; closing one ends
    it alone."""
    with varserve.connect(served) as client, ExitStack() as stack:
        model = client.model("fake")
        watches = [stack.enter_context(model.watch("counter")) for _ in range(20)]
        other = stack.enter_context(model.watch("weights"))
        assert calls.now["WatchSession"] == 1
        assert calls.now["WatchVariables"] == 21
        for n in range(3):
            model.variables["counter"].assign(n)
        for watch in watches:
            assert [int(next(watch)["counter"].value) for _ in range(3)] == [0, 1, 2]
        watches[5].close()
        until(lambda: calls.now["WatchVariables"] == 20)
        model.variables["weights"].assign(np.zeros((3, 4, 5), np.float32))
        assert next(other).revision == 4
        model.variables["counter"].assign(9)
        assert int(next(watches[6])["counter"].value) == 9
        assert list(watches[5]) == []


@pytest.mark.parametrize("sessions", [True, False])
def test_an_event_is_made_once_and_nobody_can_change_it(served: str, sessions: bool) -> None:
    """Watches of one message give the same event; arrays of an event cannot be written to."""
    with varserve.connect(served, sessions=sessions) as client:
        model = client.model("fake")
        one, two = model.watch("weights", previous=True), model.watch("weights", previous=True)
        model.variables["weights"].assign(np.zeros((3, 4, 5), np.float32))
        model.variables["weights"].scatter_update([2, 0], np.ones((2, 4, 5), np.float32))
        for _ in range(2):
            event, other = next(one), next(two)
            assert (event is other) == sessions
            change = event["weights"]
            for array in (change.value, change.previous, change.region):
                if array is not None:
                    with pytest.raises(ValueError, match="read-only"):
                        array[...] = 7
        assert change.region.tolist() == [2, 0]
        one.close()
        two.close()


async def test_the_same_with_await(served: str, calls: Calls) -> None:
    """Tasks share one too; giving up waiting for an event loses none."""
    async with varserve.aio.connect(served) as client:
        model = await client.model("fake")
        watches = [await model.watch("counter") for _ in range(20)]
        assert calls.now["WatchSession"] == 1
        for watch in watches:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(watch), 0.01)
        for n in range(3):
            await model.variables["counter"].assign(n)
        for watch in watches:
            assert [int((await anext(watch))["counter"].value) for _ in range(3)] == [0, 1, 2]
            watch.close()
        await until_async(lambda: not calls.now["WatchVariables"])


@pytest.mark.parametrize("shared", [True, False])
def test_a_watch_that_nobody_has_ends(served: str, calls: Calls, shared: bool) -> None:
    """A watch that is dropped is no longer watched."""
    with varserve.connect(served, sessions=True if shared else None) as client:
        watch = client.model("fake").watch()
        assert calls.now["WatchVariables"] == 1
        del watch
        gc.collect()
        until(lambda: not calls.now["WatchVariables"])


def test_a_timeout_ends_one_and_a_close_ends_all(served: str) -> None:
    """A shared watch ends at its own time, or by another thread; a closed client says so."""
    client = varserve.connect(served, sessions=True)
    model = client.model("fake")
    short, other = model.watch(timeout=0.3), model.watch()
    assert list(short) == []
    timer = threading.Timer(0.1, other.close)
    timer.start()
    assert list(other) == []
    timer.join(60)
    last = model.watch()
    closing = threading.Timer(0.1, client.close)
    closing.start()
    with pytest.raises(varserve.ClientClosed):
        next(last)
    closing.join(60)


def test_a_reader_that_does_not_read_holds_up_no_other() -> None:
    """Another watch of the same client has every commit meanwhile; the slow one misses none."""
    limits = EventLimits(waiting_bytes=2 << 20)
    live = LiveModel(fake_model(), watchers=Watchers(limits))
    with serve_here(live) as address, varserve.connect(address, sessions=True) as client:
        model = client.model("fake")
        slow, fast = model.watch("table"), model.watch("table")
        large = np.zeros((1000, 4), np.float32)
        count = 300
        for n in range(count):
            model.variables["table"].assign(large + n)
            assert next(fast).revision == n + 1
        events = [next(slow) for _ in range(count)]
        assert [(e.revision, e["table"].value[7, 1]) for e in events] == [
            (n + 1, n) for n in range(count)
        ]


def test_all_outlive_a_restart_with_the_state(calls: Calls) -> None:
    """Each goes on after its own last event, and they share a stream again."""
    live = LiveModel(fake_model())
    with serve_here(live) as address:
        port = int(address.rsplit(":", 1)[1])
        client = varserve.connect(address)
        model = client.model("fake")
        watches = [model.watch("counter") for _ in range(10)]
        model.variables["counter"].assign(1)
        assert [next(watch).revision for watch in watches[:5]] == [1] * 5
    with serve_again(port, live, observers=[calls]):
        reading = [threading.Thread(target=next, args=(watch,)) for watch in watches[5:]]
        for thread in reading:
            thread.start()
        join(reading, 30)
        assert {watch.revision for watch in watches} == {1}
        model.variables["counter"].assign(2)
        seen: list[int] = []
        reading = [
            threading.Thread(target=lambda each=watch: seen.append(next(each).revision))
            for watch in watches
        ]
        for thread in reading:
            thread.start()
        join(reading, 30)
        assert seen == [2] * 10
        assert calls.now["WatchSession"] == 1
    client.close()


def test_a_service_without_shared_streams_is_watched_all_the_same(scripted: Scripted) -> None:
    """An older service has none: each watch is a call, and no other tries again."""
    scripted.script["WatchVariables"] = [reply(bookmark(3), commit(4))]
    with varserve.connect(scripted.address, sessions=True) as client:
        for _ in range(3):
            watch = client.watch_variables("m", values=False)
            assert next(watch).revision == 4
            watch.close()
    assert len(scripted.requests["WatchVariables"]) >= 3


def test_a_stream_that_is_held_up_is_not_used(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where something between lets no shared stream through, watches are calls after a while."""
    monkeypatch.setattr(watch_sessions, "_PROOF_SECONDS", 0.2)
    ended = threading.Event()

    def silent(requests: list[bytes], context: grpc.ServicerContext) -> list[bytes]:
        ended.wait(30)
        return []

    scripted.script["WatchSession"] = [silent]
    scripted.script["WatchVariables"] = [reply(bookmark(3), commit(4))]
    try:
        with varserve.connect(scripted.address, sessions=True) as client:
            began = time.monotonic()
            watch = client.watch_variables("m", values=False)
            assert next(watch).revision == 4
            assert time.monotonic() - began < 10
            assert next(client.watch_variables("m", values=False)).revision == 4
            assert len(scripted.requests.get("WatchSession", ())) <= 1
    finally:
        ended.set()


@pytest.mark.parametrize(
    "answer", [status(grpc.StatusCode.INTERNAL), fail("REQUEST_MALFORMED"), reply()]
)
def test_a_stream_that_fails_at_once_is_not_used(scripted: Scripted, answer: Any) -> None:
    """A shared stream that ends before it gave anything: the watch is a call."""
    scripted.script["WatchSession"] = [answer]
    scripted.script["WatchVariables"] = [reply(bookmark(3), commit(4))]
    with varserve.connect(scripted.address, sessions=True) as client:
        watch = client.watch_variables("m", values=False)
        assert next(watch).revision == 4


class Tokens:
    """Callers are who their tokens say."""

    async def subject(self, context: Any) -> str:
        return str(dict(context.invocation_metadata())["authorization"]).removeprefix("Bearer ")


def test_a_new_token_begins_a_stream_of_its_own(calls: Calls) -> None:
    """Watches that began with the old credential go on with it."""
    names = ["ann"]
    access = Access(authenticator=Tokens())
    with (
        serve_here(LiveModel(fake_model()), access=access, observers=[calls]) as address,
        varserve.connect(address, token=lambda: names[0], sessions=True) as client,
    ):
        watches = [client.watch_variables("fake", "counter")]
        names[0] = "bob"
        watches += [client.watch_variables("fake", "counter") for _ in range(2)]
        assert calls.now["WatchSession"] == 2
        client.model("fake").variables["counter"].assign(1)
        assert [next(watch).revision for watch in watches] == [1] * 3
