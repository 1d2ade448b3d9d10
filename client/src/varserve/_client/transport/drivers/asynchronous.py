"""Runs operations as coroutines of an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import grpc.aio

from varserve._client import errors
from varserve._client.transport import sessions
from varserve._client.transport.calls import Call, Close, Op, Open, Receive, Sleep, Step
from varserve._client.transport.endpoint import Endpoint
from varserve._client.transport.forks import GATE
from varserve._client.transport.sessions import Alone, Asked, Late, Lost
from varserve.frames import ACCEPTED_KEY, FrameError
from varserve.tensors import TensorError

from .base import Driver

if TYPE_CHECKING:
    from varserve._client.transport.watch_sessions import Watches

T = TypeVar("T")


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
        from varserve.lane import TICKET_KEY

        ticket = metadata.get(TICKET_KEY)
        hand_over = self._hand_over
        if ticket is None or hand_over is None or not await asyncio.to_thread(hand_over, ticket):
            for message in messages:
                yield message


class Async(Driver):
    """Of one event loop, and after its end of the next one."""

    module = grpc.aio

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
                step = go_on(given)
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
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        except (TensorError, FrameError) as error:
            raise errors.from_reason(error.reason, error.message) from None
        finally:
            op.close()
            del given

    async def _take(self, step: Step) -> Any:
        if isinstance(step, Call):
            return await self._call(step)
        if isinstance(step, Open):
            self._enter_loop()
            return self._begin_watch(step.call)
        if isinstance(step, Receive):
            self._enter_loop()
            message = await step.stream.read()
            return None if message is grpc.aio.EOF else message
        if isinstance(step, Sleep):
            return await asyncio.sleep(step.seconds)
        if isinstance(step, Close):
            channel = self._hang_up()
            # A channel whose loop has ended cannot be waited for, and ends with the object.
            if channel is not None and self._loop is asyncio.get_running_loop():
                await channel.close()
            return None
        return await asyncio.to_thread(step.do)

    async def _call(self, call: Call) -> Any:
        self._enter_loop()
        asked = self._asked(call)
        if asked is not None:
            reply = await self._in_session(asked)
            if reply is not None:
                return call.method.read(reply)
        stub, options = self._prepared(call)
        if call.method.streams_requests:
            upload = _Upload(call.request, call.hand_over)
            answer = stub(upload.messages(), **options)
            upload.answer.set_result(answer)
        else:
            answer = stub(call.request, **options)
        if call.receive is None:
            return await answer
        try:
            receiver = call.receive()
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
        if self._loop is loop:
            return
        with self._lock:
            if self._channel is not None and self._loop is not None:
                if not self._loop.is_closed():
                    raise errors.InvalidRequest(
                        "this client is in use in another event loop: connect once for each loop"
                    )
                self._channel, self._stubs, self._session = None, {}, None
            self._loop = loop

    def _new_watches(self) -> Watches:
        from varserve._client.transport.watch_sessions import AsyncWatches

        return AsyncWatches(self.endpoint)

    async def _in_session(self, asked: Asked) -> bytes | None:
        """The encoded response; None: the call is to be made alone. Raises VarserveError."""
        session = self._open_session(sessions.AsyncSession)
        if session is None:
            return None
        try:
            return sessions.response_of(await session.ask(asked))
        except (Alone, Late, Lost) as why:
            error = self._unanswered(session, why)
        if error is not None:
            raise error
        return None


def _is_cancelling(task: asyncio.Task[Any] | None) -> bool:
    # Before Python 3.11 no task tells.
    return task is not None and getattr(task, "cancelling", lambda: 0)() > 0
