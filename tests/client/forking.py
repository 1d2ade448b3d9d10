"""Processes that fork while their threads make calls: the child's calls are its own.

Run by `test_forks.py` in a process that no server has been in.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import varserve
from tests.waiting import until
from varserve._client.transport import forks

from .conftest import Service

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
SECONDS = 60.0
"""For what takes milliseconds: machines may be busy."""


@pytest.fixture
def address(elsewhere: Service) -> Iterator[str]:
    """Of a service in another process: a server of this one would be inside gRPC at each fork."""
    with elsewhere() as address:
        yield address


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
        child.join(SECONDS)


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
        large = model.variables["large"]
        return weights.numpy(timeout=SECONDS / 3), large.numpy(timeout=SECONDS / 3).size

    spread = model.functions["spread"]

    def work() -> None:
        weights.numpy()
        model.read(["table"])
        spread(n=np.int32(2_000))  # streams both ways

    with busy(work) as done:
        for _ in range(10):
            found = in_child(call)
            assert not isinstance(found, Exception), found
            values, size = found
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


def test_watches_that_share_a_stream_go_on_in_parent_and_child(address: str) -> None:
    """The child has streams of its own, and the parent's resume, one that is being read as well."""
    with varserve.connect(address, sessions=True) as client:
        model = client.model("fake")
        counter = model.variables["counter"]
        with (
            model.watch("counter", timeout=SECONDS) as read,
            model.watch("counter", timeout=SECONDS) as silent,
        ):
            events: list[varserve.Event] = []
            reading = threading.Thread(target=lambda: events.extend([next(read)]))
            reading.start()

            def call() -> list[int]:
                with model.watch("counter", timeout=SECONDS) as own:
                    counter.assign(11)
                    return [next(own).revision, next(silent).revision]

            began = time.monotonic()
            revision, inherited = in_child(call)
            assert time.monotonic() - began < 10
            reading.join(SECONDS)
            assert [event.revision for event in events] == [revision]
            assert next(silent).revision == inherited == revision


def test_a_mirror_follows_in_the_child(model: varserve.Model) -> None:
    """Parent and child each have a copy that follows the commits."""
    counter = model.variables["counter"]
    with model.mirror("counter") as mirror:

        def call() -> tuple[bool, int]:
            revision = counter.assign(21).revision
            return mirror.wait_for(revision, SECONDS), int(mirror["counter"])

        assert in_child(call) == (True, 21)
        assert mirror.wait_for(model.variables["counter"].assign(22).revision, SECONDS)
        assert mirror["counter"] == 22


def test_a_child_of_a_child(model: varserve.Model) -> None:
    """Forks of forks are no other."""
    value = model.variables["counter"]

    def call() -> Any:
        value.numpy()
        return in_child(lambda: int(value.numpy()))

    with busy(value.numpy):
        assert in_child(call) == 7


def test_sessions_on_the_lane_are_of_one_process(elsewhere: Service, tmp_path: Path) -> None:
    """A child leaves the parent's connection alone, and has its own; a fork in the middle, too."""
    with (
        elsewhere(str(tmp_path / "lane")) as address,
        varserve.connect(address, sessions=True) as client,
    ):

        def on_lane() -> bool:
            client.read_variable("fake", "counter", timeout=SECONDS)
            connection = client._driver._session._connection
            return connection is not None and connection.is_used

        def call() -> bool:
            until(on_lane, SECONDS)
            client.model("fake").variables["counter"].assign_add(1)
            return client._driver._session._connection is not None

        until(on_lane, SECONDS)
        with busy(on_lane) as done:
            for _ in range(5):
                assert in_child(call) is True
                before = done[0]
                until(lambda before=before: done[0] > before + 5, SECONDS)
        until(on_lane, SECONDS)
        assert client.read_variable("fake", "counter").value == 12


def test_a_fork_during_a_call_that_lasts(
    model: varserve.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a bounded wait the child is made nevertheless; its calls fail at once, and say why."""
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


def forking() -> bool:
    """A fork waits until no thread is inside the gate."""
    return forks.GATE._forking > 0


def inside_meanwhile(model: varserve.Model, work: Callable[[], object]) -> Any:
    """What a child reads that is forked while a thread inside the gate does `work`."""
    inside = threading.Event()
    failures: list[BaseException] = []

    def call() -> None:
        try:
            with forks.GATE:
                inside.set()
                until(forking, SECONDS)
                work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    assert inside.wait(SECONDS)
    found = in_child(lambda: int(model.variables["counter"].numpy()))
    thread.join(SECONDS)
    assert not failures
    return found


def test_a_fork_while_a_thread_enters_the_gate_again(model: varserve.Model) -> None:
    """A call that begins inside another is not kept for the fork that waits for both."""

    def work() -> None:
        with forks.GATE, forks.GATE:
            pass
        model.variables["counter"].numpy()
        assert forking(), "the fork did not wait for the outer call"

    assert inside_meanwhile(model, work) == 7


def test_a_fork_while_clients_open_their_channel(address: str, model: varserve.Model) -> None:
    """A thread that waits for a fork holds no lock that a thread inside the gate needs."""
    with varserve.connect(address) as other:
        opening = threading.Thread(target=other.models)

        def work() -> None:
            opening.start()
            until(lambda: len(forks.GATE._changed._waiters) == 2, SECONDS)  # type: ignore[attr-defined]
            assert other.models()
            assert forking(), "the fork did not wait for the call"

        assert inside_meanwhile(model, work) == 7
        opening.join(SECONDS)
        assert not opening.is_alive()


def test_a_fork_in_the_middle_of_a_call_of_its_own_thread(
    model: varserve.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not wait for itself; the child's calls fail at once, and say why."""
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        raise AssertionError

    monkeypatch.setattr(forks.GATE._changed, "wait", wait)
    with forks.GATE:
        error = in_child(lambda: model.variables["counter"].numpy())
    assert not waits
    assert isinstance(error, varserve.FailedPrecondition)
    assert "spawn" in str(error)


def test_a_fork_beside_an_asyncio_client(address: str) -> None:
    """A child of a process with an open asyncio client is told so at once; not of a closed one."""
    code = textwrap.dedent(
        f"""
        import asyncio, os, sys, varserve

        def ask():
            try:
                with varserve.connect({address!r}) as client:
                    return len(client.models(timeout={SECONDS / 3}))
            except varserve.FailedPrecondition as error:
                return 10 if "an asyncio client was open" in str(error) else 11

        def in_child():
            pid = os.fork()
            if pid == 0:
                os._exit(ask())
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

        async def main():
            async with varserve.aio.connect({address!r}) as client:
                await client.models()
                return in_child()

        print(asyncio.run(main()), in_child())
        """
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "10 1\n"
