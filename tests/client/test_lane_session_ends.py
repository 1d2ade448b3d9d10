"""Sessions on the lane that break, are cut off or interrupted: each call has its outcome."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import varserve
import varserve.aio
from tests.client.lane_serving import Served, on_lane, on_lane_aio, serving
from tests.waiting import join, until
from varserve import lane
from varserve_service.core.errors import Reason, RequestError
from varserve_service.rpc.services import session_lane


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(str(tmp_path / "lane")) as found:
        yield found


def test_a_wrong_length_ends_the_session(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says so, with either client; the next call has a new session."""

    def wrong(message: bytes) -> bytes:
        return (1 << 31).to_bytes(4, "little") + message

    def spoiled(**names: Any) -> None:
        monkeypatch.setattr(session_lane, "lane", SimpleNamespace(**(vars(lane) | names)))

    with served.connect() as client:
        on_lane(client)
        spoiled(with_length=wrong)
        with pytest.raises(varserve.Unavailable, match="found the length 2147483648"):
            client.read_variable("counter", "v")
        spoiled()
        on_lane(client)

    async def main() -> None:
        async with varserve.aio.connect(served.address, sessions=True, retries=0) as client:
            await on_lane_aio(client)
            spoiled(with_length=wrong)
            with pytest.raises(varserve.Unavailable, match="found the length 2147483648"):
                await client.read_variable("counter", "v")
            spoiled()
            await on_lane_aio(client)

    asyncio.run(main())


def test_a_broken_connection_breaks_the_session(served: Served) -> None:
    """A read is made again, within its retries; what may not arrive twice fails."""

    def cut(session: Any) -> None:
        session._connection._transport.abort()

    with served.connect(retries=2) as client:
        for again in (True, False):
            on_lane(client)
            before = client._driver._session
            served.gate.reached.clear()
            outcomes: list[Any] = []

            def held(client: varserve.Client = client, outcomes: list[Any] = outcomes) -> None:
                try:
                    outcomes.append(client.run_function("counter", "held", {}))
                except varserve.VarserveError as error:
                    outcomes.append(error)

            if again:
                served.each_session(cut)
                assert client.read_variable("counter", "v").value.tolist() == [1, 1, 1]
            else:
                thread = threading.Thread(target=held)
                thread.start()
                assert served.gate.reached.wait(30)
                served.each_session(cut)
                served.gate.opened.set()
                join([thread])
                assert [type(each) for each in outcomes] == [varserve.Unavailable]
            assert client._driver._session is not before or not again
        assert served.seen.begun.count("RunFunction") == 1


def test_why_a_session_was_cut_off_is_told(served: Served) -> None:
    """The stream's status has the reason; a call in progress fails with it."""

    def cut_off(session: Any) -> None:
        session.cut_off(RequestError(Reason.OUT_OF_MEMORY, "others needed the memory"))

    async def main() -> None:
        async with varserve.aio.connect(served.address, sessions=True, retries=0) as client:
            await on_lane_aio(client)
            call = asyncio.create_task(client.run_function("counter", "held", {}))
            await asyncio.to_thread(served.gate.reached.wait, 30)
            served.each_session(cut_off)
            with pytest.raises(varserve.Unavailable, match="others needed the memory"):
                await call

    with served.connect() as client, ThreadPoolExecutor(1) as pool:
        on_lane(client)
        call = pool.submit(client.run_function, "counter", "held", {})
        assert served.gate.reached.wait(30)
        served.each_session(cut_off)
        with pytest.raises(varserve.Unavailable, match="others needed the memory"):
            call.result(30)
    served.gate.reached.clear()
    asyncio.run(main())


def test_sessions_that_end_do_nothing_twice(served: Served) -> None:
    """While sessions end again and again, a call that may not be repeated is done once, or fails.

    Whether a call has begun is told by the stream, and its answer comes on the lane.
    """
    ended = threading.Event()
    counts = {"done": 0, "unknown": 0}
    changing = threading.Lock()

    def end_all() -> None:
        rng = random.Random(5)
        while not ended.wait(rng.uniform(0.001, 0.02)):
            served.each_session(lambda session: session.end())

    def counted(kind: str) -> None:
        with changing:
            counts[kind] += 1

    def work(client: varserve.Client) -> None:
        for _ in range(60):
            client.run_function("counter", "add", {"n": np.int64(1)})
            counted("done")

    async def work_aio(client: Any) -> None:
        for _ in range(60):
            try:
                await client.run_function("counter", "add", {"n": np.int64(1)})
                counted("done")
            except varserve.Unavailable:  # grpc.aio has lost the end of the stream
                counted("unknown")

    async def main() -> None:
        async with varserve.aio.connect(served.address, sessions=True, retries=0) as client:
            client._driver._usage.failed = lambda: None  # type: ignore[method-assign]
            await asyncio.gather(*(work_aio(client) for _ in range(8)))

    ender = threading.Thread(target=end_all)
    ender.start()
    try:
        with served.connect() as client, ThreadPoolExecutor(8) as pool:
            client._driver._usage.failed = lambda: None  # type: ignore[method-assign]
            list(pool.map(work, [client] * 8))
            assert client.read_variable("counter", "count").value == 480
        asyncio.run(main())
    finally:
        ended.set()
        join([ender])
    assert served.seen.begun.count("Session") > 10, "too few sessions ended"
    with served.connect() as client:
        added = client.read_variable("counter", "count").value
    assert counts["done"] <= added <= counts["done"] + counts["unknown"]


