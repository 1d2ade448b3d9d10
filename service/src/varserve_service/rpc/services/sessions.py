"""Session: many small unary calls on one stream.

Owns the calls of one session: one task reads, one writes, and each call has a task of its own. Each
call goes through every step of a call that comes alone; knows nothing of what it does.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from typing import Any, Final

import grpc

from varserve import frames
from varserve.reasons import Failure
from varserve.v1 import session_pb2 as pb
from varserve_service.core.errors import Reason, RequestError
from varserve_service.rpc.calls.call import RpcCall
from varserve_service.rpc.failures import Failed, shortened
from varserve_service.rpc.messages import translate

from .backend import Backend

MAX_CALLS: Final = 256
"""Of one session in progress at once, as many as streams of a connection by default."""
MAX_IN_MESSAGE: Final = 1000
"""Calls in one message, and cancellations."""

# Answers that wait to be sent, in bytes, beyond which no further call begins; and of one message,
# unless a single answer is longer.
_UNSENT_BYTES = 4 << 20
_MESSAGE_BYTES = 256 << 10
# Calls that begin before others have a turn of the event loop, and the bytes of their requests.
_PAGE_CALLS = 32
_PAGE_BYTES = 64 << 10
# Deadlines are looked at so often, while there are any.
_LOOK_SECONDS = 0.05
_SERVICE = "varserve.v1.ModelService"


async def session(backend: Backend, request: None, call: RpcCall) -> None:
    """Session."""
    opened = Session(backend, call)
    backend.sessions.add(opened.end)
    try:
        await opened.run()
    finally:
        backend.sessions.discard(opened.end)


class _Nested:
    """One call of a session."""

    __slots__ = ("call", "deadline", "gone", "late", "started", "task")

    def __init__(self, call: pb.SessionCall) -> None:
        self.call = call
        self.started = self.gone = self.late = False
        self.deadline = math.inf
        self.task: asyncio.Task[None] | None = None

    def cancel(self, *, late: bool = False) -> None:
        """End it: its deadline has passed if `late`, else nobody waits for its answer."""
        if self.late or self.gone:
            return
        self.late, self.gone = late, not late
        # One that has not started sees it when it does; cancelled now, it would see nothing.
        if self.started and self.task is not None:
            self.task.cancel()


class Session:
    """The calls of one stream. Used from the event loop alone."""

    def __init__(self, backend: Backend, call: RpcCall) -> None:
        self._backend = backend
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._nested: dict[int, _Nested] = {}
        self._answers: deque[tuple[pb.SessionAnswer, int]] = deque()
        self._unsent = 0
        self._moved = asyncio.Event()
        """There is an answer to send, or nothing more to read."""
        self._room = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._messages = 0
        self._why: RequestError | None = None

    async def run(self) -> None:
        """Answer calls until the client ends the session, or `end` is called.

        Raises CallerGone, RequestError.
        """
        self._reader = self._loop.create_task(self._read())
        self._reader.add_done_callback(lambda _: self._moved.set())
        self._look_for_calls()
        try:
            await self._write()
            if not self._reader.cancelled():
                self._reader.result()
        finally:
            for timer in (self._idle, self._looking):
                if timer is not None:
                    timer.cancel()
            if not self._reader.cancel() and not self._reader.cancelled():
                self._reader.exception()  # it has been raised, or the client has gone
            await self._cancel_all()
        if self._why is not None:
            raise self._why

    def end(self, why: RequestError | None = None) -> None:
        """Begin no further call; the session ends, with `why`, when all are answered."""
        self._why = self._why or why
        if self._reader is not None:
            self._reader.cancel()

    # What comes.

    async def _read(self) -> None:
        async for data in self._call:
            self._messages += 1
            request = await self._backend.decode_message(self._call, data)
            for ident in request.cancelled_ids:
                nested = self._nested.get(ident)
                if nested is not None:
                    nested.cancel()
            calls = nbytes = 0
            for each in request.calls:
                await self._wait_for_room()
                self._begin(each)
                calls, nbytes = calls + 1, nbytes + len(each.request)
                if calls >= _PAGE_CALLS or nbytes >= _PAGE_BYTES:
                    calls = nbytes = 0
                    await asyncio.sleep(0)

    async def _wait_for_room(self) -> None:
        while len(self._nested) + len(self._answers) >= MAX_CALLS or self._unsent >= _UNSENT_BYTES:
            self._room.clear()
            await self._room.wait()

    def _begin(self, call: pb.SessionCall) -> None:
        if call.id in self._nested:
            raise translate.malformed(
                f"id: expected one that no call in progress has, found {call.id}"
            )
        nested = self._nested[call.id] = _Nested(call)
        nested.task = self._loop.create_task(self._answer(nested))

    # The calls.

    async def _answer(self, nested: _Nested) -> None:
        call, answer = nested.call, pb.SessionAnswer(id=nested.call.id)
        nested.started = True
        try:
            if nested.gone:
                return
            seconds = call.timeout_seconds
            if not seconds >= 0:
                raise Failed(_malformed(f"timeout_seconds: expected 0 or more, found {seconds}"))
            if seconds:
                nested.deadline = time.monotonic() + seconds
                self._look()
            response = await self._backend.nested(
                f"{_SERVICE}.{call.method}",
                call.request,
                self._call,
                deadline=nested.deadline,
                traces=_traces(call),
            )
            answer.response = frames.write_message(response)
        except Failed as error:
            answer.error.ParseFromString(shortened(error.failure).details())
        except asyncio.CancelledError:
            if not nested.late:
                nested.gone = True
                return
            # Without a reason, as alone: whether the call was done is not known.
            answer.error.code = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
            answer.error.message = "the deadline passed; a write may or may not have been done"
        finally:
            del self._nested[call.id]
            self._room.set()
            if not nested.gone:
                nbytes = answer.ByteSize()
                self._unsent += nbytes
                self._answers.append((answer, nbytes))
            self._moved.set()

    def _look(self) -> None:
        """Have deadlines looked at from now on."""
        if self._looking is None:
            self._looking = self._loop.call_later(_LOOK_SECONDS, self._end_late)

    def _end_late(self) -> None:
        self._looking = None
        now = time.monotonic()
        for nested in self._nested.values():
            if nested.deadline <= now:
                nested.cancel(late=True)
        if any(nested.deadline < math.inf for nested in self._nested.values()):
            self._look()

    def _look_for_calls(self) -> None:
        """End the session if no call comes for as long as a transfer may be silent."""
        self._idle = self._loop.call_later(
            self._backend.transfers.silence, self._end_if_idle, self._messages
        )

    def _end_if_idle(self, messages: int) -> None:
        if self._messages == messages and not self._nested:
            self.end()
        else:
            self._look_for_calls()

    async def _cancel_all(self) -> None:
        tasks = [nested.task for nested in self._nested.values() if nested.task is not None]
        for nested in list(self._nested.values()):
            nested.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # What goes.

    async def _write(self) -> None:
        assert self._reader is not None
        while True:
            await self._moved.wait()
            self._moved.clear()
            while self._answers:
                answers = self._gathered()
                self._room.set()
                await self._send(pb.SessionResponse(answers=answers))
            if self._reader.done() and not self._nested:
                return

    def _gathered(self) -> list[pb.SessionAnswer]:
        answers: list[pb.SessionAnswer] = []
        total = 0
        while self._answers and (not answers or total + self._answers[0][1] <= _MESSAGE_BYTES):
            answer, nbytes = self._answers.popleft()
            answers.append(answer)
            total += nbytes
        self._unsent -= total
        return answers

    async def _send(self, response: pb.SessionResponse) -> None:
        silence = self._backend.transfers.silence
        try:
            async with asyncio.timeout(silence) as bound:
                await self._call.write(response)
        except TimeoutError:
            if not bound.expired():
                raise
            raise RequestError(
                Reason.DEADLINE_EXCEEDED,
                f"the client has taken no answer for {silence:g} seconds; the session ends",
            ) from None


def _traces(call: Any) -> tuple[tuple[str, str], ...]:
    if not call.traceparent:
        return ()
    state = (("tracestate", call.tracestate),) if call.tracestate else ()
    return (("traceparent", call.traceparent), *state)


def _malformed(problem: str) -> Failure:
    return Failure(Reason.REQUEST_MALFORMED.value, problem)
