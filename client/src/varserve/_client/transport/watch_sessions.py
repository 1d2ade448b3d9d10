"""Watches that share a stream: those of one client, of threads or of tasks.

Owns the shared stream, which of its messages are for which watch, and when a watch is better a call
of its own: the first one, and where something speaks against sharing. Knows nothing of what watches
show, and nothing of how one is resumed.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias
from weakref import WeakSet, WeakValueDictionary, finalize

import grpc
import grpc.aio

from varserve import reasons
from varserve._client import errors
from varserve.frames import write_message
from varserve.v1 import session_pb2 as pb

from .calls import Call
from .endpoint import Endpoint, Metadata
from .forks import GATE, Renewable

PATH = "/varserve.v1.ModelService/WatchSession"
WINDOW_BYTES = 1 << 20
"""Of a watch, sent and not taken: beyond it the service sends nothing further."""

# Of each kind in one message.
_MOST_ITEMS = 500
# A shared stream on which nothing has come for so long is not used, and none is for a while: what
# is between may hold such streams up.
_PROOF_SECONDS = 5.0
_PAUSE_SECONDS = 60.0

Item: TypeAlias = "tuple[Any, int] | BaseException"
"""What a watch is given: a message and its bytes, or its end."""
Outgoing: TypeAlias = "pb.WatchCreate | pb.WatchTaken | int | None"
"""What is sent: an id is of a watch to end; None ends the stream."""


class Alone(Exception):
    """The watch has not begun, and is to be a call of its own."""


class SharedWatch:
    """One watch of a shared stream, read like a stream of its own. Ends when nobody has it."""

    def __init__(self, session: Session, call: Call, alone: Callable[[], Any]) -> None:
        """`alone`: begins the same watch as a call of its own."""
        self._session = session
        self._begin_alone = alone
        self._alone: Any = None
        self._budget = call.budget
        self._lasts = call.budget.remaining() == math.inf
        self._begun = False
        self._untold = 0
        self.ident = session.new_id()
        self._forget = finalize(self, session.forget, self.ident)
        self._forget.atexit = False

    def put(self, item: Item) -> None:
        """What comes next."""
        raise NotImplementedError

    def cancel(self) -> None:
        """End it. From any thread, without waiting."""
        self._forget()
        if self._alone is not None:
            self._alone.cancel()

    def _longest_wait(self) -> float:
        """Seconds that the next message may take; infinity for any number."""
        if self._lasts and self._session.proven:
            return math.inf
        seconds = self._budget.remaining()
        if self._session.proven:
            return seconds
        return min(seconds, max(0.0, self._session.begun_at + _PROOF_SECONDS - time.monotonic()))

    def _late(self) -> Item:
        """What a wait that was too long comes to."""
        if self._session.proven or self._budget.remaining() <= 0:
            return errors.DeadlineExceeded("the time of the watch is over")
        self._session.give_up()
        return Alone()

    def _taken(self, item: Item) -> Any:
        """The message in an item. Raises the end, and Alone."""
        if isinstance(item, BaseException):
            self._forget()
            if self._begun and isinstance(item, Alone):
                raise errors.Unavailable("the watch ended without a reason")
            raise item.with_traceback(None)  # it may be that of other watches, too
        message, nbytes = item
        self._begun = True
        self._untold += nbytes
        if self._untold >= WINDOW_BYTES // 2:
            self._session.send(pb.WatchTaken(watch_id=self.ident, nbytes=self._untold))
            self._untold = 0
        return message

    def _go_alone(self) -> Any:
        self._alone = self._begin_alone()
        return self._alone


class Session:
    """A shared stream. `proven`: the service has said something on it."""

    def __init__(self, metadata: Metadata, read: Callable[[bytes], Any]) -> None:
        """`read`: of a watch's messages."""
        self.metadata = metadata
        self.begun_at = time.monotonic()
        self.proven = self.ended = self.failed = self.missing = False
        self._read_message = read
        self._ids = itertools.count(1)
        self._watches: WeakValueDictionary[int, SharedWatch] = WeakValueDictionary()

    def takes(self, metadata: Metadata) -> bool:
        """Whether a watch with this metadata can begin in it."""
        return not self.ended and metadata == self.metadata

    def new_id(self) -> int:
        """One that no watch has had."""
        return next(self._ids)

    def begin(self, watch: SharedWatch, call: Call, traces: Metadata) -> None:
        """Begin a watch."""
        create = pb.WatchCreate(watch_id=watch.ident, request=write_message(call.request))
        for key, value in traces:
            if key in ("traceparent", "tracestate"):
                setattr(create, key, value)
        self._watches[watch.ident] = watch
        self.send(create)
        if self.ended:  # meanwhile, and it may not have been told
            watch.put(Alone())

    def forget(self, ident: int) -> None:
        """Nobody reads a watch any more. From any thread."""
        self._watches.pop(ident, None)
        if not self.ended:
            self.send(ident)

    def send(self, item: Outgoing) -> None:
        """Send with the next message. From any thread."""
        raise NotImplementedError

    def close(self) -> None:
        """End it now, with its watches. From any thread."""
        raise NotImplementedError

    def give_up(self) -> None:
        """It does not get through."""
        self.failed = True
        self.close()

    def _deliver(self, response: pb.WatchSessionResponse) -> None:
        self.proven = True
        for update in response.updates:
            item: Item
            if update.WhichOneof("outcome") == "response":
                data = update.response
                message = self._read_message(data)
                message.shared = len(update.watch_ids) > 1
                item = message, len(data)
            else:
                item = _end_of(update.error)
            for ident in update.watch_ids:
                watch = self._watches.get(ident)
                if watch is not None:
                    watch.put(item)

    def _finish(self, error: Any) -> None:
        """The stream has ended; None: well."""
        self.ended = True
        code = getattr(error, "code", lambda: None)()
        self.missing = code is grpc.StatusCode.UNIMPLEMENTED
        if self.missing or not (self.proven or code is grpc.StatusCode.UNAVAILABLE):
            self.failed = error is not None
            error = None
        for watch in list(self._watches.values()):
            watch.put(Alone() if error is None else error)


