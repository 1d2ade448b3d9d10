"""Sessions on the lane: their messages leave the stream, where both sides can and want."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import varserve
import varserve.aio
from tests.client.lane_serving import Served, on_lane, on_lane_aio, serving
from tests.waiting import until
from varserve import lane
from varserve._client.transport import lane as client_lane


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(str(tmp_path / "lane")) as found:
        yield found


def test_messages_leave_the_stream(served: Served) -> None:
    """With either client; none more of them goes in the stream, and closing leaves nothing."""
    with served.connect() as client:
        on_lane(client)
        stream = client._driver._session._stream
        stream._message_out = None  # what would send a message
        for number in range(50):
            client.assign_variable("counter", "v", np.full(3, number, np.float32))
            assert client.read_variable("counter", "v").value.tolist() == [number] * 3
        assert served.connections == 1

    async def main() -> None:
        async with varserve.aio.connect(served.address, sessions=True) as client:
            await on_lane_aio(client)
            client._driver._session._stream.write = None
            for number in range(50):
                await client.assign_variable("counter", "v", np.full(3, number, np.float32))
                found = await client.read_variable("counter", "v")
                assert found.value.tolist() == [number] * 3
            assert served.connections == 1

    until(lambda: not served.connections)
    asyncio.run(main())
    until(lambda: not served.connections)
    assert served.seen.begun.count("Session") == 2


def test_a_lone_caller_needs_no_other_thread(served: Served) -> None:
    """It reads its answers itself: all other threads of the client are asleep."""
    with served.connect() as client:
        on_lane(client)
        session = client._driver._session
        handed: set[int] = set()
        hand_out = session._hand_out

        def noting(response: Any) -> None:
            handed.add(threading.get_ident())
            hand_out(response)

        session._hand_out = noting
        for _ in range(20):
            client.read_variable("counter", "v")
        assert handed == {threading.get_ident()}


@pytest.mark.parametrize("options", [{"lane": False}, {"lane": "/nowhere/lane"}], ids=str)
def test_the_lane_can_be_left_alone(served: Served, options: dict[str, Any]) -> None:
    """By option; the session is there without it."""
    with served.connect(**options) as client:
        for _ in range(20):
            client.read_variable("counter", "v")
        assert client._driver._session._connection is None
    assert served.seen.begun.count("Session") == 1
    assert not served.connections


@contextmanager
def _strange(path: str, kind: str) -> Iterator[None]:
    """Something else where the client looks for the lane."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        if kind == "gone":
            yield
            return
        listener.listen()

        def answer() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(100)
                if kind == "another":
                    peer.send(bytes(lane.TICKET_BYTES))
                if kind == "silent":
                    peer.recv(100)

        thread = threading.Thread(target=answer)
        thread.start()
        yield
        thread.join(30)


@pytest.mark.parametrize("kind", ["gone", "another", "silent", "closes"])
def test_without_a_way_to_the_lane_the_stream_serves(
    served: Served, tmp_path: Path, kind: str
) -> None:
    """What is found at the path is tried once, and not again for a while."""
    elsewhere = str(tmp_path / "other")
    with _strange(elsewhere, kind):
        with served.connect(lane=elsewhere) as client:
            until(lambda: client.read_variable("counter", "v") and client_lane._unusable)
            for number in range(20):
                client.assign_variable("counter", "v", np.full(3, number, np.float32))
                assert client.read_variable("counter", "v").value.tolist() == [number] * 3
            assert client._driver._session._connection is None
        with served.connect(lane=elsewhere) as client:
            client.read_variable("counter", "v")
    assert served.seen.begun.count("Session") == 2


def test_answers_of_many_threads_are_theirs(served: Served) -> None:
    """32 threads take turns to receive; each has the answers to its own calls, and all of them."""
    with served.connect() as client:
        on_lane(client)

        def work(number: int) -> None:
            rng = random.Random(number)
            for _ in range(60):
                x = np.full(rng.randrange(1, 4000), number, np.float32)
                found = client.run_function("counter", "total", {"x": x})
                assert found["output_0"] == number * x.size

        with ThreadPoolExecutor(32) as pool:
            list(pool.map(work, range(32)))
    assert served.seen.begun.count("Session") == 1


def test_large_messages_go_in_parts(served: Served) -> None:
    """A socket that takes little at a time, while others receive on it."""
    with served.connect() as client:
        on_lane(client)
        peer = client._driver._session._connection._peer
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

        def work(number: int) -> None:
            for _ in range(10):
                x = np.full(15_000, number, np.float32)
                assert client.run_function("counter", "total", {"x": x})["output_0"] == sum(x)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
