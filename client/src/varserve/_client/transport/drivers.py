"""The two ways to run an operation: in the calling thread, or as a coroutine of an event loop.

Owns the channel. Knows nothing of what the calls mean.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar
from weakref import finalize

import grpc
import grpc.aio

from varserve._client import errors
from varserve.frames import ACCEPTED_KEY, FrameError, write_message
from varserve.lane import TICKET_KEY
from varserve.tensors import TensorError

from .calls import Call, Close, Op, Open, Receive, Receiver, Sleep, Step, Work
from .endpoint import Endpoint
from .failures import failure_of, late
from .forks import GATE, Renewable
from .session_usage import Usage
from .sessions import (
    MAX_REQUEST_BYTES,
    Alone,
    Asked,
    AsyncSession,
    Late,
    Lost,
    SyncSession,
    response_of,
)
from .watch_sessions import AsyncWatches, SyncWatches, Watches

T = TypeVar("T")


def _step(go_on: Callable[[Any], Step], given: Any) -> Step:
    """What an operation asks for next. Raises StopIteration, with its result, when it is done."""
    try:
        return go_on(given)
    except (TensorError, FrameError) as error:
        raise errors.from_reason(error.reason, error.message) from None


class Driver(Renewable):
    """What both drivers share: the channel, opened at the first call."""

    module: Any
    watches_of: type[Watches]

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.closed = False
        self._lock = threading.Lock()
        self._channel: Any = None
        self._stubs: dict[str, Any] = {}
        self._usage = Usage(endpoint.sessions)
        self._session: Any = None
        self._end_session = finalize(self, lambda: None)
        self._watches = self.watches_of(endpoint)
        GATE.renew_in_child(self)

    def _after_fork(self) -> None:
        """This is a forked child: the channel is the parent's."""
        self._lock = threading.Lock()
        GATE.abandon((self._channel, self._stubs, self._session))
        self._end_session.detach()
        self._channel, self._stubs, self._session = None, {}, None

    def _prepared(self, call: Call) -> tuple[Callable[..., Any], dict[str, Any]]:
        """What makes the grpc call, and with which options."""
        method = call.method
        metadata = self.endpoint.call_metadata()
        with self._lock:
            channel = self._opened_channel()
            stub = self._stubs.get(method.path)
            if stub is None:
                self._stubs[method.path] = stub = getattr(channel, method.shape)(
                    method.path,
                    request_serializer=write_message,
                    response_deserializer=method.read,
                )
        remaining = call.budget.remaining()
        return stub, {
            # What is longer than decades is past for gRPC, which counts in nanoseconds.
            "timeout": None if remaining > 1e9 else remaining,
            "metadata": metadata,
            "wait_for_ready": self.endpoint.wait_for_ready,
        }

    def _opened_channel(self) -> Any:
        """The channel; the lock is held."""
        if self.closed:
            raise errors.ClientClosed("this client is closed")
        if self._channel is None:
            with GATE:
                self._channel = self.endpoint.channel(self.module, shared=not GATE.forked)
        return self._channel

    def _hang_up(self) -> Any:
        with self._lock:
            self.closed = True
            channel, self._channel = self._channel, None
            session, self._session = self._session, None
            self._stubs.clear()
        if session is not None:
            session.close()
        self._watches.close()
        return channel

    def _begin_watch(self, call: Call) -> Any:
        """The stream of a watch, which may share one with others."""

        def alone() -> Any:
            stub, options = self._prepared(call)
            return stub(call.request, **options)

        def channel() -> Any:
            with self._lock:
                return self._opened_channel()

        return self._watches.open(call, channel, alone)

    # Small calls that come often share a stream.

    def _asked(self, call: Call) -> Asked | None:
        """What goes in a session; None for a call that is made alone."""
        if not call.method.small or not self._usage.wants(self._session is not None):
            return None
        request, seconds = write_message(call.request), call.budget.remaining()
        if len(request) > MAX_REQUEST_BYTES or seconds <= 0:
            return None
        return Asked(call.method.name, request, seconds, self.endpoint.trace())

    def _open_session(self, kind: Any) -> Any:
        """The session for a call that begins now; None where it is better made alone."""
        metadata = self.endpoint.session_metadata()
        with self._lock:
            session = self._session
            if session is not None and session.takes(metadata):
                return session
            if session is not None:
                self._session = None
                session.finish()
                if session.metadata != metadata and session.is_young:
                    # Credentials that are new for each call would have a session each.
                    self._usage.failed()
                    return None
            channel = self._opened_channel()
            self._session = kind(channel, metadata, self.endpoint.wait_for_ready)
            # Its threads keep it, also when nobody keeps the client.
            self._end_session.detach()
            self._end_session = finalize(self, self._session.abandon)
            return self._session

    def _unanswered(self, session: Any, why: Exception) -> errors.VarserveError | None:
        """The error of a call that a session has no answer to; None: it is to be made alone."""
        if session.missing:
            self._usage.impossible()
        elif not session.proven:
            self._usage.failed()
            session.close()
        if isinstance(why, Alone):
            return None
        if not isinstance(why, Lost):
            return late(self.endpoint.target)
        error = self._error(why.error)
        if isinstance(error, errors.Unauthenticated) or (error and not error.from_service):
            return error
        return errors.Unavailable(
            f"{self.endpoint.target}: the session ended during the call: {error or why}"
        )

    def _error(self, error: BaseException) -> errors.VarserveError | None:
        return failure_of(error, self.endpoint.way, closed=self.closed)