def _end_of(status: Any) -> errors.VarserveError:
    failure = reasons.read_details(status.SerializeToString())
    if failure is None:
        return errors.Unavailable(status.message)
    return errors.from_reason(failure.reason, failure.message, failure.metadata, from_service=True)


def _request(items: list[Outgoing]) -> pb.WatchSessionRequest:
    return pb.WatchSessionRequest(
        creates=[each for each in items if isinstance(each, pb.WatchCreate)],
        cancelled_ids=[each for each in items if isinstance(each, int)],
        taken=[each for each in items if isinstance(each, pb.WatchTaken)],
    )


def _stub(channel: Any) -> Any:
    return channel.stream_stream(
        PATH,
        request_serializer=pb.WatchSessionRequest.SerializeToString,
        response_deserializer=pb.WatchSessionResponse.FromString,
    )


class Watches(Renewable):
    """The watches of one driver: how each begins."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._wanted = endpoint.sessions
        self._paused_until = -math.inf
        self._lock = threading.Lock()
        self._alone: WeakSet[Any] = WeakSet()
        self._sessions: WeakSet[Session] = WeakSet()
        self._newest: Session | None = None
        # Their threads keep them, also when nobody keeps the client.
        finalize(self, _close_all, self._sessions)
        GATE.renew_in_child(self)

    def open(self, call: Call, channel: Callable[[], Any], alone: Callable[[], Any]) -> Any:
        """The stream of a watch. `alone` makes it a call of its own, `channel` is for sharing one.

        The first one is alone: a message of a shared stream takes longer.
        """
        with self._lock:
            if not self._shares():
                return self._begun(alone)
            metadata = self._endpoint.session_metadata()
            if self._newest is None or not self._newest.takes(metadata):
                # The one before goes on for the watches that it has.
                wait = self._endpoint.wait_for_ready
                self._newest = self._session(channel(), metadata, wait, call.method.read)
                self._sessions.add(self._newest)
            watch = self._watch(self._newest, call, lambda: self._begun(alone))
            self._newest.begin(watch, call, self._endpoint.trace())
            return watch

    def close(self) -> None:
        """End the shared streams, with their watches."""
        _close_all(self._sessions)

    def _shares(self) -> bool:
        newest, now = self._newest, time.monotonic()
        if newest is not None and newest.failed:
            self._newest, self._paused_until = None, now + _PAUSE_SECONDS
            if newest.missing:
                self._wanted = False
        if self._wanted is False or now < self._paused_until:
            return False
        if self._wanted or (self._newest is not None and not self._newest.ended):
            return True
        return any(not self._is_over(each) for each in self._alone)

    def _begun(self, alone: Callable[[], Any]) -> Any:
        stream = alone()
        self._alone.add(stream)
        return stream

    def _before_fork(self) -> None:
        self.close()

    def _after_fork(self) -> None:
        """This is a forked child: the streams are the parent's."""
        GATE.abandon((list(self._sessions), list(self._alone)))
        self._lock = threading.Lock()
        self._alone, self._newest = WeakSet(), None
        self._sessions.clear()

    # What differs.

    @staticmethod
    def _session(channel: Any, metadata: Metadata, wait_for_ready: bool, read: Any) -> Session:
        raise NotImplementedError

    @staticmethod
    def _watch(session: Any, call: Call, alone: Callable[[], Any]) -> SharedWatch:
        raise NotImplementedError

    @staticmethod
    def _is_over(stream: Any) -> bool:
        raise NotImplementedError


