"""Answers that a client asks for and does not take are bounded."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest import mock

import grpc
import numpy as np
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes

from tests.fakes import FakeVariable
from tests.rpc import requests
from tests.rpc.models import counter
from tests.rpc.wire import connected
from tests.serving import serve_here
from tests.waiting import until
from varserve_service.access.policy import Verb
from varserve_service.core.errors import Reason, RequestError
from varserve_service.rpc import Server
from varserve_service.rpc.calls import untaken
from varserve_service.rpc.calls.untaken import LARGE_BYTES, Untaken

SIZE = 4 * LARGE_BYTES
ROOM = 20 * SIZE
READ = requests.read(variable="large").SerializeToString()


class Deaf:
    """A connection whose calls ask for an answer that no byte of may be sent."""

    def __init__(self, address: str, calls: int) -> None:
        self._h2 = H2Connection(H2Configuration(client_side=True))
        self._h2.initiate_connection()
        self._h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
        headers = [(":method", "POST"), (":scheme", "http"), (":authority", address)]
        headers += [(":path", "/varserve.v1.ModelService/ReadVariable")]
        headers += [("content-type", "application/grpc"), ("te", "trailers")]
        for _ in range(calls):
            stream = self._h2.get_next_available_stream_id()
            self._h2.send_headers(stream, headers)
            message = struct.pack(">BI", 0, len(READ)) + READ
            self._h2.send_data(stream, message, end_stream=True)
        host, _, port = address.rpartition(":")
        self._peer = socket.create_connection((host, int(port)), timeout=60)
        self._peer.sendall(self._h2.data_to_send())

    def close(self) -> None:
        self._peer.close()


@contextmanager
def service() -> Iterator[tuple[str, Untaken]]:
    """A service with a variable that is a large answer, and what it knows of these."""
    servers: list[Server] = []
    large = FakeVariable("large", np.zeros(SIZE, np.uint8))
    with (
        mock.patch.object(untaken, "MOST_BYTES", ROOM),
        serve_here(counter(large), prepare=servers.append) as address,
    ):
        yield address, servers[0]._dispatcher._untaken


def test_clients_that_take_nothing_leave_room() -> None:
    """Answers that nobody takes never are more than there is room for; one connection takes half of
    it; others are served, and when the connections end nothing is left.
    """
    with service() as (address, waiting), ExitStack() as stack:
        first = Deaf(address, 60)
        stack.callback(first.close)
        until(lambda: waiting.nbytes > ROOM // 2 - 2 * SIZE)
        assert waiting.nbytes <= ROOM // 2
        with connected(address) as other:
            for _ in range(5):
                assert other.ask("ReadVariable", requests.read(variable="large")).code is (
                    grpc.StatusCode.OK
                )
        for _ in range(4):
            more = Deaf(address, 60)
            stack.callback(more.close)
        until(lambda: waiting.nbytes > ROOM - 2 * SIZE)
        assert waiting.nbytes <= ROOM
        stack.close()
        until(lambda: waiting.nbytes == 0)
        assert not waiting.answers


@pytest.mark.parametrize(("method", "refused"), [("read", True), ("assign", False)])
async def test_what_was_done_is_answered(method: str, refused: bool) -> None:
    """An answer that is too much is refused where nothing was changed; else the next call is."""
    waiting = Untaken(lambda: 8 * SIZE)  # two in all, one of one caller
    tasks = [asyncio.ensure_future(asyncio.sleep(0)) for _ in range(3)]
    call: Any = SimpleNamespace(method=SimpleNamespace(verb=Verb(method)), queue_key="ann")
    other: Any = SimpleNamespace(method=call.method, queue_key="bob")
    waiting.check(call)
    waiting.add(tasks[0], call, SIZE)
    with pytest.raises(RequestError) if refused else nullcontext() as caught:
        waiting.add(tasks[1], call, SIZE)
    if not refused:
        with pytest.raises(RequestError) as caught:
            waiting.check(call)
    assert caught is not None
    assert caught.value.reason is Reason.TOO_MANY_REQUESTS
    waiting.check(other)
    for task in tasks:
        waiting.ended(task)
        await task
    waiting.check(call, SIZE)
    assert waiting.nbytes == 0
    assert not waiting._by_key
