"""The lane's listening socket when the process has no descriptor left."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.waiting import until_async
from varserve_service.rpc.lane.listener import Listener


class Counted(socket.socket):
    """Counts how often a connection was asked for."""

    asked = 0

    def accept(self) -> tuple[socket.socket, object]:
        self.asked += 1
        return super().accept()


@contextmanager
def no_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = os.dup(0)
    held = [spare]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (spare + 1, hard))
        while True:
            try:
                held.append(os.dup(0))
            except OSError:
                break
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in held:
            os.close(fd)


async def test_without_descriptors_connections_wait_and_the_loop_rests() -> None:
    """It is not asked again and again for a connection that it cannot have, and has it later."""
    listening = Counted(socket.AF_INET, socket.SOCK_STREAM)
    listening.setblocking(False)
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    taken: asyncio.Queue[socket.socket] = asyncio.Queue()
    listener = Listener(listening, taken.put_nowait, retry_seconds=0.1)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        with no_descriptors():
            client.connect(listening.getsockname())
            began = time.monotonic()
            await until_async(lambda: listening.asked)
            await asyncio.sleep(0.5)
            assert 1 <= listening.asked <= 2 + (time.monotonic() - began) / 0.1
            assert taken.empty()
        async with asyncio.timeout(30):
            (await taken.get()).close()
    listener.close()


async def test_it_is_closed_while_it_rests() -> None:
    """Nothing of it is left on the loop."""
    listening = Counted(socket.AF_INET, socket.SOCK_STREAM)
    listening.setblocking(False)
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    taken: list[socket.socket] = []
    listener = Listener(listening, taken.append, retry_seconds=0.05)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client, no_descriptors():
        client.connect(listening.getsockname())
        await until_async(lambda: listening.asked)
        listener.close()
        asked = listening.asked
        await asyncio.sleep(0.2)
        assert listening.asked == asked
    assert taken == []
