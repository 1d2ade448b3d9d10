"""One stream that carries many calls: what sessions of calls and of watches have in common.

Owns the tasks of the stream, those that read and one that writes, and when it ends. Each call in it
has a task of its own; knows nothing of what they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine
from contextlib import suppress
from typing import Any

from varserve_service.core.errors import Reason, RequestError
from varserve_service.rpc.calls.call import RpcCall

from .backend import Backend

MAX_IN_MESSAGE = 1000
"""Of each kind of thing in one message."""
UNSENT_BYTES = 4 << 20
"""That wait to be sent, beyond which nothing further is begun or gathered."""
MESSAGE_BYTES = 256 << 10
"""Of one message to the client, unless a single answer is longer."""

# Of the time that the client may be silent, between two looks at whether it is.
_SHARE = 1 / 8

Traces = tuple[tuple[str, str], ...]


class SharedStream:
    """Used from the event loop alone. A subclass has the calls."""

    def __init__(self, backend: Backend, call: RpcCall) -> None:
        self._backend = backend
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._moved = asyncio.Event()
        """There is something to send, or nothing more to read."""
        self._readers: list[asyncio.Task[bool]] = []
        self._asked_all = False
        """Nothing further begins."""
        self._next_look: asyncio.TimerHandle | None = None
        self._silence = backend.transfers.silence
        self._received_at = self._loop.time()
        self._sending_since: float | None = None
        self._bound = asyncio.timeout(None)
        self._why: RequestError | None = None
        self._cut_off: RequestError | None = None

    # What a subclass has.

    async def _take(self, request: Any) -> None:
        """Do what a message asks for. Raises RequestError, which ends the stream."""
        raise NotImplementedError

    def _gathered(self) -> Any:
        """The next message to send; None: there is nothing to send."""
        raise NotImplementedError

    @property
    def _tasks(self) -> Collection[asyncio.Task[Any]]:
        """Those of the calls in progress."""
        raise NotImplementedError

    def _cancel_calls(self) -> None:
        """End the calls in progress: the client has gone."""
        raise NotImplementedError

    async def _send(self, message: Any) -> None:
        """Send a message to the client. Raises CallerGone."""
        await self._call.write(message)

    async def _drain(self) -> None:
        """Wait until all that was sent is on its way. Raises CallerGone."""

    def _asks_no_more(self) -> None:
        """The client has ended its side, or sent what it may not."""

    def _forget(self) -> None:
        """The stream has ended, and what was not sent is not sent."""

    # What both have.

    async def run(self) -> None:
        """Serve the stream until the client ends it, or `end` is called.

        Raises CallerGone, RequestError.
        """
        self._read_by(self._read())
        self._watch_client()
        self._backend.sessions.add(self.end)
        try:
            async with self._bound:
                await self._write()
            for reader in self._readers:
                if not reader.cancelled() and reader.done():
                    reader.result()
        except TimeoutError:
            if not self._bound.expired():
                raise
            raise self._cut_off or RequestError(
                Reason.DEADLINE_EXCEEDED,
                f"the client has taken no message for {self._silence:g} seconds; the stream ends",
            ) from None
        finally:
            self._backend.sessions.discard(self.end)
            if self._next_look is not None:
                self._next_look.cancel()
            for reader in self._readers:
                if not reader.cancel() and not reader.cancelled():
                    reader.exception()  # it has been raised, or the client has gone
            tasks = list(self._tasks)
            self._cancel_calls()
            if tasks:
                await asyncio.wait(tasks)
            self._forget()
        if self._why is not None:
            raise self._why

    def end(self, why: RequestError | None = None) -> None:
        """Begin no further call; the stream ends, with `why`, when all have ended."""
        self._why = self._why or why
        self._stop_reading()

    def cut_off(self, why: RequestError) -> None:
        """End the stream now, with `why`; calls in progress are cancelled."""
        if self._cut_off is None:
            self._cut_off = why
            with suppress(RuntimeError):  # it ends already
                self._bound.reschedule(self._loop.time())

    def _read_by(self, reading: Coroutine[Any, Any, bool]) -> None:
        """Have messages read, by what gives whether its end is the end of what is asked."""
        reader = self._loop.create_task(reading)
        reader.add_done_callback(self._has_read)
        self._readers.append(reader)

    async def _read(self) -> bool:
        async for data in self._call:
            await self._received(data)
        return True

    async def _received(self, data: bytes) -> None:
        self._received_at = self._loop.time()
        await self._take(await self._backend.decode_message(self._call, data))

    def _has_read(self, reader: asyncio.Task[bool]) -> None:
        if not reader.cancelled():
            if reader.exception() is None and not reader.result():
                return
            self._asks_no_more()
        self._stop_reading()

    def _stop_reading(self) -> None:
        self._asked_all = True
        for reader in self._readers:
            reader.cancel()
        self._moved.set()

    def _watch_client(self) -> None:
        """End the stream when no message comes, or none is taken, for as long as a transfer may be
        silent."""
        # One timer that comes now and then: one for each message would cost a tenth of it.
        now = self._loop.time()
        if self._sending_since is not None:
            if now - self._sending_since >= self._silence:
                self._bound.reschedule(now)
                return
        elif now - self._received_at >= self._silence and not self._tasks:
            self.end()
        # Also after that: what is answered at the end has to be taken, too.
        self._next_look = self._loop.call_later(self._silence * _SHARE, self._watch_client)

    async def _write(self) -> None:
        while True:
            await self._moved.wait()
            self._moved.clear()
            while (message := self._gathered()) is not None:
                self._sending_since = self._loop.time()
                await self._send(message)
                self._sending_since = None
            if self._asked_all and not self._tasks:
                self._sending_since = self._loop.time()
                await self._drain()
                return


def traces_of(asked: Any) -> Traces:
    """The trace that a call in a stream came with, as metadata."""
    if not asked.traceparent:
        return ()
    state = (("tracestate", asked.tracestate),) if asked.tracestate else ()
    return (("traceparent", asked.traceparent), *state)
