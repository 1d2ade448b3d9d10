"""Worker threads for one model's blocking work, so that the event loop never waits for it.

Owns the only queue in which calls wait. Knows asyncio and the core's errors; knows nothing of what
the work is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import Context, copy_context
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.threads import ModelThread
from varserve_service.rpc.calls.load_shedding import LoadShedder, too_many

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    work: Callable[[], Any]
    deadline: float | None
    answer: asyncio.Future[Any]
    context: Context


class Workers:
    """A fixed number of threads, with a bounded number of calls that run or wait.

    A plain queue and one wake-up of the event loop for each call: an executor and its futures cost
    more than many a call itself.
    """

    def __init__(
        self,
        name: str,
        threads: int,
        max_pending: int,
        overdue: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        """`overdue` tells by function the runs that nobody waits for and that cannot be ended."""
        self._name = name
        self._overdue = overdue
        self._max_pending = max_pending
        self._pending = 0
        self._shedder = LoadShedder()
        self._closed: Callable[[], BaseException | None] | None = None
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads = [ModelThread(self._serve, f"varserve-{name}-{n}") for n in range(threads)]
        for thread in self._threads:
            thread.start()

    @property
    def pending(self) -> int:
        """Calls that run or wait."""
        return self._pending

    async def run(self, work: Callable[[], T], deadline: float | None) -> T:
        """Run `work` on a thread and return its result.

        Work whose deadline has passed, or whose caller has gone, before its turn is dropped. Work
        that has begun is finished. Raises RequestError TOO_MANY_REQUESTS, also if the turn would
        come after the deadline; DEADLINE_EXCEEDED; what `close` was given, or
        CancelledError; and whatever `work` raises.
        """
        if self._closed is not None:
            raise self._closed() or asyncio.CancelledError
        if self._pending >= min(len(self._threads), self._max_pending):
            turns = (self._pending + 1 - len(self._threads)) / len(self._threads)
            if self._pending >= self._max_pending:
                wait = max(0.0, turns * self._shedder.seconds)
                raise too_many(f"{self._waiting()}; expected at most {self._max_pending}", wait)
            self._shedder.check(turns, deadline, self._waiting)
        self._pending += 1
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put(_Job(work, deadline, answer, copy_context()))
        return await answer

    def _waiting(self) -> str:
        """What there is before a call that comes now, for people."""
        calls = f"{self._pending} calls are in progress or waiting for {self._name!r}"
        # What keeps threads though nobody waits for it.
        runs = ", ".join(f"{count} of {name!r}" for name, count in self._overdue().items())
        if not runs:
            return calls
        return f"{calls}, among them runs that their callers gave up and that go on: {runs}"

    def close(self, why: Callable[[], BaseException] | None = None) -> None:
        """Take no more work.

        What waits, or comes later, is told `why` or cancelled; what runs goes on. From the event
        loop.
        """
        self._closed = why or (lambda: None)
        try:
            while True:
                job = self._jobs.get_nowait()
                if job is not None:
                    self._pending -= 1
                    if why is None:
                        job.answer.cancel()
                    elif not job.answer.done():
                        job.answer.set_exception(why())
        except Empty:
            pass
        for _ in self._threads:
            self._jobs.put(None)

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            result, error, seconds = _done(job)
            # The loop is closed at the end of the process.
            with suppress(RuntimeError):
                job.answer.get_loop().call_soon_threadsafe(
                    self._settle, job.answer, result, error, seconds
                )
            # Otherwise the values would live until the next job.
            del job, result, error

    def _settle(
        self,
        answer: asyncio.Future[Any],
        result: Any,
        error: BaseException | None,
        seconds: float | None,
    ) -> None:
        self._pending -= 1
        if seconds is not None:
            self._shedder.took(seconds)
        if answer.done():
            return
        if error is None:
            answer.set_result(result)
        else:
            answer.set_exception(error)


def _done(job: _Job) -> tuple[Any, BaseException | None, float | None]:
    """Result, error and seconds of a job; no seconds for one that was dropped."""
    if job.answer.cancelled():
        return None, None, None
    started = time.monotonic()
    if job.deadline is not None and started >= job.deadline:
        problem = "the deadline passed before the call's turn came; nothing was changed"
        return None, RequestError(Reason.DEADLINE_EXCEEDED, problem), None
    result = error = None
    try:
        # Log lines and spans of the thread belong to the call.
        result = job.context.run(job.work)
    except BaseException as raised:
        error = raised
    return result, error, time.monotonic() - started
