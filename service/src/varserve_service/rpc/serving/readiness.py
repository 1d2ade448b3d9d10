"""Whether the models that are served are recent enough, where several services share their state.

A replica that begins is ready when it has every commit that was acknowledged before, by a database
that keeps what it is given. Later it is ready as long as it does not fall behind. One that does not
reach the database stays as it is: all replicas would fail at the same time, and reads go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from weakref import WeakKeyDictionary, WeakSet

import structlog

from varserve_service.core.errors import RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.registry import Models

log = structlog.get_logger("varserve.rpc")

LOOK_SECONDS = 0.25
_WAIT_SECONDS = 5.0


class Readiness:
    """From the event loop."""

    def __init__(
        self, models: Models, most_seconds: float, changed: Callable[[], Awaitable[None]]
    ) -> None:
        """`most_seconds`: how far behind a replica may be; 0: any. `changed` is awaited at once."""
        self._models = models
        self._most_seconds = most_seconds
        self._changed = changed
        self._begun: WeakSet[LiveModel] = WeakSet()
        self._asking: WeakKeyDictionary[LiveModel, asyncio.Future[None]] = WeakKeyDictionary()
        self._behind: WeakSet[LiveModel] = WeakSet()
        self._task: asyncio.Task[None] | None = None

    def is_ready(self, live: LiveModel) -> bool:
        """Whether a model is as recent as it must be."""
        return live.standing is None or (live in self._begun and live not in self._behind)

    async def wait(self, live: LiveModel) -> None:
        """Until a model that is to be served is ready, for a bounded time."""
        if live.standing is not None and live not in self._begun:
            await asyncio.wait([self._begin(live)], timeout=_WAIT_SECONDS)

    def start(self) -> None:
        """Look now and then, until it is closed."""
        self._task = asyncio.create_task(self._run())

    def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        while True:
            if self._look():
                await self._changed()
            await asyncio.sleep(LOOK_SECONDS)

    def _look(self) -> bool:
        """Whether a model became ready, or is it no more."""
        changed = False
        for live in self._models.sorted:
            if live.standing is None:
                continue
            if live not in self._begun:
                self._begin(live)
                continue
            behind = self._is_behind(live)
            if behind == (live in self._behind):
                continue
            changed = True
            if behind:
                self._behind.add(live)
                log.warning("not ready: behind the database", model=live.name)
            else:
                self._behind.discard(live)
                log.info("ready again", model=live.name)
        return changed

    def _is_behind(self, live: LiveModel) -> bool:
        standing = live.standing
        return standing is not None and 0 < self._most_seconds < standing.behind_seconds

    def _begin(self, live: LiveModel) -> asyncio.Future[None]:
        """Ask for the newest commit and wait for it, once at a time; done when that has ended."""
        if live in self._asking:
            return self._asking[live]
        loop = asyncio.get_running_loop()
        ended = self._asking[live] = loop.create_future()

        def told(error: RequestError | None) -> None:
            with suppress(RuntimeError):  # the loop ended meanwhile
                loop.call_soon_threadsafe(self._told, live, error)

        live.freshness.wait_for_newest(told)
        return ended

    def _told(self, live: LiveModel, error: RequestError | None) -> None:
        self._asking.pop(live).set_result(None)
        if error is not None:
            log.warning("not ready: the newest commit is not known", model=live.name)
            return  # asked again at the next look
        self._begun.add(live)
        if self._is_behind(live):  # it has what was asked for, and more has come
            self._behind.add(live)
        asyncio.ensure_future(self._changed())  # noqa: RUF006
