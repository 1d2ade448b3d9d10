"""Sessions here: many small calls on one stream, of threads or of tasks.

Owns what waits for an answer, and what waits to be sent: one message carries whatever has gathered.
Knows nothing of retries, and of a call its method and the bytes of its request.
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
from typing import Any, NamedTuple

import grpc
import grpc.aio

from varserve import reasons
from varserve._client import errors
from varserve.v1 import session_pb2 as pb

from .endpoint import Metadata

PATH = "/varserve.v1.ModelService/Session"
MAX_REQUEST_BYTES = 64 << 10
"""Of a request that goes in a session: a longer one would hold up the others."""

# A session takes no further calls after so long: where a name has several servers, or a server asks
# its clients to connect again, they are looked for then.
_LIFE_SECONDS = 60.0
# Of one message.
_MAX_CALLS = 128
_MAX_BYTES = 256 << 10
# Deadlines of tasks are looked at so often.
_LOOK_SECONDS = 0.02
_LONGEST_WAIT = threading.TIMEOUT_MAX

# What a session ends with where the service has begun no call that it did not answer.
_UNBEGUN = ("SHUTTING_DOWN",)


class Alone(Exception):
    """The call has not begun, and cannot in a session: it is to be made alone."""


class Late(Exception):
    """The call's deadline has passed."""


class Lost(Exception):
    """The session ended while the call was in progress; `error` is gRPC's."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


class Asked(NamedTuple):
    """What is asked in a session. `seconds`: until its deadline; infinity for none."""

    method: str
    request: bytes
    seconds: float
    traces: Metadata

    def message(self, ident: int) -> pb.SessionCall:
        """The call as it is sent."""
        call = pb.SessionCall(id=ident, method=self.method, request=self.request)
        if self.seconds < math.inf:
            call.timeout_seconds = self.seconds
        for key, value in self.traces:
            if key in ("traceparent", "tracestate"):
                setattr(call, key, value)
        return call


class _Opened:
    """What both kinds of session share. `proven`: it has had an answer."""

    def __init__(self, metadata: Metadata) -> None:
        self.metadata = metadata
        self.proven = False
        self.ended = False
        self._finished = False
        self.missing = False
        """The service has no sessions."""
        self._ids = itertools.count(1)
        self._until = time.monotonic() + _LIFE_SECONDS

    def takes(self, metadata: Metadata) -> bool:
        """Whether a call with this metadata, of the session, can begin in it."""
        return not self.ended and metadata == self.metadata and time.monotonic() < self._until

    @property
    def is_young(self) -> bool:
        """Whether it began a moment ago."""
        return time.monotonic() < self._until - _LIFE_SECONDS + 1.0

    def _end_of(self, error: BaseException | None) -> BaseException:
        """What becomes of calls that have no answer."""
        if error is None or _reason(error) in _UNBEGUN:
            return Alone()
        code = getattr(error, "code", lambda: None)()
        if code is grpc.StatusCode.UNIMPLEMENTED:
            self.missing = True
            return Alone()
        return Lost(error)


def _reason(error: Any) -> str:
    for key, value in getattr(error, "trailing_metadata", lambda: ())() or ():
        if key == reasons.DETAILS_KEY:
            failure = reasons.read_details(value)
            return failure.reason if failure is not None else ""
    return ""


def response_of(answer: pb.SessionAnswer) -> bytes:
    """The encoded response. Raises the call's VarserveError, and Late."""
    if answer.WhichOneof("outcome") == "response":
        return answer.response
    failure = reasons.read_details(answer.error.SerializeToString())
    if failure is None and answer.error.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]:
        raise Late  # so says the service's clock; whether the call was done, it does not say
    if failure is None:
        raise errors.ServiceError(f"expected a reason, found status {answer.error.code} alone")
    raise errors.from_reason(failure.reason, failure.message, failure.metadata, from_service=True)


def _stub(channel: Any, read: Callable[[bytes], Any]) -> Any:
    return channel.stream_stream(
        PATH,
        request_serializer=pb.SessionRequest.SerializeToString,
        response_deserializer=read,
    )


# ---- threads ----


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