def _close_all(sessions: WeakSet[Session]) -> None:
    for session in list(sessions):
        session.close()


# ---- threads ----


class _SyncWatch(SharedWatch):
    """For one thread at a time."""

    def __init__(self, session: Session, call: Call, alone: Callable[[], Any]) -> None:
        self._items: SimpleQueue[Item] = SimpleQueue()
        super().__init__(session, call, alone)

    def put(self, item: Item) -> None:
        self._items.put(item)

    def cancel(self) -> None:
        super().cancel()
        self.put(errors.Unavailable("the watch was ended here"))

    def __next__(self) -> Any:
        if self._alone is not None:
            return next(self._alone)
        seconds = self._longest_wait()
        try:
            item = self._items.get(timeout=min(seconds, threading.TIMEOUT_MAX))
        except Empty:
            item = self._late()
        try:
            return self._taken(item)
        except Alone:
            return next(self._go_alone())


class _SyncSession(Session):
    """A thread reads, and one of gRPC's asks for what is to be sent."""

    def __init__(
        self, channel: Any, metadata: Metadata, wait_for_ready: bool, read: Callable[[bytes], Any]
    ) -> None:
        super().__init__(metadata, read)
        self._outgoing: SimpleQueue[Outgoing] = SimpleQueue()
        self._stream = _stub(channel)(
            self._requests(), metadata=metadata or None, wait_for_ready=wait_for_ready
        )
        self._reader = threading.Thread(target=self._read, name="varserve-watches", daemon=True)
        self._reader.start()

    def send(self, item: Outgoing) -> None:
        self._outgoing.put(item)

    def close(self) -> None:
        self.ended = True
        self._stream.cancel()
        self.send(None)
        if threading.current_thread() is not self._reader:
            self._reader.join(1.0)

    def _requests(self) -> Iterator[pb.WatchSessionRequest]:
        while True:
            items = [self._outgoing.get()]
            with suppress(Empty):
                while items[-1] is not None and len(items) < _MOST_ITEMS:
                    items.append(self._outgoing.get_nowait())
            if items[-1] is None:
                return
            yield _request(items)

    def _read(self) -> None:
        error: BaseException | None = None
        try:
            for response in self._stream:
                self._deliver(response)
        except grpc.RpcError as raised:
            error = raised
        self._finish(error)
        self.send(None)


class SyncWatches(Watches):
    """Of a blocking driver."""

    _session = _SyncSession
    _watch = _SyncWatch

    @staticmethod
    def _is_over(stream: Any) -> bool:
        return not stream.is_active()


# ---- tasks ----


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
            await self._wait()
        try:
            return self._taken(self._items.popleft() if self._items else self._late())
        except Alone:
            return await self._go_alone().read()

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        seconds = self._longest_wait()
        late = None if seconds == math.inf else self._loop.call_later(seconds, self._wake)
        try:
            await self._waiter
        finally:
            self._waiter = None
            if late is not None:
                late.cancel()


class _AsyncSession(Session):
    """A task reads, another one writes."""

    def __init__(
        self, channel: Any, metadata: Metadata, wait_for_ready: bool, read: Callable[[bytes], Any]
    ) -> None:
        super().__init__(metadata, read)
        self._loop = asyncio.get_running_loop()
        self._outgoing: deque[Outgoing] = deque()
        self._some = asyncio.Event()
        self._stream = _stub(channel)(metadata=metadata or None, wait_for_ready=wait_for_ready)
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
                    count = min(len(self._outgoing), _MOST_ITEMS)
                    items = [self._outgoing.popleft() for _ in range(count)]
                    await self._stream.write(_request(items))

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
