"""Streams by the thousand: left alone, cancelled, or not read, they cost others nothing."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import varserve
from tests.conftest import Serve
from tests.faults import heap_service
from tests.rpc.requests import read, watch
from tests.rpc.wire import outcome_of
from tests.waiting import read_line
from varserve.v1 import model_service_pb2_grpc as pb_grpc

WATCHES = 1_000
WATCHES_OF_ONE = 250  # connection
CALLS = 300
ROUNDS = 5
TWICE = 2.0

CANCELLED = 20_000
HEAP_BYTES = 16
AT_ONCE = 50

FAST = 50
COMMITS = 150
SLOWER = 1.2
# What differences of clocks and schedulers are, when times are this short.
LEAST_SECONDS = 0.002


@asynccontextmanager
async def stubs(address: str) -> AsyncIterator[tuple[Any, Any]]:
    """Stubs of the service and of health, on a connection of their own."""
    own = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.insecure_channel(address, options=own) as channel:
        yield pb_grpc.ModelServiceStub(channel), health_pb2_grpc.HealthStub(channel)


async def p99(act: Callable[[], Awaitable[object]]) -> float:
    """Seconds that 99 % of calls take at most."""
    seconds = []
    for _ in range(CALLS):
        started = time.perf_counter()
        await act()
        seconds.append(time.perf_counter() - started)
    return float(np.percentile(seconds, 99))


@pytest.mark.alone
async def test_a_thousand_watches_cost_others_nothing(serve: Serve) -> None:
    """With 1,000 watches open a read's p99 is at most twice that without, and health answers.

    Then one commit reaches all of them. The best of some rounds counts: each opens the watches and
    hangs up again, so that both sides of a ratio have the same machine.
    """
    ratios = []
    with serve("counter") as service:
        async with AsyncExitStack() as stack:
            stub, health = await stack.enter_async_context(stubs(service.address))
            others = [
                (await stack.enter_async_context(stubs(service.address)))[0]
                for _ in range(WATCHES // WATCHES_OF_ONE)
            ]
            request = read(variable="v")
            threads = thread_count(service.pid)
            await p99(lambda: stub.ReadVariable(request))
            for _ in range(ROUNDS):
                idle = await p99(lambda: stub.ReadVariable(request))
                streams = [
                    other.WatchVariables(watch(values=True))
                    for other in others
                    for _ in range(WATCHES_OF_ONE)
                ]
                for stream in streams:
                    assert not (await stream.read()).HasField("commit")
                busy = await p99(lambda: stub.ReadVariable(request))
                checked = await p99(lambda: health.Check(health_pb2.HealthCheckRequest()))
                ratios.append((busy / idle, checked / idle))
                print({"idle": idle, "with watches": busy, "health": checked})
                if max(ratios[-1]) <= TWICE:
                    break
                for stream in streams:
                    stream.cancel()
            assert max(min(ratios, key=max)) <= TWICE, ratios
            assert thread_count(service.pid) <= threads + 20
            with varserve.connect(service.address) as client:
                revision = client.assign_variable("counter", "count", np.int64(7)).revision
            for stream in streams:
                event = await stream.read()
                assert event.header.revision == revision
            found = await health.Check(health_pb2.HealthCheckRequest(), timeout=30)
            assert found.status == health_pb2.HealthCheckResponse.SERVING
            for stream in streams:
                stream.cancel()


def thread_count(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


@contextmanager
def counted_service() -> Iterator[tuple[str, Callable[[], int]]]:
    """The address of a service on fakes, and what asks for the bytes of its heap."""
    with subprocess.Popen(
        [sys.executable, "-m", heap_service.__name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONMALLOC": "malloc"},
    ) as process:
        assert process.stdin is not None

        def heap() -> int:
            print(file=process.stdin, flush=True)
            return int(read_line(process))

        yield read_line(process), heap
        process.stdin.close()


async def cancel_streams(stub: Any, count: int) -> None:
    """Open a watch, wait for its first message, cancel it; so many at once."""

    async def one_after_the_other(number: int) -> None:
        for _ in range(number):
            stream = stub.WatchVariables(watch(values=True))
            await stream.read()
            stream.cancel()

    await asyncio.gather(*(one_after_the_other(count // AT_ONCE) for _ in range(AT_ONCE)))


async def settled(heap: Callable[[], int]) -> int:
    """The heap when nothing is going on any more: the least of several looks."""
    found = []
    for _ in range(10):
        found.append(heap())
        await asyncio.sleep(0.2)  # the pace of the looks, not a wait for something
    return min(found)


@pytest.mark.full
@pytest.mark.timeout(1800)
async def test_cancelled_streams_leave_nothing_behind() -> None:
    """20,000 watches that are cancelled: at most 16 bytes of heap for each."""
    with counted_service() as (address, heap):
        async with stubs(address) as (stub, _):
            await cancel_streams(stub, CANCELLED // 4)
            before = await settled(heap)
            await cancel_streams(stub, CANCELLED)
            after = await settled(heap)
    print({"bytes for each stream": (after - before) / CANCELLED})
    assert after - before <= HEAP_BYTES * CANCELLED


@pytest.mark.alone
@pytest.mark.full
@pytest.mark.timeout(1800)
async def test_a_watcher_that_reads_nothing_does_not_slow_others(serve: Serve) -> None:
    """Beside it the p99 of 50 others, from commit to event, is at most 1.2 times that without.

    What waits for it is bounded: it is closed, and told the revision to go on from. The best of
    some rounds counts, each with and without it.
    """
    ratios: list[float] = []
    with serve("uniform") as service:
        async with stubs(service.address) as (stub, _), stubs(service.address) as (other, _):
            fast = [stub.WatchVariables(watch(model="uniform")) for _ in range(FAST)]
            for stream in fast:
                await stream.read()
            await told_after(service.address, fast, COMMITS // 3)
            while len(ratios) < ROUNDS and min(ratios, default=9) > SLOWER:
                alone = await told_after(service.address, fast, COMMITS)
                slow = other.WatchVariables(watch(model="uniform", values=True))
                first = (await slow.read()).header.revision
                beside = await told_after(service.address, fast, COMMITS)
                print({"alone": alone, "beside one that reads nothing": beside})
                ratios.append(max(beside, LEAST_SECONDS) / max(alone, LEAST_SECONDS))
                revisions: list[int] = []
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await drain(slow, revisions)
                told = outcome_of(caught.value).failure
                assert told.reason == "WATCH_TOO_SLOW"
                assert told.metadata["resume_revision"] == str(revisions[-1])
                assert revisions == list(range(first + 1, revisions[-1] + 1))
                assert len(revisions) < COMMITS
    assert min(ratios) <= SLOWER, ratios


async def drain(stream: Any, revisions: list[int]) -> None:
    """All that there is to read, until the stream fails."""
    while True:
        revisions.append((await stream.read()).header.revision)


async def told_after(address: str, streams: list[Any], commits: int) -> float:
    """Seconds from a commit of 1 MiB to its event, for 99 % of the events of all streams."""
    asked: dict[int, float] = {}

    def write() -> None:
        with varserve.connect(address) as client:
            big = client.model("uniform").variables["big"]
            rows = np.zeros((256, 1024), np.float32)
            for number in range(commits):
                began = time.perf_counter()
                asked[big[0:256].assign(rows + number).revision] = began
                time.sleep(0.01)  # the pace of the commits, not a wait for something

    async def follow(stream: Any) -> list[tuple[int, float]]:
        heard = []
        while len(heard) < commits:
            message = await stream.read()
            if message.HasField("commit"):
                heard.append((message.header.revision, time.perf_counter()))
        return heard

    following = asyncio.gather(*(follow(stream) for stream in streams))
    writer = threading.Thread(target=write)
    writer.start()
    heard = await following
    await asyncio.to_thread(writer.join)
    return float(
        np.percentile([at - asked[revision] for each in heard for revision, at in each], 99)
    )
