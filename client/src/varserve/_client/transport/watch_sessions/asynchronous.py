"""Watches of tasks that share a stream."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import grpc

from varserve._client import errors
from varserve._client.transport.calls import Call
from varserve._client.transport.endpoint import Metadata

from .base import (
    MOST_ITEMS,
    Alone,
    Item,
    Outgoing,
    Session,
    SharedWatch,
    Watches,
    request_of,
    stub_of,
)


class _AsyncWatch(SharedWatch):
    """For one task at a time."""

    def __init__(self, session: Session, call: Call, alone: Callable[[], Any]) -> None:
        self._items: deque[Item] = deque()
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        super().__init__(session, call, alone)

    def put(self, item: Item) -> None:
        self._items.append(item)
        self._wake()

    def cancel(self) -> None:
        super().cancel()
        with suppress(RuntimeError):  # the loop is closed
            end = errors.Unavailable("the watch was ended here")
            self._loop.call_soon_threadsafe(self.put, end)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def read(self) -> Any:
        """The next message."""
        if self._alone is not None:
            return await self._alone.read()
        if not self._items:
            self._waiter = self._loop.create_future()
            seconds = self._longest_wait()
            late = None if seconds == math.inf else self._loop.call_later(seconds, self._wake)
            try:
                await self._waiter
            finally:
                self._waiter = None
                if late is not None:
                    late.cancel()
        try:
            return self._taken(self._items.popleft() if self._items else self._late())
        except Alone:
            return await self._go_alone().read()


class _AsyncSession(Session):
    """A task reads, another one writes."""

    def __init__(
        self, channel: Any, metadata: Metadata, wait_for_ready: bool, read: Callable[[bytes], Any]
    ) -> None:
        super().__init__(metadata, read)
        self._loop = asyncio.get_running_loop()
        self._outgoing: deque[Outgoing] = deque()
        self._some = asyncio.Event()
        self._stream = stub_of(channel)(metadata=metadata or None, wait_for_ready=wait_for_ready)
        self._tasks = [self._loop.create_task(self._write()), self._loop.create_task(self._read())]

    def takes(self, metadata: Metadata) -> bool:
        return super().takes(metadata) and self._loop is asyncio.get_running_loop()

    def send(self, item: Outgoing) -> None:
        self._outgoing.append(item)
        with suppress(RuntimeError):  # the loop is closed, and with it all of this has ended
            self._loop.call_soon_threadsafe(self._some.set)

    def close(self) -> None:
        self.ended = True
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stream.cancel)

    async def _write(self) -> None:
        with suppress(grpc.RpcError, asyncio.InvalidStateError):  # the reader sees why
            while True:
                await self._some.wait()
                self._some.clear()
                while self._outgoing:
                    count = min(len(self._outgoing), MOST_ITEMS)
                    items = [self._outgoing.popleft() for _ in range(count)]
                    await self._stream.write(request_of(items))

    async def _read(self) -> None:
        error: BaseException | None = None
        try:
            async for response in self._stream:
                self._deliver(response)
        except (grpc.RpcError, asyncio.CancelledError) as raised:
            error = raised
        finally:
            self._finish(error)
            self._tasks[0].cancel()


class AsyncWatches(Watches):
    """Of a driver of tasks."""

    _session = _AsyncSession
    _watch = _AsyncWatch

    @staticmethod
    def _is_over(stream: Any) -> bool:
        done: bool = stream.done()
        return done
