"""A service whose sessions may go by the lane, in a thread of the test's own process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import varserve
import varserve.aio
from tests.fakes import FakeFunction, Gate
from tests.rpc.models import counter
from tests.serving import serve_here
from tests.waiting import until
from varserve._client.transport import lane as client_lane
from varserve_service.rpc import Server
from varserve_service.rpc.calls.observers import CallObserver


class Sessions(CallObserver):
    """Counts sessions, and the calls of each method that have begun."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    def started(self, call: Any) -> None:
        self.begun.append(call.method.name)


class Served:
    """A service with a lane, in a thread of this process."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.gate = Gate()
        self.seen = Sessions()
        self.server: Server
        self.loop: asyncio.AbstractEventLoop
        self.address = ""

    def prepare(self, server: Server) -> None:
        self.server, self.loop = server, asyncio.get_running_loop()

    def do(self, work: Callable[[], None]) -> None:
        """On the loop of the service."""
        self.loop.call_soon_threadsafe(work)

    def each_session(self, work: Callable[[Any], None]) -> None:
        """Do something with each session that is open."""
        ends = self.server._backend.sessions
        self.do(lambda: [work(end.__self__) for end in list(ends)] and None)  # type: ignore[attr-defined]

    @property
    def connections(self) -> int:
        assert self.server.lane is not None
        return self.server.lane.connections

    def connect(self, **options: Any) -> varserve.Client:
        return varserve.connect(self.address, **({"sessions": True, "retries": 0} | options))


@contextmanager
def serving(path: str, **options: Any) -> Iterator[Served]:
    found = Served(path)
    # What an earlier test could not come to is tried again.
    client_lane._unusable.clear()

    def wait() -> dict[str, Any]:
        found.gate()
        return {}

    live = counter(functions=(FakeFunction("held", wait),))
    with serve_here(
        live, lane_socket=path, prepare=found.prepare, observers=[found.seen], **options
    ) as found.address:
        yield found
        found.gate.opened.set()
    client_lane._unusable.clear()


def on_lane(client: Any) -> None:
    """Make calls until their messages go on the lane."""

    def is_there() -> bool:
        client.read_variable("counter", "v")
        connection = client._driver._session._connection
        return connection is not None and connection.is_used

    until(is_there)


async def on_lane_aio(client: Any) -> None:
    while True:
        await client.read_variable("counter", "v")
        connection = client._driver._session._connection
        if connection is not None and connection.is_used:
            return
