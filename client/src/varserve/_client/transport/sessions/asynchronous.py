"""A session of tasks of one event loop."""

from __future__ import annotations

import asyncio
import math
import socket
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio

from varserve._client.transport.endpoint import Endpoint, Metadata
from varserve._client.transport.lane import connect_session
from varserve.v1 import session_pb2 as pb

from .asked import Alone, Asked, Late
from .base import OTHER_END_SECONDS, PATH, Ended, Session, broken
from .protocol import Connection

# So many calls are sent before all that can run has run: the service begins them meanwhile.
_ENOUGH = 8
# Deadlines are looked at so often.
_LOOK_SECONDS = 0.02


class AsyncSession(Session):
    """A session of any number of tasks of one event loop."""

    def __init__(self, channel: Any, metadata: Metadata, endpoint: Endpoint) -> None:
        super().__init__(metadata, endpoint)
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, tuple[asyncio.Future[pb.SessionAnswer], float]] = {}
        self._some = asyncio.Event()
        self._looking: asyncio.TimerHandle | None = None
        self._connection: Connection | None = None
        self._sending: asyncio.Handle | None = None
        self._closed = False
        stub = channel.stream_stream(PATH, response_deserializer=pb.SessionResponse.FromString)
        self._stream = stub(metadata=metadata or None, wait_for_ready=endpoint.wait_for_ready)
        self._tasks = [self._loop.create_task(self._write()), self._loop.create_task(self._read())]

    async def ask(self, asked: Asked) -> pb.SessionAnswer:
        """Make a call and wait for its answer. Raises Alone, Late, Lost."""
        if self.ended or self._finished:
            raise Alone
        ident, answer = next(self._ids), self._loop.create_future()
        self._waiting[ident] = answer, self._loop.time() + asked.seconds
        self._outgoing.add(ident, asked)
        self._send()
        if asked.seconds < math.inf and self._looking is None:
            self._looking = self._loop.call_later(_LOOK_SECONDS, self._look)
        try:
            found: pb.SessionAnswer = await answer
            return found
        finally:
            if self._waiting.pop(ident, None) is not None:
                self._outgoing.cancel(ident)
                self._send()

    def finish(self) -> None:
        """Take no further call; it ends when those in progress are answered."""
        self._finished = True
        self._send()

    def close(self) -> None:
        """End it now, with what is in progress."""
        self.ended = self._closed = True
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

    # What goes.

    def _send(self) -> None:
        """Have sent what has gathered, once all that can run now has run."""
        if self._connection is None:
            self._some.set()
            return
        if self._outgoing.count >= _ENOUGH:
            self._send_gathered(self._connection)
        if self._sending is None:
            self._sending = self._loop.call_soon(self._send_beside, self._connection)

    def _send_beside(self, connection: Connection) -> None:
        self._sending = None
        self._send_gathered(connection)
        if self._finished and not connection.is_full:
            if connection.is_used:
                connection.finish()
            else:
                self._some.set()

    def _send_gathered(self, connection: Connection) -> None:
        while self._outgoing and not connection.is_full:
            connection.send(self._outgoing.message())

    async def _write(self) -> None:
        try:
            while True:
                await self._some.wait()
                self._some.clear()
                while self._outgoing and self._connection is None:
                    await self._stream.write(self._outgoing.message())
                if self._finished and (self._connection is None or not self._connection.is_used):
                    await self._stream.done_writing()
                    return
        except (grpc.RpcError, asyncio.InvalidStateError):
            pass  # the reader sees why

    # What comes.

    def _hand_out(self, response: pb.SessionResponse) -> None:
        self.proven = True
        for answer in response.answers:
            waiting = self._waiting.pop(answer.id, None)
            if waiting is not None and not waiting[0].done():
                waiting[0].set_result(answer)

    async def _read(self) -> None:
        error: BaseException | None = None
        try:
            while (response := await self._stream.read()) is not grpc.aio.EOF:
                self._hand_out(response)
                if response.HasField("lane"):
                    self._tasks.append(self._loop.create_task(self._connect(response.lane)))
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
            await self._receive_last(error)
            end = self._broken or self._end_of(error)
            left, self._waiting = self._waiting, {}
            for answer, _ in left.values():
                if not answer.done():
                    answer.set_exception(end)
            if self._looking is not None:
                self._looking.cancel()
            for task in self._tasks:
                if task is not asyncio.current_task():
                    task.cancel()
            if self._connection is not None:
                self._connection.close()

    async def _receive_last(self, error: BaseException | None) -> None:
        """Wait for answers that came before the end: what they were for has been done."""
        connection = self._connection
        if connection is None or self._closed or isinstance(error, asyncio.CancelledError):
            return
        done, _ = await asyncio.wait([connection.ended], timeout=OTHER_END_SECONDS)
        if not done:
            self._break("the service did not end the connection")

    async def _connect(self, told: pb.SessionLane) -> None:
        """Go on by the connection that the service offers, if there is a way to it."""
        found = self._loop.run_in_executor(None, connect_session, told, self._wanted)
        try:
            peer = await asyncio.shield(found)
        except asyncio.CancelledError:
            found.add_done_callback(_close)
            raise
        if peer is None:
            return
        connection = Connection(
            told.message_bytes,
            lambda message: self._hand_out(pb.SessionResponse.FromString(message)),
            self._send,
        )
        try:
            await connection.open(peer)
        except OSError:
            peer.close()
            return
        if self.ended:
            connection.close()
            return
        self._connection = connection
        self._send()
        connection.ended.add_done_callback(self._has_ended)

    def _has_ended(self, ended: asyncio.Future[None]) -> None:
        """The connection has ended; the stream tells why, unless that is all."""
        error = ended.exception()
        if error is not None:
            self._break(error)
        elif not self.ended:
            self._loop.call_later(OTHER_END_SECONDS, self._break, "the connection ended")

    def _break(self, why: object) -> None:
        """End it, with what is in progress: nothing more can be told on the lane."""
        if not self.ended or self._waiting:
            self._broken = self._broken or broken(why)
            self._stream.cancel()


def _close(found: asyncio.Future[socket.socket | None]) -> None:
    """Nobody waits for it any more."""
    peer = None if found.cancelled() or found.exception() is not None else found.result()
    if peer is not None:
        peer.close()
