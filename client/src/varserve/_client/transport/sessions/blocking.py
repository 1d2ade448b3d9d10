"""A session of threads: each sends its own call, one thread hands all answers out."""

from __future__ import annotations

import threading
from typing import Any

from google.protobuf.message import DecodeError

from varserve._client.transport.endpoint import Metadata
from varserve.v1 import session_pb2 as pb

from .asked import Alone, Asked, Late
from .base import PATH, Session
from .stream import Stream

_LONGEST_WAIT = threading.TIMEOUT_MAX


class _Waiting:
    """A thread that waits for an answer."""

    __slots__ = ("_answered", "_outcome")

    def __init__(self) -> None:
        self._answered = threading.Lock()
        self._answered.acquire()
        self._outcome: pb.SessionAnswer | BaseException | None = None

    def tell(self, outcome: pb.SessionAnswer | BaseException) -> None:
        self._outcome = outcome
        self._answered.release()

    def wait(self, seconds: float) -> pb.SessionAnswer:
        if not self._answered.acquire(timeout=min(seconds, _LONGEST_WAIT)):
            raise Late
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        assert self._outcome is not None
        return self._outcome


class SyncSession(Session):
    """A session of any number of threads."""

    def __init__(self, channel: Any, metadata: Metadata, wait_for_ready: bool) -> None:
        """Raises AttributeError or TypeError where gRPC has no such streams; see `Stream`."""
        super().__init__(metadata)
        self._stream = Stream(channel, PATH, metadata, wait_for_ready)
        self._lock = self._stream.lock
        self._waiting: dict[int, _Waiting] = {}
        self._closing = False
        self._end: BaseException | None = None
        self._reader = threading.Thread(target=self._read, name="varserve-session", daemon=True)
        self._reader.start()

    def ask(self, asked: Asked) -> pb.SessionAnswer:
        """Make a call and wait for its answer. Raises Alone, Late, Lost."""
        ident, waiting = next(self._ids), _Waiting()
        with self._lock:
            if self._end is not None or self._finished:
                raise Alone
            self._waiting[ident] = waiting
            self._outgoing.add(ident, asked)
            self._send()
        try:
            return waiting.wait(asked.seconds)
        finally:
            if ident in self._waiting:  # nobody waits for its answer any more
                with self._lock:
                    if self._waiting.pop(ident, None) is not None:
                        self._outgoing.cancel(ident)
                        self._send()

    def finish(self) -> None:
        """Take no further call; it ends when those in progress are answered."""
        with self._lock:
            self._finished = True
            self._send()

    def close(self) -> None:
        """End it now, with what is in progress."""
        self.ended = True
        self._stream.cancel()
        if self._reader is not threading.current_thread():
            self._reader.join(1.0)

    abandon = close
    """Its client has gone, or the process ends."""

    def _send(self) -> None:
        """Send what has gathered, unless something is being sent. The lock is held."""
        if self._stream.is_sending:
            return
        if self._outgoing:
            self._stream.send(self._outgoing.message())
        elif self._finished and not self._closing:
            self._closing = True
            self._stream.finish()

    def _read(self) -> None:
        """Take what comes, until the end."""
        for message in self._stream.messages():
            if message is None:
                with self._lock:
                    self._send()
                continue
            try:
                answers = pb.SessionResponse.FromString(message).answers
            except DecodeError:
                self._stream.cancel()
                continue
            self.proven = True
            for answer in answers:
                waiting = self._waiting.pop(answer.id, None)
                if waiting is not None:
                    waiting.tell(answer)
        end = self._end_of(self._stream.end)
        with self._lock:
            self.ended, self._end = True, end
            left, self._waiting = self._waiting, {}
        for waiting in left.values():
            waiting.tell(end)