def test_an_answer_that_came_before_the_end_counts(served: Served) -> None:
    """The stream has ended well, and nobody has received yet: the call is not made again."""
    with (
        served.connect() as client,
        served.connect(lane=False) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        on_lane(client)
        session = client._driver._session
        with session._connection.reading:  # nobody else receives
            call = pool.submit(client.run_function, "counter", "add", {"n": np.int64(1)})
            until(lambda: other.read_variable("counter", "count").value == 1)
            served.each_session(lambda each: each.end())
            until(lambda: session._stream.end is not None)
        assert call.result(30)["count"] == 1
        assert other.read_variable("counter", "count").value == 1
    assert served.seen.begun.count("RunFunction") == 1


INTERRUPTED = """
import faulthandler, random, signal, sys, threading, time
import numpy as np
import varserve

rng = random.Random(int(sys.argv[2]))
client = varserve.connect(sys.argv[1], sessions=True)
stop, asking = threading.Event(), threading.Event()
wrong, done = [], [0]

def work(number):
    x = np.full(100, number, np.float32)
    while not stop.is_set():
        try:
            found = client.run_function("counter", "total", {"x": x}, timeout=20)
            if found["output_0"] != number * 100:
                wrong.append(found)
            done[0] += 1
        except varserve.Unavailable:
            pass  # the session was given up
        except BaseException as error:
            wrong.append(error)

def interrupt():
    while not stop.is_set():
        time.sleep(rng.uniform(0.0005, 0.01))
        if asking.is_set():
            asking.clear()
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

def handle(*_):
    raise KeyboardInterrupt

def warm_up():  # imports that are interrupted are Python's own fault
    for _ in range(20):
        client.read_variable("counter", "v")
        client.run_function("counter", "total", {"x": np.zeros(1, np.float32)})
        time.sleep(0.01)
    try:
        client.read_variable("nothing", "v", timeout=1e-5)
    except varserve.VarserveError:
        pass

warm_up()
signal.signal(signal.SIGINT, handle)
threads = [threading.Thread(target=work, args=[n], daemon=True) for n in range(4)]
threads.append(threading.Thread(target=interrupt, daemon=True))
for thread in threads:
    thread.start()
interrupted = calls = 0
until = time.monotonic() + 60
while interrupted < 100 and time.monotonic() < until:
    try:
        while True:
            client.read_variable("counter", "v", timeout=20)
            calls += 1
            connection = client._driver._session._connection
            if connection is not None and connection.is_used:
                asking.set()
    except KeyboardInterrupt:
        interrupted += 1
    except varserve.Unavailable:
        pass
stop.set()
faulthandler.dump_traceback_later(15, exit=True)
for thread in threads:
    thread.join()
faulthandler.cancel_dump_traceback_later()
print(interrupted == 100, calls > 0, done[0] > 0, wrong[:3])
client.close()
"""


@pytest.mark.parametrize("seed", [1, 2])
def test_an_interrupt_disturbs_no_other_thread(served: Served, seed: int) -> None:
    """Ctrl-C at random moments ends a call of the main thread; others have their own answers."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, served.address, str(seed)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "True True True []\n"), done.stderr


def test_a_session_that_takes_nothing_more_ends(served: Served) -> None:
    """When its life is over the calls in progress are answered on it, and it goes."""
    with served.connect() as client, ThreadPoolExecutor(1) as pool:
        on_lane(client)
        first = client._driver._session
        call = pool.submit(client.run_function, "counter", "held", {})
        assert served.gate.reached.wait(30)
        first._until = time.monotonic()
        on_lane(client)
        assert client._driver._session is not first
        assert served.connections == 2
        served.gate.opened.set()
        assert call.result(30) is not None
        until(lambda: served.connections == 1)
        until(lambda: first.ended)
