"""What serves each live model: its threads, batchers, watchers, and the calls in progress.

A call stays with the version that it began on, whatever the model's name means meanwhile. Used from
the event loop alone. Knows the core; knows nothing of what a call does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.registry import Models
from varserve_service.rpc.calls.call import RpcCall

from .batching import Batcher, BatchOptions
from .watching import Hub
from .workers import Waiter, Workers

T = TypeVar("T")


class Served:
    """One live model and what serves it."""

    def __init__(
        self,
        live: LiveModel,
        workers: Workers,
        watch_workers: Workers,
        batching: Mapping[tuple[str, str], BatchOptions],
    ) -> None:
        self.live = live
        self.workers = workers
        self.watch_workers = watch_workers
        self.retired = False
        self._batchers = {
            function: Batcher(live, function, options, workers)
            for (model, function), options in batching.items()
            if model == live.name
        }
        self._hub: Hub | None = None
        self._in_progress: set[asyncio.Task[Any]] = set()
        self._cut: set[asyncio.Task[Any]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def batcher(self, function: str) -> Batcher | None:
        """The batcher of a function, if the operator has configured one."""
        return self._batchers.get(function)

    def run(self, work: Callable[[LiveModel, float | None], T], call: Waiter) -> Awaitable[T]:
        """Run `work` on one of the model's threads."""
        return self.workers.run(partial(work, self.live, call.deadline), call)

    def hub(self, senders: Executor, max_bytes: int) -> Hub:
        """The hub that sends the model's commits to its watchers."""
        if self._hub is None:
            self._hub = Hub(self.live, senders, max_bytes)
        return self._hub

    def use(self, *, watch: bool = False) -> InUse:
        """A call of the current task is in progress until the block ends.

        A call that is cut off raises RequestError MODEL_NOT_READY. A watch that is cut off, and has
        not noticed its end, is cancelled: its client may not be reading.
        """
        task = asyncio.current_task()
        assert task is not None
        return InUse(self, task, watch)

    def begin(self, task: asyncio.Task[Any]) -> None:
        """A task begins to use it."""
        self._in_progress.add(task)
        self._idle.clear()

    def end(self, task: asyncio.Task[Any]) -> bool:
        """A task uses it no longer. Returns whether the task was cut off."""
        cut = task in self._cut
        self._cut.discard(task)
        self._in_progress.discard(task)
        if not self._in_progress:
            self._idle.set()
        return cut

    def end_watches(self, why: Callable[[], RequestError]) -> None:
        """End all watches, with `why` as the reason."""
        if self._hub is not None:
            self._hub.close(why)

    async def retire(self, seconds: float) -> int:
        """Stop serving the version: end its watches, wait for its calls, end its threads.

        Calls that are in progress after so many seconds are cut off; returns their number. Work
        that runs on a thread continues, and its result is dropped.
        """
        self.retired = True
        self.end_watches(self.unloading)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)
        left = set(self._in_progress)
        self.close(self.unloading)
        # Those that waited for a thread have been told by this.
        await asyncio.sleep(0)
        for task in left & self._in_progress:
            self._cut.add(task)
            task.cancel()
        return len(left)

    def close(self, why: Callable[[], RequestError] | None = None) -> None:
        """End the threads; calls that wait for one fail with `why`, or are dropped."""
        self.workers.close(why)
        self.watch_workers.close(why)

    def unloading(self) -> RequestError:
        """The error of what the version does not do any more."""
        header = self.live.header
        return RequestError(
            Reason.MODEL_NOT_READY,
            f"model {header.model!r}: version {header.version} is unloaded; try again for what is "
            "served in its place",
            model=header.model,
            version=header.version,
        )


class InUse:
    """One call of a live model, as a context manager."""

    __slots__ = ("_served", "_task", "_watch")

    def __init__(self, served: Served, task: asyncio.Task[Any], watch: bool) -> None:
        self._served = served
        self._task = task
        self._watch = watch

    def __enter__(self) -> Served:
        self._served.begin(self._task)
        return self._served

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        cut = self._served.end(self._task)
        if cut and not self._watch and isinstance(error, asyncio.CancelledError):
            self._task.uncancel()
            raise self._served.unloading() from None


class Serving:
    """All live models that are served, by the names in requests."""

    def __init__(self, models: Models, make: Callable[[LiveModel], Served]) -> None:
        self._models = models
        self._make = make
        self._served: dict[LiveModel, Served] = {}
        for live in models.sorted:
            self.open(live)

    @property
    def all(self) -> list[Served]:
        """All of them, including those that are being retired."""
        return list(self._served.values())

    def find(self, live: LiveModel) -> Served | None:
        """What serves a live model; None if nothing does. From any thread."""
        return self._served.get(live)

    def open(self, live: LiveModel) -> None:
        """Begin to serve a live model. Has no effect if it is served already."""
        if live not in self._served:
            self._served[live] = self._make(live)

    async def retire(self, live: LiveModel, seconds: float) -> int:
        """Retire a version (see Served.retire) and forget it."""
        left = await self._served[live].retire(seconds)
        del self._served[live]
        return left

    def use(self, call: RpcCall, name: str, *, watch: bool = False) -> InUse:
        """The version that a name means now, for one call, in progress until this ends.

        Raises RequestError MODEL_NOT_FOUND, MODEL_NOT_READY.
        """
        live = self._models.find(name)
        call.check_model(live)
        served = self._served[live]
        call.note(model=live.name, version=live.version)
        return served.use(watch=watch)
