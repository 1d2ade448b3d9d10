"""What sharing watches have in common: the stream, which of its messages are for which watch, and
when a watch is better a call of its own.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable
from typing import Any, TypeAlias
from weakref import WeakSet, WeakValueDictionary, finalize

import grpc

from varserve import reasons
from varserve._client import errors
from varserve._client.transport.calls import Call
from varserve._client.transport.endpoint import Endpoint, Metadata
from varserve._client.transport.forks import GATE, Renewable
from varserve.frames import write_message
from varserve.v1 import session_pb2 as pb

PATH = "/varserve.v1.ModelService/WatchSession"
WINDOW_BYTES = 1 << 20
"""Of a watch, sent and not taken: beyond it the service sends nothing further."""

MOST_ITEMS = 500
"""Of each kind in one message."""

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
                item = self._read_message(data), len(data)
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


def request_of(items: list[Outgoing]) -> pb.WatchSessionRequest:
    """The message that sends them."""
    return pb.WatchSessionRequest(
        creates=[each for each in items if isinstance(each, pb.WatchCreate)],
        cancelled_ids=[each for each in items if isinstance(each, int)],
        taken=[each for each in items if isinstance(each, pb.WatchTaken)],
    )


def stub_of(channel: Any) -> Any:
    """What begins a shared stream on a channel."""
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
