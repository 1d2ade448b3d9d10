"""Session: many small unary calls on one stream, or on a connection of the lane beside it.

Owns the calls of one session. Each call goes through every step of a call that comes alone; knows
nothing of what it does.
"""

from __future__ import annotations

import asyncio
import math
import socket
import time
from collections import deque
from collections.abc import Collection
from contextlib import suppress
from typing import Any, Final

import grpc

from varserve import frames
from varserve.reasons import Failure
from varserve.v1 import session_pb2 as pb
from varserve.v1.error_pb2 import Status
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.holdings import Holding
from varserve_service.rpc.calls.call import RpcCall
from varserve_service.rpc.failures import Failed, shortened
from varserve_service.rpc.lane import Pipe
from varserve_service.rpc.messages import translate

from .backend import Backend
from .session_lane import LaneConnection
from .shared_stream import MAX_IN_MESSAGE, MESSAGE_BYTES, UNSENT_BYTES, SharedStream, traces_of

__all__ = ["MAX_CALLS", "MAX_IN_MESSAGE", "session"]

MAX_CALLS: Final = 256
"""Of one session in progress at once, as many as streams of a connection by default."""

# Calls that begin before others have a turn of the event loop, and the bytes of their requests: to
# judge one that names a hundred variables takes as long as a page of small ones. Of what is no
# small call, by its kind, one is a page.
_PAGE_CALLS = 32
_PAGE_BYTES = 4 << 10
_SMALL = frozenset({"ReadVariable", "AssignVariable", "RunFunction", "RenewLease"})
# Deadlines are looked at so often, while there are any.
_LOOK_SECONDS = 0.05
# So many answers are sent before all that can run has run: the client goes on meanwhile.
_ENOUGH = 8
_SERVICE = "varserve.v1.ModelService"
# Without a reason, as alone: whether the call was done is not known.
_LATE = Status(
    code=grpc.StatusCode.DEADLINE_EXCEEDED.value[0],
    message="the deadline passed; a write may or may not have been done",
)


async def session(backend: Backend, request: None, call: RpcCall) -> None:
    """Session."""
    await Session(backend, call).run()


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


class _Unsent:
    """Answers that wait to be sent."""

    def __init__(self) -> None:
        self._answers: deque[tuple[int, dict[str, Any], int]] = deque()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._answers)

    def add(self, ident: int, outcome: bytes | Status) -> None:
        """The answer to a call: its response, encoded, or its error."""
        if isinstance(outcome, bytes):
            answer: dict[str, Any] = {"response": outcome}
            nbytes = len(outcome)
        else:
            answer, nbytes = {"error": outcome}, outcome.ByteSize()
        self.nbytes += nbytes
        self._answers.append((ident, answer, nbytes))

    def message(self) -> pb.SessionResponse:
        """As many of them as go in one message."""
        response = pb.SessionResponse()
        total = 0
        while self._answers and (not total or total + self._answers[0][2] <= MESSAGE_BYTES):
            ident, answer, nbytes = self._answers.popleft()
            response.answers.add(id=ident, **answer)
            total += nbytes
        self.nbytes -= total
        return response


