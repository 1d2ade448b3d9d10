"""WatchSession: many watches on one stream.

Owns the watches of one stream: what each has room for, and which messages are the same for several
of them and are sent once. Each watch is a call of WatchVariables; knows nothing of what it shows.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Collection
from typing import Any, Final

import grpc

from varserve.v1 import session_pb2 as pb
from varserve_service.rpc.calls.call import RpcCall
from varserve_service.rpc.failures import Failed, shortened
from varserve_service.rpc.messages import translate

from .backend import Backend
from .shared_stream import MAX_IN_MESSAGE, MESSAGE_BYTES, UNSENT_BYTES, SharedStream, traces_of

__all__ = ["MAX_IN_MESSAGE", "watch_session"]

WINDOW_BYTES: Final = 1 << 20
"""Of a watch, sent and not taken: beyond it nothing further is sent."""

# Of one update; they take three bytes each, and an event may leave 64 KiB of its message.
_MOST_IDS = 1000
# Watches that begin before others have a turn of the event loop.
_PAGE_WATCHES = 8
_METHOD = "varserve.v1.ModelService.WatchVariables"


async def watch_session(backend: Backend, request: None, call: RpcCall) -> None:
    """WatchSession."""
    await WatchSession(backend, call).run()


class _Watched:
    """One watch of a session. `last`: the number of its newest update; `untaken`: bytes of it."""

    __slots__ = ("gone", "ident", "last", "room", "started", "task", "untaken")

    def __init__(self, ident: int) -> None:
        self.ident = ident
        self.last = 0
        self.untaken = 0
        self.room = asyncio.Event()
        self.started = self.gone = False
        self.task: asyncio.Task[None] | None = None

    def cancel(self) -> None:
        """End it; nobody waits for its end."""
        if not self.gone:
            self.gone = True
            # One that has not started sees it when it does; cancelled now, it would see nothing.
            if self.started and self.task is not None:
                self.task.cancel()


class _Outgoing:
    """An update to be sent."""

    __slots__ = ("nbytes", "number", "update")

    def __init__(self, number: int, update: pb.WatchUpdate, nbytes: int) -> None:
        self.number = number
        self.update = update
        self.nbytes = nbytes


class _Writer:
    """Sends the messages of one watch."""

    def __init__(self, session: WatchSession, watched: _Watched) -> None:
        self._session = session
        self._watched = watched

    async def write(self, message: bytes) -> None:
        await self._session.put(self._watched, message)

    def write_now(self, message: bytes) -> bool:
        return self._session.put_now(self._watched, message)


class WatchSession(SharedStream):
    """The watches of one stream."""

    def __init__(self, backend: Backend, call: RpcCall) -> None:
        super().__init__(backend, call)
        self._watches: dict[int, _Watched] = {}
        self._outgoing: deque[_Outgoing] = deque()
        # By the identity of their messages, which they keep alive.
        self._joined: dict[int, tuple[_Outgoing, bytes]] = {}
        self._number = 0
        self._unsent = 0
        self._room = asyncio.Event()

    @property
    def _tasks(self) -> Collection[asyncio.Task[Any]]:
        return [watched.task for watched in self._watches.values() if watched.task is not None]

    def _cancel_calls(self) -> None:
        for watched in list(self._watches.values()):
            watched.cancel()

    def _asks_no_more(self) -> None:
        self._cancel_calls()

    # What comes.

    async def _take(self, request: Any) -> None:
        for taken in request.taken:
            watched = self._watches.get(taken.watch_id)
            if watched is not None:
                watched.untaken = max(0, watched.untaken - taken.nbytes)
                watched.room.set()
        for ident in request.cancelled_ids:
            watched = self._watches.get(ident)
            if watched is not None:
                watched.cancel()
        for count, create in enumerate(request.creates, 1):
            await self._wait_for_room()
            self._begin(create)
            if count % _PAGE_WATCHES == 0:
                await self._backend.pages.turn(self._call.queue_key)

    async def _wait_for_room(self) -> None:
        while self._unsent >= UNSENT_BYTES:
            self._room.clear()
            await self._room.wait()

    def _begin(self, create: pb.WatchCreate) -> None:
        ident = create.watch_id
        if ident in self._watches:
            raise translate.malformed(
                f"watch_id: expected one that no watch in progress has, found {ident}"
            )
        watched = self._watches[ident] = _Watched(ident)
        watched.task = self._loop.create_task(self._watch(watched, create))

    # The watches.

    async def _watch(self, watched: _Watched, create: pb.WatchCreate) -> None:
        watched.started = True
        update = pb.WatchUpdate()
        try:
            if watched.gone:
                return
            await self._backend.nested(
                _METHOD,
                create.request,
                self._call,
                deadline=math.inf,
                traces=traces_of(create),
                writer=_Writer(self, watched),
            )
            raise AssertionError("a watch ends with an error")
        except Failed as error:
            update.error.ParseFromString(shortened(error.failure).details())
        except asyncio.CancelledError:
            if watched.gone:
                return
            update.error.code = grpc.StatusCode.UNAVAILABLE.value[0]
            update.error.message = "the watch was cut off; watch again"
        finally:
            del self._watches[watched.ident]
            if not watched.gone:
                update.watch_ids.append(watched.ident)
                self._queue(update, update.ByteSize())
            self._moved.set()

    async def put(self, watched: _Watched, message: bytes) -> None:
        """Let a message of a watch be sent, once it and the session have room for it."""
        while not self.put_now(watched, message):
            while watched.untaken >= WINDOW_BYTES:
                watched.room.clear()
                await watched.room.wait()
            await self._wait_for_room()

    def put_now(self, watched: _Watched, message: bytes) -> bool:
        """Let a message of a watch be sent, if it and the session have room for it."""
        if watched.untaken >= WINDOW_BYTES or self._unsent >= UNSENT_BYTES:
            return False
        watched.untaken += len(message)
        joined = self._joined.get(id(message))
        # Not before what the watch was sent meanwhile.
        if joined is None or joined[0].number <= watched.last or _is_full(joined[0].update):
            update = pb.WatchUpdate(response=message)
            joined = self._queue(update, len(message)), message
            self._joined[id(message)] = joined
        joined[0].update.watch_ids.append(watched.ident)
        watched.last = joined[0].number
        return True

    # What goes.

    def _queue(self, update: pb.WatchUpdate, nbytes: int) -> _Outgoing:
        self._number += 1
        outgoing = _Outgoing(self._number, update, nbytes)
        self._outgoing.append(outgoing)
        self._unsent += nbytes
        self._moved.set()
        return outgoing

    def _gathered(self) -> pb.WatchSessionResponse | None:
        updates: list[pb.WatchUpdate] = []
        total = 0
        while self._outgoing and (not updates or total + self._outgoing[0].nbytes <= MESSAGE_BYTES):
            outgoing = self._outgoing.popleft()
            updates.append(outgoing.update)
            total += outgoing.nbytes
        if not updates:
            return None
        self._joined.clear()
        self._unsent -= total
        self._room.set()
        return pb.WatchSessionResponse(updates=updates)


def _is_full(update: pb.WatchUpdate) -> bool:
    return len(update.watch_ids) >= _MOST_IDS