class Sync(Driver):
    """Runs operations in the calling thread. Any number of threads may share one."""

    module = grpc
    watches_of = SyncWatches

    def run(self, op: Op[T]) -> T:
        """The result of an operation. Raises VarserveError."""
        go_on, given = op.send, None
        try:
            while True:
                try:
                    step = _step(go_on, given)
                except StopIteration as stop:
                    return stop.value  # type: ignore[no-any-return]
                try:
                    go_on, given = op.send, self._take(step)
                except Exception as error:
                    go_on, given = op.throw, self._error(error)
                    if given is None:
                        raise
        finally:
            op.close()  # also when what ends it is no failure of the call: Ctrl-C, say
            del given  # a failure, by its traceback, holds this frame

    def _take(self, step: Step) -> Any:
        if isinstance(step, Sleep):
            return time.sleep(step.seconds)
        if isinstance(step, Work):
            return step.do()
        if isinstance(step, Close):
            channel = self._hang_up()
            with GATE:
                return channel and channel.close()
        if isinstance(step, Receive):
            return GATE.receive(step.stream)
        GATE.check()
        if isinstance(step, Open):
            with GATE:
                return self._begin_watch(step.call)
        call = step
        asked = self._asked(call)
        if asked is not None:
            reply = self._in_session(asked)
            if reply is not None:
                return call.method.read(reply)
        stub, options = self._prepared(call)
        if call.hand_over is not None:
            with GATE:
                return _handed_over(stub, call, call.hand_over, options)
        request = call.request() if call.method.streams_requests else call.request
        with GATE:
            answer = stub(request, **options)
            if step.receive is None:
                return answer
            if call.method.streams_requests:
                # A thread of gRPC's sends the request meanwhile.
                return _received(answer, step.receive(), nullcontext())
        return _received(answer, step.receive(), GATE)

    def _in_session(self, asked: Asked) -> bytes | None:
        """The encoded response; None: the call is to be made alone. Raises VarserveError."""
        with GATE:
            session = self._open_session(SyncSession)
            if session is None:
                return None
            try:
                return response_of(session.ask(asked))
            except (Alone, Late, Lost) as why:
                error = self._unanswered(session, why)
        if error is not None:
            raise error
        return None

    def _before_fork(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()


def _handed_over(
    stub: Any, call: Call, hand_over: Callable[[bytes], bool], options: dict[str, Any]
) -> Any:
    """The answer to a request whose body goes by `hand_over`, if the service gives a ticket."""
    begun: Future[Any] = Future()

    def messages() -> Iterator[Any]:  # on a thread of gRPC's
        own = call.request()
        yield next(own)
        metadata = dict(begun.result().initial_metadata() or ())
        ticket = metadata.get(TICKET_KEY)
        if ACCEPTED_KEY in metadata and (ticket is None or not hand_over(ticket)):
            yield from own

    answer = stub.future(messages(), **options)
    begun.set_result(answer)
    try:
        return answer.result()
    finally:
        answer.cancel()


def _received(answer: Any, receiver: Receiver, gate: AbstractContextManager[None]) -> Any:
    """What a receiver makes of a stream; each wait for a message is in the gate."""
    try:
        while True:
            with gate:
                message = next(answer, None)
            if message is None:
                return receiver.finish()
            receiver.take(message)
    finally:
        answer.cancel()


class _Upload:
    """The messages of a streaming request: the chunks only when the manifest was accepted.

    The service says so in its initial metadata. grpc.aio, unlike the blocking grpc, loses
    the service's answer when that comes while a message is being sent, and reports INTERNAL.
    """

    def __init__(
        self,
        messages: Callable[[], Iterator[Any]],
        hand_over: Callable[[bytes], bool] | None = None,
    ) -> None:
        self._messages = messages
        self._hand_over = hand_over
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def messages(self) -> AsyncIterator[Any]:
        messages = self._messages()
        yield next(messages)
        metadata = await (await self.answer).initial_metadata()
        if ACCEPTED_KEY not in metadata:
            return
        ticket = metadata.get(TICKET_KEY)
        hand_over = self._hand_over
        if ticket is None or hand_over is None or not await asyncio.to_thread(hand_over, ticket):
            for message in messages:
                yield message


class Async(Driver):
    """Runs operations as coroutines of one event loop, and after its end of the next one."""

    module = grpc.aio
    watches_of = AsyncWatches

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def polls(self) -> bool:  # type: ignore[override]
        """The channel is open."""
        return self._channel is not None

    async def run(self, op: Op[T]) -> T:
        """The result of an operation. Raises VarserveError."""
        go_on, given = op.send, None
        try:
            while True:
                try:
                    step = _step(go_on, given)
                except StopIteration as stop:
                    return stop.value  # type: ignore[no-any-return]
                try:
                    go_on, given = op.send, await self._take(step)
                except asyncio.CancelledError as error:
                    # Closing the channel cancels its calls, which is not what cancels a task.
                    if not self.closed or _is_cancelling(asyncio.current_task()):
                        raise
                    go_on, given = op.throw, self._error(error)
                except Exception as error:
                    go_on, given = op.throw, self._error(error)
                    if given is None:
                        raise
        finally:
            op.close()
            del given

    async def _take(self, step: Step) -> Any:
        if isinstance(step, Sleep):
            return await asyncio.sleep(step.seconds)
        if isinstance(step, Work):
            return await asyncio.to_thread(step.do)
        if isinstance(step, Close):
            channel = self._hang_up()
            # A channel whose loop has ended cannot be waited for, and ends with the object.
            if channel is not None and self._loop is asyncio.get_running_loop():
                await channel.close()
            return None
        self._enter_loop()
        if isinstance(step, Receive):
            message = await step.stream.read()
            return None if message is grpc.aio.EOF else message
        if isinstance(step, Open):
            return self._begin_watch(step.call)
        call = step
        asked = self._asked(call)
        if asked is not None:
            reply = await self._in_session(asked)
            if reply is not None:
                return call.method.read(reply)
        stub, options = self._prepared(call)
        streams = call.method.streams_requests
        upload = _Upload(call.request, call.hand_over) if streams else None
        answer = stub(upload.messages() if upload else call.request, **options)
        if upload:
            upload.answer.set_result(answer)
        if step.receive is None:
            return await answer
        try:
            receiver = step.receive()
            async for message in answer:
                if receiver.blocks(message):
                    await asyncio.to_thread(receiver.take, message)
                else:
                    receiver.take(message)
            return receiver.finish()
        finally:
            answer.cancel()

    def _enter_loop(self) -> None:
        """A channel belongs to the event loop that it was made in.

        Raises InvalidRequest where that loop and its calls may go on beside this one.
        """
        GATE.check()
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._loop is loop:
                return
            if self._channel is not None and self._loop is not None:
                if not self._loop.is_closed():
                    raise errors.InvalidRequest(
                        "this client is in use in another event loop: connect once for each loop"
                    )
                self._channel, self._stubs, self._session = None, {}, None
            self._loop = loop

    async def _in_session(self, asked: Asked) -> bytes | None:
        """The encoded response; None: the call is to be made alone. Raises VarserveError."""
        session = self._open_session(AsyncSession)
        if session is None:
            return None
        try:
            return response_of(await session.ask(asked))
        except (Alone, Late, Lost) as why:
            error = self._unanswered(session, why)
        if error is not None:
            raise error
        return None


def _is_cancelling(task: asyncio.Task[Any] | None) -> bool:
    # Before Python 3.11 no task tells.
    return task is not None and getattr(task, "cancelling", lambda: 0)() > 0
