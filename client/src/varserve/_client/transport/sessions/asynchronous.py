"""A session of tasks of one event loop."""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio

from varserve._client.transport.endpoint import Metadata
from varserve.v1 import session_pb2 as pb

from .asked import Alone, Asked, Late
from .base import PATH, Ended, Session

# Deadlines are looked at so often.
_LOOK_SECONDS = 0.02


class AsyncSession(Session):
    """A session of any number of tasks of one event loop."""

    def __init__(self, channel: Any, metadata: Metadata, wait_for_ready: bool) -> None:
        super().__init__(metadata)
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, tuple[asyncio.Future[pb.SessionAnswer], float]] = {}
        self._some = asyncio.Event()
        self._looking: asyncio.TimerHandle | None = None
        stub = channel.stream_stream(PATH, response_deserializer=pb.SessionResponse.FromString)
        self._stream = stub(metadata=metadata or None, wait_for_ready=wait_for_ready)
        self._tasks = [self._loop.create_task(self._write()), self._loop.create_task(self._read())]

    async def ask(self, asked: Asked) -> pb.SessionAnswer:
        """Make a call and wait for its answer. Raises Alone, Late, Lost."""
        if self.ended or self._finished:
            raise Alone
        ident, answer = next(self._ids), self._loop.create_future()
        self._waiting[ident] = answer, self._loop.time() + asked.seconds
        self._outgoing.add(ident, asked)
        self._some.set()
        if asked.seconds < math.inf and self._looking is None:
            self._looking = self._loop.call_later(_LOOK_SECONDS, self._look)
        try:
            found: pb.SessionAnswer = await answer
            return found
        finally:
            if self._waiting.pop(ident, None) is not None:
                self._outgoing.cancel(ident)
                self._some.set()

    def finish(self) -> None:
        """Take no further call; it ends when those in progress are answered."""
        self._finished = True
        self._some.set()

    def close(self) -> None:
        """End it now, with what is in progress."""
        self.ended = True
        self._stream.cancel()

    def abandon(self) -> None:
        """Its client has gone, on whatever thread, or the process ends."""
        with suppress(RuntimeError):  # the loop is closed, and with it all of this has ended
            self._loop.call_soon_threadsafe(self.close)

    def _look(self) -> None:
        self._looking = None
        now = self._loop.time()
        for answer, deadline in self._waiting.values():
            if deadline <= now and not answer.done():
                answer.set_exception(Late())
        if self._waiting:
            self._looking = self._loop.call_later(_LOOK_SECONDS, self._look)

    async def _write(self) -> None:
        try:
            while True:
                await self._some.wait()
                self._some.clear()
                while self._outgoing:
                    await self._stream.write(self._outgoing.message())
                if self._finished:
                    await self._stream.done_writing()
                    return
        except (grpc.RpcError, asyncio.InvalidStateError):
            pass  # the reader sees why

    async def _read(self) -> None:
        error: BaseException | None = None
        try:
            while (response := await self._stream.read()) is not grpc.aio.EOF:
                self.proven = True
                for answer in response.answers:
                    waiting = self._waiting.pop(answer.id, None)
                    if waiting is not None and not waiting[0].done():
                        waiting[0].set_result(answer)
            error = Ended(
                await self._stream.code(),
                await self._stream.details(),
                await self._stream.trailing_metadata(),
            )
        except grpc.RpcError as raised:
            error = raised
        except asyncio.CancelledError as raised:  # the channel was closed, or the loop ends
            error = raised
        finally:
            self.ended = True
            end = self._end_of(error)
            left, self._waiting = self._waiting, {}
            for answer, _ in left.values():
                if not answer.done():
                    answer.set_exception(end)
            if self._looking is not None:
                self._looking.cancel()
            self._tasks[0].cancel()