class SyncSession(_Opened):
    """A session of any number of threads."""

    def __init__(self, channel: Any, metadata: Metadata, wait_for_ready: bool) -> None:
        super().__init__(metadata)
        self._changing = threading.Lock()
        self._waiting: dict[int, _Waiting] = {}
        self._outgoing: SimpleQueue[pb.SessionCall | int | None] = SimpleQueue()
        self._stream = _stub(channel, self._deliver)(
            self._requests(), metadata=metadata or None, wait_for_ready=wait_for_ready
        )
        self._end: BaseException | None = None
        self._reader = threading.Thread(target=self._read, name="varserve-session", daemon=True)
        self._reader.start()

    def ask(self, asked: Asked) -> pb.SessionAnswer:
        """Make a call and wait for its answer. Raises Alone, Late, Lost."""
        ident, waiting = next(self._ids), _Waiting()
        message = asked.message(ident)
        with self._changing:
            if self._end is not None or self._finished:
                raise Alone
            self._waiting[ident] = waiting
            self._outgoing.put(message)
        try:
            return waiting.wait(asked.seconds)
        finally:
            if self._waiting.pop(ident, None) is not None:
                self._outgoing.put(ident)  # nobody waits for its answer any more

    def finish(self) -> None:
        """Take no further call; it ends when those in progress are answered."""
        with self._changing:
            self._finished = True
            self._outgoing.put(None)

    def close(self) -> None:
        """End it now, with what is in progress."""
        self.ended = True
        self._stream.cancel()
        self._outgoing.put(None)
        self._reader.join(1.0)

    abandon = close
    """Its client has gone, or the process ends."""

    def _requests(self) -> Iterator[pb.SessionRequest]:
        """What is sent, on a thread of gRPC's: as many calls as have gathered."""
        while True:
            calls: list[pb.SessionCall] = []
            cancelled: list[int] = []
            nbytes = 0
            each = self._outgoing.get()
            while True:
                if each is None:
                    return
                if isinstance(each, int):
                    cancelled.append(each)
                else:
                    calls.append(each)
                    nbytes += len(each.request)
                if len(calls) + len(cancelled) >= _MAX_CALLS or nbytes >= _MAX_BYTES:
                    break
                try:
                    each = self._outgoing.get_nowait()
                except Empty:
                    break
            if cancelled:  # what was given up before it was sent is not sent
                calls = [call for call in calls if call.id not in cancelled]
            yield pb.SessionRequest(calls=calls, cancelled_ids=cancelled)

    def _deliver(self, data: bytes) -> bytes:
        """Hand the answers of a message out, on the thread that receives it.

        A hand-over to the reader and from there to who waits would take half as long again.
        """
        self.proven = True
        for answer in pb.SessionResponse.FromString(data).answers:
            waiting = self._waiting.pop(answer.id, None)
            if waiting is not None:
                waiting.tell(answer)
        return data

    def _read(self) -> None:
        """Ask for one message after the other, until the end."""
        error: BaseException | None = None
        try:
            for _ in self._stream:
                pass
        except grpc.RpcError as raised:
            error = raised
        end = self._end_of(error)
        with self._changing:
            self.ended, self._end = True, end
            left, self._waiting = self._waiting, {}
        for waiting in left.values():
            waiting.tell(end)
        self._outgoing.put(None)


# ---- tasks ----


class AsyncSession(_Opened):
    """A session of any number of tasks of one event loop."""

    def __init__(self, channel: Any, metadata: Metadata, wait_for_ready: bool) -> None:
        super().__init__(metadata)
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, tuple[asyncio.Future[pb.SessionAnswer], float]] = {}
        self._calls: deque[pb.SessionCall] = deque()
        self._cancelled: list[int] = []
        self._some = asyncio.Event()
        self._looking: asyncio.TimerHandle | None = None
        stub = _stub(channel, pb.SessionResponse.FromString)
        self._stream = stub(metadata=metadata or None, wait_for_ready=wait_for_ready)
        self._tasks = [self._loop.create_task(self._write()), self._loop.create_task(self._read())]

    async def ask(self, asked: Asked) -> pb.SessionAnswer:
        """Make a call and wait for its answer. Raises Alone, Late, Lost."""
        if self.ended or self._finished:
            raise Alone
        ident, answer = next(self._ids), self._loop.create_future()
        self._waiting[ident] = answer, self._loop.time() + asked.seconds
        self._calls.append(asked.message(ident))
        self._some.set()
        if asked.seconds < math.inf and self._looking is None:
            self._looking = self._loop.call_later(_LOOK_SECONDS, self._look)
        try:
            found: pb.SessionAnswer = await answer
            return found
        finally:
            if self._waiting.pop(ident, None) is not None:
                self._cancelled.append(ident)
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
                while self._calls or self._cancelled:
                    cancelled = self._cancelled[:_MAX_CALLS]
                    del self._cancelled[:_MAX_CALLS]
                    if cancelled:  # what was given up before it was sent is not sent
                        self._calls = deque(c for c in self._calls if c.id not in cancelled)
                    calls: list[pb.SessionCall] = []
                    nbytes = 0
                    while self._calls and len(calls) < _MAX_CALLS and nbytes < _MAX_BYTES:
                        calls.append(self._calls.popleft())
                        nbytes += len(calls[-1].request)
                    request = pb.SessionRequest(calls=calls, cancelled_ids=cancelled)
                    await self._stream.write(request)
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
            code = await self._stream.code()
            if code is not grpc.StatusCode.OK:
                error = _Ended(
                    code, await self._stream.details(), await self._stream.trailing_metadata()
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


class _Ended(grpc.RpcError):  # type: ignore[misc]  # grpc has no types
    """How a stream ended, where gRPC tells without raising."""

    def __init__(self, code: grpc.StatusCode, details: str, metadata: Any) -> None:
        super().__init__(details)
        self._code, self._details, self._metadata = code, details, metadata

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> Any:
        return self._metadata
