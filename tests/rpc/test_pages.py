"""What a stream of calls asks for in one message begins a little in each turn of the event loop."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Any

import grpc
import numpy as np
import pytest

from tests.rpc import requests
from tests.rpc.models import counter
from tests.rpc.session_wire import in_session
from tests.serving import serve_here
from tests.waiting import until
from varserve import tensors
from varserve.v1 import history_pb2, session_pb2
from varserve.v1 import model_service_pb2 as pb
from varserve_service.rpc import Server
from varserve_service.rpc.calls.observers import CallObserver
from varserve_service.rpc.serving.pages import Pages

WIDE = tensors.to_tensor(np.zeros(375, np.float32))
CALLS = {
    "ListCommits": (history_pb2.ListCommitsRequest(model="counter"), 1),
    "GetModel": (pb.GetModelRequest(model="counter"), 1),
    "RunFunction": (requests.run(function="total", inputs={"x": WIDE}), 3),
    "ReadVariable": (requests.read(), 32),
}
"""Requests, and how many of one stream may begin at once."""


class Begun(CallObserver):
    """How many calls have begun in one turn of the event loop at most, and in all."""

    def __init__(self) -> None:
        self.most = self.total = self._now = 0
        self._over = False

    def watch(self, server: Server) -> None:
        self._turn(asyncio.get_running_loop())

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self.most, self._now = max(self.most, self._now), 0
        if not self._over:
            loop.call_soon(self._turn, loop)

    def started(self, call: Any) -> None:
        if "Session" not in call.method.name:
            self._now += 1
            self.total += 1

    def end(self) -> None:
        self._over = True


@pytest.mark.parametrize("method", CALLS)
@pytest.mark.parametrize("sessions", [1, 8])
def test_calls_of_a_message_begin_in_pages(method: str, sessions: int) -> None:
    """However many a message has, and however many sessions there are: few begin in one turn, fewer
    of those that take longer. Beside the first of each session, which does not wait.
    """
    request, page = CALLS[method]
    begun = Begun()
    data = request.SerializeToString()
    with (
        serve_here(counter(), observers=[begun], prepare=begun.watch) as address,
        ExitStack() as stack,
    ):
        stack.callback(begun.end)
        wires = [stack.enter_context(in_session(address)) for _ in range(sessions)]
        calls = [[wire.call(method, data) for _ in range(200)] for wire in wires]
        for wire, mine in zip(wires, calls, strict=True):
            wire.send(*mine)
        for wire, mine in zip(wires, calls, strict=True):
            assert all(wire.answer(call.id) is not None for call in mine)
    assert begun.total == 200 * sessions
    assert begun.most <= page * (sessions + 1)


def test_watches_of_a_message_begin_in_pages() -> None:
    """The same of watches."""
    begun = Begun()
    request = history_pb2.WatchVariablesRequest(model="counter").SerializeToString()
    creates = [session_pb2.WatchCreate(watch_id=n, request=request) for n in range(300)]
    with (
        serve_here(counter(), observers=[begun], prepare=begun.watch) as address,
        grpc.insecure_channel(address) as channel,
    ):
        open_stream = channel.stream_stream(
            "/varserve.v1.ModelService/WatchSession",
            request_serializer=session_pb2.WatchSessionRequest.SerializeToString,
        )
        stream = open_stream(iter([session_pb2.WatchSessionRequest(creates=creates)]))
        until(lambda: begun.total == 300)
        stream.cancel()
        begun.end()
    assert begun.most <= 16


async def test_streams_take_turns() -> None:
    """One page in a turn of the event loop, each caller's in turn; who has gone is left out."""
    pages, order = Pages(), list[str]()

    async def ask(key: str) -> None:
        await pages.turn(key)
        order.append(key)

    tasks = [asyncio.ensure_future(ask(key)) for key in ("ann", "ann", "ann", "bob", "eve")]
    await asyncio.sleep(0)
    tasks[4].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == ["ann", "bob", "ann", "ann"]
    await asyncio.wait_for(pages.turn("bob"), 30)
