"""A session of threads: each sends its own call.

On the stream one thread hands all answers out. On a connection of the lane whoever waits for an
answer does, one at a time, so that a lone caller needs no other thread.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any

from google.protobuf.message import DecodeError

from varserve import lane
from varserve._client.transport.endpoint import Endpoint, Metadata
from varserve._client.transport.lane import connect_session
from varserve.v1 import session_pb2 as pb

from .asked import Alone, Asked, Late
from .base import OTHER_END_SECONDS, PATH, Session, broken
from .connection import Connection
from .stream import Stream

# Whoever waits looks so often whether there is something else to do: a message of which a part is
# left, a turn that nobody took over.
_READER_SECONDS = 0.05
_OTHERS_SECONDS = 0.5


class _Waiting:
    """A thread that waits for an answer."""

    __slots__ = ("_woken", "outcome")

    def __init__(self) -> None:
        self._woken = threading.Lock()
        self._woken.acquire()
        self.outcome: pb.SessionAnswer | BaseException | None = None

    def tell(self, outcome: pb.SessionAnswer | BaseException) -> None:
        self.outcome = outcome
        self.wake()

    def wake(self) -> None:
        with suppress(RuntimeError):  # it wakes already
            self._woken.release()

    def wait(self, seconds: float) -> None:
        """Wait to be woken, at most so long."""
        self._woken.acquire(timeout=max(0.0, seconds))


class SyncSession(Session):
    """A session of any number of threads."""

    def __init__(self, channel: Any, metadata: Metadata, endpoint: Endpoint) -> None:
        """Raises AttributeError or TypeError where gRPC has no such streams; see `Stream`."""
        super().__init__(metadata, endpoint)
        self._stream = Stream(channel, PATH, metadata, endpoint.wait_for_ready)
        self._lock = self._stream.lock
        self._waiting: dict[int, _Waiting] = {}
        self._closing = self._closed = False
        self._end: BaseException | None = None
        self._connection: Connection | None = None
        self._reader = threading.Thread(target=self._read, name="varserve-session", daemon=True)
        self._reader.start()

    def ask(self, asked: Asked) -> pb.SessionAnswer:
        """Make a call and wait for its answer. Raises Alone, Late, Lost."""
        ident, waiting = next(self._ids), _Waiting()
        deadline = time.monotonic() + asked.seconds
        with self._lock:
            if self._end is not None or self._finished:
                raise Alone
            self._waiting[ident] = waiting
            self._outgoing.add(ident, asked)
            self._send()
        try:
            while waiting.outcome is None:
                if (left := deadline - time.monotonic()) <= 0:
                    raise Late
                connection = self._connection
                if connection is None or not self._receive_for(waiting, connection, deadline):
                    waiting.wait(min(left, _OTHERS_SECONDS))
        finally:
            if ident in self._waiting:  # nobody waits for its answer any more
                with self._lock:
                    if self._waiting.pop(ident, None) is not None:
                        self._outgoing.cancel(ident)
                        self._send()
        if isinstance(waiting.outcome, BaseException):
            raise waiting.outcome
        return waiting.outcome

    def finish(self) -> None:
        """Take no further call; it ends when those in progress are answered."""
        with self._lock:
            self._finished = True
            self._send()

    def close(self) -> None:
        """End it now, with what is in progress."""
        self.ended = self._closed = True
        self._stream.cancel()
        if self._reader is not threading.current_thread():
            self._reader.join(1.0)

    abandon = close
    """Its client has gone, or the process ends."""

    # What goes.

    def _send(self) -> None:
        """Send what has gathered, unless something is being sent. The lock is held."""
        if self._end is not None:
            return
        try:
            if self._connection is not None:
                self._send_beside(self._connection)
            elif not self._stream.is_sending:
                if self._outgoing:
                    self._stream.send(self._outgoing.message())
                else:
                    self._finish()
        except BaseException as error:  # Ctrl-C: of what has gathered some may be lost
            self._break(f"{type(error).__name__} while a message was sent")
            raise

    def _send_beside(self, connection: Connection) -> None:
        if connection.is_sending:
            connection.send_rest()
        while self._outgoing and not connection.is_sending:
            connection.send(self._outgoing.message())
        if not connection.is_sending:
            self._finish()

    def _finish(self) -> None:
        if not self._finished or self._closing:
            return
        self._closing = True
        if self._connection is not None and self._connection.is_used:
            self._connection.finish()
        else:
            self._stream.finish()

    # What comes on the lane, to whoever waits.

    def _receive_for(self, waiting: _Waiting, connection: Connection, deadline: float) -> bool:
        """Receive for all until this one has its answer. False: others do, or nobody can."""
        if connection.ended_at is not None:
            if time.monotonic() - connection.ended_at > OTHER_END_SECONDS:
                self._break("the connection ended")
            return False
        try:
            # In the block that gives it back: Ctrl-C may come right after this.
            if not connection.reading.acquire(blocking=False):
                return False
            while waiting.outcome is None and connection.ended_at is None:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._receive(connection, min(left, _READER_SECONDS))
        finally:
            try:
                connection.reading.release()
            except RuntimeError:
                pass  # it is another thread's
            else:
                self._pass_on()
        return True

    def _receive(self, connection: Connection, seconds: float) -> None:
        """Wait, and hand out what has come. The turn to receive is held."""
        came = connection.wait(seconds)
        if connection.is_sending:
            with self._lock:
                self._send()
        if not came:
            return
        try:
            for message in connection.receive():
                self._hand_out(pb.SessionResponse.FromString(message))
        except (lane.LaneError, DecodeError) as error:
            self._break(error)
        except BaseException as error:  # Ctrl-C: an answer of somebody else may be lost
            self._break(f"{type(error).__name__} while answers were handed out")
            raise

    def _pass_on(self) -> None:
        """Let somebody who waits receive."""
        if self._waiting:
            with self._lock:
                following = next(iter(self._waiting.values()), None)
            if following is not None:
                following.wake()

    def _hand_out(self, response: pb.SessionResponse) -> None:
        self.proven = True
        for answer in response.answers:
            waiting = self._waiting.pop(answer.id, None)
            if waiting is not None:
                waiting.tell(answer)

    # What comes on the stream, and the end: to a thread of its own.

    def _read(self) -> None:
        for message in self._stream.messages():
            if message is None:
                with self._lock:
                    self._send()
                continue
            try:
                response = pb.SessionResponse.FromString(message)
            except DecodeError:
                self._stream.cancel()
                continue
            self._hand_out(response)
            if response.HasField("lane"):
                self._connect(response.lane)
        self._settle()

    def _connect(self, told: pb.SessionLane) -> None:
        """Go on by the connection that the service offers, if there is a way to it."""
        peer = connect_session(told, self._wanted)
        if peer is None:
            return
        with self._lock:
            self._connection = Connection(peer, told.message_bytes)
        self._pass_on()

    def _break(self, why: object) -> None:
        """End it, with what is in progress: nothing more can be told on the lane."""
        self._broken = self._broken or broken(why)
        self._stream.cancel()

    def _settle(self) -> None:
        """The stream has ended: so do the calls that have no answer."""
        connection = self._connection
        if connection is not None:
            self._receive_last(connection)
        end = self._broken or self._end_of(self._stream.end)
        with self._lock:
            self.ended, self._end = True, end
            left, self._waiting = self._waiting, {}
        for waiting in left.values():
            waiting.tell(end)
        if connection is not None:
            connection.hang_up()
            with connection.reading, self._lock:
                self._connection = None
                connection.close()

    def _receive_last(self, connection: Connection) -> None:
        """Hand out answers that came before the end: what they were for has been done."""
        until = time.monotonic() + OTHER_END_SECONDS
        while connection.ended_at is None and self._broken is None and not self._closed:
            if time.monotonic() > until:
                self._break("the service did not end the connection")
            elif connection.reading.acquire(timeout=_READER_SECONDS):
                try:
                    self._receive(connection, _READER_SECONDS)
                finally:
                    connection.reading.release()
