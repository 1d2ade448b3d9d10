"""Runs operations in the calling thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from varserve._client import errors
from varserve._client.transport import sessions
from varserve._client.transport.calls import Call, Close, Op, Open, Receive, Receiver, Sleep, Step
from varserve._client.transport.forks import GATE
from varserve._client.transport.sessions import Alone, Asked, Late, Lost
from varserve.frames import ACCEPTED_KEY, FrameError
from varserve.tensors import TensorError

from .base import Driver

if TYPE_CHECKING:
    from varserve._client.transport.watch_sessions import Watches

T = TypeVar("T")


class Sync(Driver):
    """Any number of threads may share one."""

    module = grpc

    def run(self, op: Op[T]) -> T:
        """The result of an operation. Raises VarserveError."""
        go_on, given = op.send, None
        try:
            while True:
                step = go_on(given)
                try:
                    go_on, given = op.send, self._take(step)
                except Exception as error:
                    go_on, given = op.throw, self._error(error)
                    if given is None:
                        raise
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        except (TensorError, FrameError) as error:
            raise errors.from_reason(error.reason, error.message) from None
        finally:
            op.close()  # also when what ends it is no failure of the call: Ctrl-C, say
            del given  # a failure, by its traceback, holds this frame

    def _take(self, step: Step) -> Any:
        if isinstance(step, Call):
            return self._call(step)
        if isinstance(step, Open):
            GATE.check()
            with GATE:
                return self._begin_watch(step.call)
        if isinstance(step, Receive):
            return GATE.receive(step.stream)
        if isinstance(step, Sleep):
            return time.sleep(step.seconds)
        if isinstance(step, Close):
            channel = self._hang_up()
            with GATE:
                return channel and channel.close()
        return step.do()

    def _call(self, call: Call) -> Any:
        GATE.check()
        asked = self._asked(call)
        if asked is not None:
            reply = self._in_session(asked)
            if reply is not None:
                return call.method.read(reply)
        stub, options = self._prepared(call)
        if call.receive is None and not call.method.streams_requests:
            with GATE:
                return stub(call.request, **options)
        if call.hand_over is not None:
            with GATE:
                return _handed_over(stub, call, call.hand_over, options)
        request = call.request() if call.method.streams_requests else call.request
        with GATE:
            answer = stub(request, **options)
            if call.receive is None:
                return answer
            if call.method.streams_requests:
                # A thread of gRPC's sends the request meanwhile.
                return _received(answer, call.receive(), nullcontext())
        return _received(answer, call.receive(), GATE)

    def _in_session(self, asked: Asked) -> bytes | None:
        """The encoded response; None: the call is to be made alone. Raises VarserveError."""
        with GATE:
            session = self._open_session(sessions.SyncSession)
            if session is None:
                return None
            try:
                return sessions.response_of(session.ask(asked))
            except (Alone, Late, Lost) as why:
                error = self._unanswered(session, why)
        if error is not None:
            raise error
        return None

    def _new_watches(self) -> Watches:
        from varserve._client.transport.watch_sessions import SyncWatches

        return SyncWatches(self.endpoint)

    def _before_fork(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()


def _handed_over(
    stub: Any, call: Call, hand_over: Callable[[bytes], bool], options: dict[str, Any]
) -> Any:
    """The answer to a request whose body goes by `hand_over`, if the service gives a ticket."""
    from varserve.lane import TICKET_KEY

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