class Session(SharedStream):
    """The calls of one stream."""

    def __init__(self, backend: Backend, call: RpcCall) -> None:
        super().__init__(backend, call)
        self._nested: dict[int, _Nested] = {}
        self._unsent = _Unsent()
        self._room = asyncio.Event()
        self._looking: asyncio.TimerHandle | None = None
        self._holdings: list[Holding] = []
        self._pipe: Pipe | None = None
        self._offer: pb.SessionLane | None = None
        self._connection: LaneConnection | None = None
        self._lane: LaneConnection | None = None
        """That connection, once the client has sent something on it."""

    @property
    def _tasks(self) -> Collection[asyncio.Task[Any]]:
        return [nested.task for nested in self._nested.values() if nested.task is not None]

    def _cancel_calls(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
        for nested in list(self._nested.values()):
            nested.cancel()

    # What comes.

    async def _take(self, request: Any) -> None:
        if request.lane and self._pipe is None:
            self._offer_lane()
        for ident in request.cancelled_ids:
            nested = self._nested.get(ident)
            if nested is not None:
                nested.cancel()
        calls = nbytes = 0
        for each in request.calls:
            if not self._has_room:
                await self._wait_for_room()
            self._begin(each)
            calls += 1 if each.method in _SMALL else _PAGE_CALLS
            nbytes += len(each.request)
            if calls >= _PAGE_CALLS or nbytes >= _PAGE_BYTES:
                calls = nbytes = 0
                await self._backend.pages.turn(self._call.queue_key)

    @property
    def _has_room(self) -> bool:
        """Whether a further call may begin."""
        unsent = self._unsent
        return len(self._nested) + len(unsent) < MAX_CALLS and unsent.nbytes < UNSENT_BYTES

    async def _wait_for_room(self) -> None:
        while not self._has_room:
            self._room.clear()
            await self._room.wait()

    def _begin(self, call: pb.SessionCall) -> None:
        if call.id in self._nested:
            raise translate.malformed(
                f"id: expected one that no call in progress has, found {call.id}"
            )
        nested = self._nested[call.id] = _Nested(call)
        nested.task = self._loop.create_task(self._answer(nested))

    # The lane.

    def _offer_lane(self) -> None:
        """Tell the client of a connection, if there is room for one."""
        found = self._backend.lane
        self._pipe = None if found is None else found.pipe(self._call.subject, self._connected)
        if found is None or self._pipe is None:
            return
        self._offer = pb.SessionLane(
            ticket=self._pipe.message,
            socket=found.path if self._call.is_local else "",
            message_bytes=self._backend.limits.message_bytes,
        )
        self._moved.set()

    def _connected(self, peer: socket.socket) -> None:
        if self._asked_all:
            peer.close()
            return
        self._connection = LaneConnection(self._backend.limits.message_bytes, peer)
        self._read_by(self._read_lane(self._connection))

    async def _read_lane(self, connection: LaneConnection) -> bool:
        try:
            await connection.open()
        except OSError:  # the client has hung up
            return False
        while (data := await connection.next()) is not None:
            # From now on: until then the client may not have what it needs to receive.
            self._lane = connection
            self._call.received()
            await self._received(data)
        return self._lane is not None

    async def _send(self, message: Any) -> None:
        if self._lane is None:
            await self._call.write(message)
            return
        await self._lane.write(frames.write_message(message))
        self._call.sent()

    async def _drain(self) -> None:
        if self._lane is not None:
            await self._lane.drain()

    # The calls.

    async def _answer(self, nested: _Nested) -> None:
        call = nested.call
        outcome: bytes | Status = b""
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
                traces=traces_of(call),
            )
            outcome = frames.write_message(response)
        except Failed as error:
            outcome = Status.FromString(shortened(error.failure).details())
        except asyncio.CancelledError:
            if not nested.late:
                nested.gone = True
                return
            outcome = _LATE
        finally:
            del self._nested[call.id]
            self._room.set()
            if not nested.gone:
                self._unsent.add(call.id, outcome)
                self._hold_unsent()
                if len(self._unsent) >= _ENOUGH:
                    self._send_now()
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

    # What goes.

    def _gathered(self) -> pb.SessionResponse | None:
        if self._offer is not None:
            response, self._offer = pb.SessionResponse(lane=self._offer), None
            return response
        if not self._unsent:
            return None
        response = self._unsent.message()
        self._room.set()
        self._hold_unsent()
        for holding in self._holdings:
            holding.touched()
        return response

    def _send_now(self) -> None:
        """Send what has gathered, if that needs no waiting: on the lane."""
        connection = self._lane
        if connection is not None and connection.is_writable and self._offer is None:
            connection.write_now(frames.write_message(self._gathered()))
            self._call.sent()

    def _hold_unsent(self) -> None:
        """Charge the subject for answers that wait, in steps; who takes none is given up."""
        steps = self._unsent.nbytes // UNSENT_BYTES
        while len(self._holdings) > steps:
            self._holdings.pop().release()
        memory = self._backend.host_memory if len(self._holdings) < steps else None
        if memory is None or self._cut_off is not None:
            return
        try:
            while len(self._holdings) < steps:
                subject, thing = self._call.subject, "what a session has not taken"
                holding = memory.holdings.hold(subject, UNSENT_BYTES, thing, self._give_up)
                self._holdings.append(holding)
        except RequestError as error:
            self.cut_off(error)

    def _give_up(self) -> None:
        """On any thread."""
        why = RequestError(
            Reason.OUT_OF_MEMORY,
            "the client took no answer for a while, and others needed the memory of those that "
            "wait; the session ends",
        )
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self.cut_off, why)

    def _forget(self) -> None:
        if self._pipe is not None and self._backend.lane is not None:
            self._backend.lane.end_pipe(self._pipe)
        if self._connection is not None:
            self._connection.close()
        for holding in self._holdings:
            holding.release()
        self._holdings.clear()
        self._unsent = _Unsent()


def _malformed(problem: str) -> Failure:
    return Failure(Reason.REQUEST_MALFORMED.value, problem)
