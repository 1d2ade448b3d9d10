"""Watch streams: from the core's chain of events to the watchers' connections.

One hub for each model wakes the event loop after commits, once for any number of commits and
watchers; a watcher is a coroutine. Knows calls and the core.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from typing import TypeAlias
from weakref import WeakKeyDictionary, ref

from varserve_service.core.commit.watchers import Event, Watcher
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.holdings import SMALL_BYTES
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.timeline import Batch
from varserve_service.core.ports.messages import Header
from varserve_service.rpc.authorization.watch_permit import WatchPermit
from varserve_service.rpc.calls.call import RpcCall
from varserve_service.rpc.calls.transfers import EVENT, Transfers
from varserve_service.rpc.messages.history_messages import WatchFilter, bookmark, event_messages

from .workers import Workers

# Changes of one commit that are encoded on the event loop; more, and values, on a thread.
_PAGE_CHANGES = 100
# Events whose messages are kept for the watchers with the same filter.
_KEPT_EVENTS = 8
# Answers that are kept whether an event concerns a filter.
_KEPT_CONCERNS = 256

Encoded: TypeAlias = "asyncio.Future[list[bytes]]"
"""The messages of an event."""


Follow: TypeAlias = Callable[[], bool]
"""Deals with what has come for a watch that waits. False: the watch has to go on by itself."""


class Hub:
    """The watchers of one model on one event loop."""

    def __init__(self, live: LiveModel, senders: Executor, max_bytes: int) -> None:
        self._live = live
        self._senders = senders
        self._max_bytes = max_bytes
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[Follow, asyncio.Future[None]] = {}
        self._called = False
        self._closed: Callable[[], RequestError] | None = None
        self._encoded: OrderedDict[tuple[int, WatchFilter], Encoded] = OrderedDict()
        self._asking: dict[Encoded, list[Follow]] = {}
        self._paths: WeakKeyDictionary[frozenset[str], ref[frozenset[str]]] = WeakKeyDictionary()
        self._concerns: OrderedDict[tuple[int, frozenset[str]], bool] = OrderedDict()
        live.timeline.watchers.listen(self._tell)

    def _tell(self) -> None:
        """Called on any thread, with the model's lock held."""
        if not self._called:
            self._called = True
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        # First, so that a later commit calls again.
        self._called = False
        self._live.timeline.watchers.cut_slow()
        for follow in list(self._waiting):
            self._look(follow)

    def _look(self, follow: Follow) -> None:
        """Have what has come dealt with for a watch that waits; wake it if it has to."""
        waiter = self._waiting.get(follow)
        if waiter is not None and (self._closed is not None or not follow()):
            del self._waiting[follow]
            _wake_up(waiter)

    def close(self, why: Callable[[], RequestError]) -> None:
        """End all watches, with `why` as the reason. Has no effect the second time."""
        if self._closed is None:
            self._closed = why
            self._live.timeline.watchers.unlisten(self._tell)
            self._wake()

    async def news(self, timeout: float, follow: Follow) -> None:
        """Wait for what `follow` leaves to the watch, at most so many seconds.

        Raises the RequestError that the hub was closed with.
        """
        if self._closed is None:
            # asyncio.wait would take longer than the rest of what a watcher does for an event.
            waiter = self._waiting[follow] = self._loop.create_future()
            late = self._loop.call_later(timeout, _wake_up, waiter)
            try:
                await waiter
            finally:
                late.cancel()
                self._waiting.pop(follow, None)
        if self._closed is not None:
            raise self._closed()

    def same(self, paths: frozenset[str] | None) -> frozenset[str] | None:
        """The object that all watches of these variables have: two equal ones of thousands of paths
        take long to be found equal, for each watch and event.
        """
        if paths is None:
            return None
        known = self._paths.get(paths)
        found = None if known is None else known()
        if found is None:
            self._paths[paths] = ref(paths)
            found = paths
        return found

    def concerns(self, event: Event, wanted: WatchFilter) -> bool:
        """Whether an event changed anything that a filter selects; found out once for all."""
        if wanted.paths is None:
            return True
        key = event.revision, wanted.paths
        found = self._concerns.get(key)
        if found is None:
            found = any(change.variable.path in wanted.paths for change in event.changes)
            self._concerns[key] = found
            if len(self._concerns) > _KEPT_CONCERNS:
                self._concerns.popitem(last=False)
        return found

    async def messages(self, event: Event, wanted: WatchFilter) -> list[bytes]:
        """The messages of an event for a filter; made once for all watchers that have it."""
        encoded = self.encoded(event, wanted)
        # Shielded: a watcher that goes away must not cancel it for the others.
        return encoded.result() if encoded.done() else await asyncio.shield(encoded)

    def encoded(self, event: Event, wanted: WatchFilter) -> Encoded:
        """The same, which may still be on its way."""
        key = (event.revision, wanted)
        encoded = self._encoded.get(key)
        if encoded is None:
            self._encoded[key] = encoded = self._encode(event, wanted)
            if len(self._encoded) > _KEPT_EVENTS:
                self._encoded.popitem(last=False)
        return encoded

    def ask_again(self, encoded: Encoded, follow: Follow) -> None:
        """Call a `follow` again when messages are there, if its watch waits then."""
        asking = self._asking.get(encoded)
        if asking is None:
            asking = self._asking[encoded] = []
            encoded.add_done_callback(self._is_encoded)
        asking.append(follow)

    def _is_encoded(self, encoded: Encoded) -> None:
        for follow in self._asking.pop(encoded):
            self._look(follow)

    def _encode(self, event: Event, wanted: WatchFilter) -> Encoded:
        labels = self._live.timeline.display_names
        make = partial(event_messages, event, wanted, self._live.header, labels, self._max_bytes)
        if wanted.values or wanted.previous or len(event.changes) > _PAGE_CHANGES:
            # Values may have to come from a device.
            return self._loop.run_in_executor(self._senders, make)
        encoded = self._loop.create_future()
        try:
            encoded.set_result(make())
        except Exception as error:  # it is raised in each watch that the event is for
            encoded.set_exception(error)
        return encoded


