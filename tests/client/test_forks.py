"""Processes that fork while their threads make calls: the child's calls are its own."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import varserve
from tests.waiting import until

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
SECONDS = 30.0


def in_child(work: Callable[[], Any]) -> Any:
    """What `work` gives in a forked child, or the error that it raises; never a hang."""
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe(duplex=False)

    def run() -> None:
        try:
            result: Any = work()
        except Exception as error:
            result = error
        theirs.send(result)

    child = context.Process(target=run)
    child.start()
    theirs.close()
    try:
        assert mine.poll(SECONDS), "the child hangs"
        return mine.recv()
    finally:
        child.kill()
        child.join()


@contextmanager
def busy(work: Callable[[], object], threads: int = 4) -> Iterator[list[int]]:
    """Threads that call `work` again and again; gives how often each was done."""
    done, stop = [0] * threads, threading.Event()
    failures: list[BaseException] = []

    def loop(number: int) -> None:
        try:
            while not stop.is_set():
                work()
                done[number] += 1
        except BaseException as error:
            failures.append(error)

    running = [threading.Thread(target=loop, args=(number,)) for number in range(threads)]
    for each in running:
        each.start()
    try:
        until(lambda: all(done) or failures)
        yield done
    finally:
        stop.set()
        for each in running:
            each.join(SECONDS)
    assert failures == []


def test_children_of_a_busy_process_make_calls(model: varserve.Model) -> None:
    """Each of many children reads and writes with inherited handles; the parent's calls go on."""
    weights, counter = model.variables["weights"], model.variables["counter"]
    expected = weights.numpy()

    def call() -> Any:
        counter.assign_add(1)
        return weights.numpy(timeout=5), model.variables["large"].numpy(timeout=5).size

    with busy(lambda: (weights.numpy(), model.read(["large"]))) as done:
        for _ in range(10):
            values, size = in_child(call)
            assert np.array_equal(values, expected)
            assert size == 100_003
        before = list(done)
        until(lambda: all(now > then for now, then in zip(done, before, strict=True)))
    assert counter.numpy() == 7 + 10


def test_a_timeout_is_kept_in_a_child(client: varserve.Client, model: varserve.Model) -> None:
    """A child whose call cannot be answered has its failure when its time is over."""

    def call() -> float:
        began = time.monotonic()
        with (
            varserve.connect("192.0.2.1:9", retries=0) as other,
            pytest.raises(varserve.VarserveError),
        ):
            other.models(timeout=0.5)
        return time.monotonic() - began

    with busy(lambda: client.models()):
        assert 0 < in_child(call) < 10


def test_a_watch_goes_on_in_parent_and_child(model: varserve.Model) -> None:
    """A fork does not wait for a silent watch, and neither side misses a commit."""
    counter = model.variables["counter"]
    with model.watch("counter", timeout=SECONDS) as watch:
        events: list[varserve.Event] = []
        reading = threading.Thread(target=lambda: events.extend([next(watch)]))
        reading.start()

        def call() -> int:
            with model.watch("counter", timeout=SECONDS) as own:
                counter.assign(11)
                return next(own).revision

        began = time.monotonic()
        revision = in_child(call)
        assert time.monotonic() - began < 10
        reading.join(SECONDS)
        assert [event.revision for event in events] == [revision]
        counter.assign(12)
        assert next(watch).revision == revision + 1


def test_a_watch_of_the_parent_is_iterated_in_the_child(model: varserve.Model) -> None:
    """An inherited watch goes on after the last event that the parent was given."""
    counter = model.variables["counter"]
    with model.watch("counter", timeout=SECONDS) as watch:
        first = counter.assign(1).revision
        assert next(watch).revision == first
        second = counter.assign(2).revision
        assert in_child(lambda: next(watch).revision) == second
        assert next(watch).revision == second


def test_a_child_of_a_child(model: varserve.Model) -> None:
    """Forks of forks are no other."""
    value = model.variables["counter"]

    def call() -> Any:
        value.numpy()
        return in_child(lambda: int(value.numpy()))

    with busy(value.numpy):
        assert in_child(call) == 7


def test_a_fork_during_a_call_that_lasts(
    model: varserve.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a bounded wait the child is made nevertheless; its calls fail at once, and say why."""
    from varserve._client.transport import forks

    monkeypatch.setattr(forks, "_LONGEST_WAIT", 0.2)
    inside, leave = threading.Event(), threading.Event()

    def call() -> None:
        with forks.GATE:
            inside.set()
            leave.wait(SECONDS)

    thread = threading.Thread(target=call)
    thread.start()
    assert inside.wait(SECONDS)
    try:
        error = in_child(lambda: model.variables["counter"].numpy())
    finally:
        leave.set()
        thread.join(SECONDS)
    assert isinstance(error, varserve.FailedPrecondition)
    assert "spawn" in str(error)
    assert model.variables["counter"].numpy() == 7


def test_a_fork_beside_an_asyncio_client(address: str) -> None:
    """Blocking clients work in the child; an asyncio client says that it does not, at once."""
    code = textwrap.dedent(
        f"""
        import asyncio, os, sys, varserve

        def models():
            with varserve.connect({address!r}) as client:
                return len(client.models(timeout=5))

        async def awaited():
            async with varserve.aio.connect({address!r}) as client:
                return len(await client.models(timeout=5))

        async def main():
            async with varserve.aio.connect({address!r}) as client:
                await client.models()
                pid = os.fork()
                if pid == 0:
                    return True
                _, status = os.waitpid(pid, 0)
                sys.exit(os.waitstatus_to_exitcode(status))

        if asyncio.run(main()):
            assert models() == 1
            try:
                asyncio.run(awaited())
            except varserve.FailedPrecondition as error:
                os._exit(0 if "an asyncio client was open" in str(error) else 1)
            os._exit(2)
        """
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)


# ---- event loops ----


def test_a_second_event_loop(address: str) -> None:
    """When a client's loop has ended it is used in the next one."""
    client = varserve.aio.connect(address)

    async def ask() -> int:
        model = await client.model("fake")
        return int(await model.variables["counter"].numpy())

    assert [asyncio.run(ask()) for _ in range(3)] == [7, 7, 7]
    asyncio.run(client.close())


def test_two_event_loops_at_once(address: str) -> None:
    """A loop that goes on keeps its client: another one is told to connect for itself."""
    client = varserve.aio.connect(address)
    ready, leave = threading.Event(), threading.Event()

    async def hold() -> None:
        await client.models()
        ready.set()
        await asyncio.to_thread(leave.wait, SECONDS)
        assert await client.models()
        await client.close()

    thread = threading.Thread(target=lambda: asyncio.run(hold()))
    thread.start()
    try:
        assert ready.wait(SECONDS)

        async def ask() -> None:
            await client.models()

        with pytest.raises(varserve.InvalidRequest, match="another event loop"):
            asyncio.run(ask())
    finally:
        leave.set()
        thread.join(SECONDS)
