"""Watching: commits one after the other, whatever happens to the connection.

Owns `Watch`, which goes on where it was after a failure that may pass. Knows the calls.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Any

from varserve._client import errors, operations
from varserve._client.operations.commits import WATCH_VARIABLES
from varserve._client.operations.methods import Scope
from varserve._client.transport.attempts import explained
from varserve._client.transport.calls import (
    Budget,
    Call,
    Op,
    Open,
    Receive,
    Sleep,
    positive_seconds,
)
from varserve._client.transport.drivers import Async, Sync
from varserve._client.transport.forks import GATE, Renewable
from varserve._client.transport.retries import RECONNECT
from varserve._client.values.results import Event
from varserve._client.values.specs import StateHeader
from varserve.v1 import history_pb2 as pb

from .base import D_co, Defaults, Handle

_MAY_PASS = (
    errors.Unavailable,
    errors.DeadlineExceeded,
    errors.TooManyRequests,
    errors.WatchTooSlow,
)


class Watch(Handle[D_co], Renewable):
    """The commits of a model, as they happen: iterate it, with `for` or `async for`.

    Each commit comes once, whole and in order, and none is left out: when the connection breaks,
    the service restarts with its state, or the token expires and there is a new one, the watch
    resumes after the last event that it gave. For one thread or task at a time. Raises what it
    cannot resume after: EpochMismatch (the state has a new epoch), RevisionCompacted (the history
    does not reach back), Unavailable (no answer for `patience` seconds).
    """

    def __init__(
        self,
        driver: Sync | Async,
        request: pb.WatchVariablesRequest,
        scope: Callable[[Budget], Scope],
        defaults: Defaults,
        timeout: float | None,
        patience: float,
    ) -> None:
        """`scope`: what reads the values that fit into no message."""
        self._driver = driver
        self._request = request
        self._header: StateHeader | None = None
        """Of the last message that was given."""
        self._scope = scope
        self._defaults = defaults
        self._patience = patience
        self._lasts = Budget(math.inf if timeout is None else positive_seconds(timeout), 0)
        self._stream: Any = None
        self._begun = False
        self._closed = False
        self._failures = 0
        self._failing_since: float | None = None
        self.on_connection: Callable[[str, str], None] | None = None
        """Called with `lost` and why, and with `resumed` and after which revision."""
        # An event whose values are still to be read: until it is given, there is no progress.
        self._owed = False
        GATE.renew_in_child(self)

    def _after_fork(self) -> None:
        """This is a forked child: the stream is the parent's."""
        GATE.abandon(self._stream)
        self._stream = None

    @property
    def revision(self) -> int:
        """Every commit up to here has been given, or does not fit the patterns."""
        given: int = self._request.after_revision
        return given if self._header is None else self._header.revision

    @property
    def epoch(self) -> str:
        """The epoch of `revision`."""
        given: str = self._request.epoch
        return given if self._header is None else self._header.epoch

    def start(self) -> Op[None]:
        """Wait until the service watches: from then on no commit is missed."""
        while self._stream is None and not self._over:
            yield from self._attempt()

    def _next(self) -> Op[Event | None]:
        """The next event; None when the watch is over."""
        while not self._over:
            event = yield from self._attempt()
            if event is not None:
                return event
        return None

    @property
    def _over(self) -> bool:
        return self._closed or self._lasts.remaining() <= 0

    def _attempt(self) -> Op[Event | None]:
        """What the stream gives next; None for a bookmark, and for a failure that may pass."""
        try:
            event = yield from self._receive()
        except errors.VarserveError as error:
            self._drop()
            if self._over:
                return None
            # Measured from the last progress, and only while the caller waits for an event.
            self._failing_since = self._failing_since or time.monotonic()
            late = time.monotonic() - self._failing_since > self._patience
            # Its credential has lapsed, and there may be another by now.
            lapsed = self._begun and isinstance(error, errors.Unauthenticated)
            if late or not (lapsed or isinstance(error, _MAY_PASS)):
                self._closed = True
                yield from explained(error, self._defaults.budget(None))
                raise
            if not self._failures and not lapsed:
                self._tell("lost", str(error))
            delay = RECONNECT.delay(self._failures)
            self._failures += 1
            yield Sleep(min(delay, self._lasts.remaining()))
            return None
        except BaseException:
            # Given up in the middle: the next one begins after the last event that was given.
            self._drop()
            raise
        return event

    def _receive(self) -> Op[Event | None]:
        if self._stream is None:
            self._begun = False
            # Another replica may answer than the one that gave the last event.
            if self._header is not None:
                self._request.after_revision = self._header.revision
                self._request.epoch = self._header.epoch
            wanted = self._defaults.seen.consistency(self._request.model)
            if wanted is not None:
                self._request.consistency.CopyFrom(wanted)
            self._stream = yield Open(Call(WATCH_VARIABLES, self._request, self._lasts))
            if self._closed:  # by another thread, meanwhile
                self._drop()
                return None
        messages: list[operations.WatchMessage] = []
        while not messages or messages[-1].more:
            message = yield Receive(self._stream)
            if message is None:
                raise errors.Unavailable("the watch ended without a reason")
            self._begun = True
            self._well()
            messages.append(message)
        header, info, event = messages[-1].header, messages[-1].info, None
        self._defaults.seen.learn(self._request.model, header)
        if info is not None:
            event = messages[0].whole(self._request)
            if event is None:
                self._owed = True
                event = yield from operations.event(self._reading, self._request, messages, info)
                self._owed = False
                self._well()
        self._header = header
        return event

    def _reading(self, nbytes: int) -> Scope:
        """For values of so many bytes that fit into no message."""
        return self._scope(self._defaults.budget(None, nbytes))

    def _well(self) -> None:
        if not self._owed:
            if self._failures:
                self._tell("resumed", f"after revision {self.revision}")
            self._failures = 0
            self._failing_since = None

    def _tell(self, what: str, detail: str) -> None:
        if self.on_connection is not None:
            self.on_connection(what, detail)

    def _drop(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.cancel()

    def close(self) -> None:
        """Watch no more; an iteration in another thread or task ends. Again: nothing."""
        self._closed = True
        self._drop()

    def __iter__(self: Watch[Sync]) -> Iterator[Event]:
        self._blocking("for", "async for")
        return self

    def __next__(self: Watch[Sync]) -> Event:
        event = self._blocking("next", "anext").run(self._next())
        if event is None:
            raise StopIteration
        return event

    def __aiter__(self: Watch[Async]) -> AsyncIterator[Event]:
        self._awaited("async for", "for")
        return self

    async def __anext__(self: Watch[Async]) -> Event:
        event = await self._awaited("anext", "next").run(self._next())
        if event is None:
            raise StopAsyncIteration
        return event

    def __enter__(self) -> Watch[D_co]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # Closing waits for nothing, so that `with` does as well.
    async def __aenter__(self: Watch[Async]) -> Watch[Async]:
        self._awaited("async with", "with")
        return self

    async def __aexit__(
        self: Watch[Async],
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        request = self._request
        what = ", ".join(request.patterns) or "all variables"
        state = " (closed)" if self._closed else ""
        return f"<varserve.Watch of {request.model!r}: {what} after {self.revision}{state}>"


def watching(
    driver: Any,
    request: pb.WatchVariablesRequest,
    scope: Callable[[Budget], Scope],
    defaults: Defaults,
    timeout: float | None,
    patience: float,
) -> Op[Watch[Any]]:
    """A watch that has begun."""
    watch: Watch[Any] = Watch(driver, request, scope, defaults, timeout, patience)
    yield from watch.start()
    return watch