def _wake_up(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Watch:
    """One watch stream."""

    def __init__(
        self,
        live: LiveModel,
        hub: Hub,
        call: RpcCall,
        wanted: WatchFilter,
        bookmark_seconds: float,
        permit: WatchPermit,
        transfers: Transfers,
    ) -> None:
        """`permit` is asked before each message whether the watch may go on."""
        self._live = live
        self._hub = hub
        self._call = call
        self._filter = wanted
        self._bookmark_seconds = bookmark_seconds
        self._permit = permit
        self._transfers = transfers
        self._loop = asyncio.get_running_loop()
        self._watcher: Watcher | None = None
        self._coming: Encoded | None = None
        """Messages of the next event."""
        self._ended = False
        self._sent = 0.0
        self._sent_revision: int | None = None

    async def run(self, after: int | None, epoch: str, workers: Workers) -> None:
        """Send events until the caller goes away. Raises RequestError."""
        deadline = self._call.deadline
        self._workers = workers

        def look() -> Batch:
            batch = self._live.timeline.watch(after, epoch, deadline)
            self._watcher = batch.watcher
            if self._ended:  # the caller went away while this waited for the model
                self._leave()
            return batch

        try:
            while self._watcher is None:
                batch = await workers.run(look, self._call)
                if self._sent == 0:
                    await self._mark(batch.header, after)
                for event in batch.events:
                    await self._send(event)
                    after = event.revision
            await self._go_on(self._watcher)
        except RequestError as error:
            if error.reason is Reason.WATCH_TOO_SLOW and self._sent_revision is not None:
                error.metadata.setdefault("resume_revision", str(self._sent_revision))
                error.metadata.setdefault("epoch", self._live.header.epoch)
            raise
        finally:
            self._ended = True
            self._leave()

    def _leave(self) -> None:
        if self._watcher is not None:
            self._live.timeline.watchers.leave(self._watcher)

    async def _go_on(self, watcher: Watcher) -> None:
        while True:
            self._coming = None
            event = watcher.take()
            if event is not None:
                await self._send(event)
            remaining = self._sent + self._bookmark_seconds - self._loop.time()
            if remaining <= 0:
                await self._mark(self._live.header, watcher.revision)
            elif event is None:
                await self._news(watcher, remaining)

    def _follow(self) -> bool:
        """Deal with what has come, as far as nothing has to be waited for or judged."""
        watcher = self._watcher
        assert watcher is not None
        while (event := watcher.next_event()) is not None:
            if self._hub.concerns(event, self._filter):
                if self._call.is_to_be_judged or self._permit.outdated:
                    return False
                encoded, self._coming = self._coming, None
                encoded = encoded or self._hub.encoded(event, self._filter)
                if not encoded.done():
                    # Kept here: where filters are many, the hub does not keep it for so long.
                    self._coming = encoded
                    self._hub.ask_again(encoded, self._follow)
                    return True
                if encoded.exception() is not None or not self._writes_now(encoded.result()):
                    return False
                self._sent_revision = event.revision
            watcher.take()
        return not watcher.is_cut

    def _writes_now(self, messages: list[bytes]) -> bool:
        if len(messages) != 1 or len(messages[0]) >= SMALL_BYTES:
            return False
        if not self._call.write_now(messages[0]):
            return False
        self._sent = self._loop.time()
        return True

    async def _news(self, watcher: Watcher, remaining: float) -> None:
        try:
            await self._hub.news(remaining, self._follow)
        except RequestError as error:
            error.metadata["resume_revision"] = str(watcher.revision)
            error.metadata["epoch"] = self._live.header.epoch
            raise

    async def _mark(self, header: Header, revision: int | None) -> None:
        revision = header.revision if revision is None else revision
        await self._write(bookmark(header, revision).SerializeToString())
        self._sent_revision = revision

    async def _send(self, event: Event) -> None:
        for message in await self._hub.messages(event, self._filter):
            await self._write(message)
        self._sent_revision = event.revision

    async def _write(self, message: bytes) -> None:
        await self._call.judge_again()
        if self._permit.outdated:
            await self._workers.run(self._permit.check, self._call)
        if len(message) < SMALL_BYTES:
            await self._call.write(message)
        else:
            # Each watch that nobody reads has a copy of its own.
            async with self._transfers.begin(EVENT) as transfer:
                transfer.hold(self._live.memory.host, self._call.subject, len(message))
                await self._call.write(message)
        self._sent = self._loop.time()
