"""Worker threads for one model's blocking work, so that the event loop never waits for it.

Owns the only queue in which calls wait, and in which callers take turns. Knows asyncio and the
core's errors; knows nothing of what the work is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from contextvars import Context, copy_context
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.threads import ModelThread
from varserve_service.rpc.calls.load_shedding import LoadShedder, too_many

from .turns import Turns

T = TypeVar("T")

# Work, who waits for it, answer and context: a plain tuple, for one is made for each call.
_Job: TypeAlias = tuple[Callable[[], Any], "Waiter", "asyncio.Future[Any]", Context]


class Waiter(Protocol):
    """Who waits for a thread: a call, in general."""

    @property
    def deadline(self) -> float | None:
        """In seconds of `time.monotonic`; None: none."""
        ...

    @property
    def queue_key(self) -> Hashable:
        """Whose turn it takes."""
        ...


class Turn(NamedTuple):
    """A Waiter that is no single call."""

    deadline: float | None
    queue_key: Hashable


class Workers:
    """A fixed number of threads, with a bounded number of calls that run or wait.

    Callers take turns: each that waits has one in a round, however many calls of others wait. When
    the queue is full, a caller that has fewer calls in it than another gets in, and the last one of
    who has most is refused in its place.

    One wake-up of a thread and one of the event loop for each call: an executor and its futures
    cost more than many a call itself.
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
        self._turns: Turns[_Job] = Turns()
        # One for each job that waits, so that a thread sleeps where none does; False: the end.
        self._wakes: SimpleQueue[bool] = SimpleQueue()
        self._threads = [ModelThread(self._serve, f"varserve-{name}-{n}") for n in range(threads)]
        for thread in self._threads:
            thread.start()

    @property
    def pending(self) -> int:
        """Calls that run or wait."""
        return self._pending

    def waiting(self, key: Hashable) -> int:
        """How many calls of a caller wait for a thread."""
        return self._turns.waiting(key)

    async def run(self, work: Callable[[], T], call: Waiter) -> T:
        """Run `work` on a thread and return its result.

        Work whose deadline has passed, or whose caller has gone, before its turn is dropped. Work
        that has begun is finished. Raises RequestError TOO_MANY_REQUESTS, also if the turn would
        come after the deadline; DEADLINE_EXCEEDED; what `close` was given, or
        CancelledError; and whatever `work` raises.
        """
        if self._closed is not None:
            raise self._closed() or asyncio.CancelledError
        if self._pending >= min(len(self._threads), self._max_pending):
            self._make_room(call)
        self._pending += 1
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._turns.add(call.queue_key, (work, call, answer, copy_context()))
        self._wakes.put(True)
        return await answer

    def _make_room(self, call: Waiter) -> None:
        """Where no thread is free, let a call wait or raise RequestError TOO_MANY_REQUESTS."""
        turns = (self._turns.before(call.queue_key) + 1) / len(self._threads)
        if self._pending < self._max_pending:
            self._shedder.check(turns, call.deadline, self._waiting)
            return
        problem = f"{self._waiting()}; expected at most {self._max_pending}"
        given_up = self._turns.give_up(call.queue_key)
        if given_up is None:
            raise too_many(problem, turns * self._shedder.seconds)
        # The thread that would have done it finds one fewer, and sleeps again.
        self._pending -= 1
        _, _, answer, _ = given_up
        if not answer.done():
            wait = self._pending / len(self._threads) * self._shedder.seconds
            answer.set_exception(too_many(f"{problem}, and another caller has fewer", wait))

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
        with suppress(IndexError):
            while True:
                _, _, answer, _ = self._turns.take()
                self._pending -= 1
                if why is None:
                    answer.cancel()
                elif not answer.done():
                    answer.set_exception(why())
        for _ in self._threads:
            self._wakes.put(False)

    def _serve(self) -> None:
        while self._wakes.get():
            try:
                job = self._turns.take()
            except IndexError:  # what it was woken for was given up, or told the end
                continue
            result, error, seconds = _done(job)
            # The loop is closed at the end of the process.
            with suppress(RuntimeError):
                job[2].get_loop().call_soon_threadsafe(self._settle, job[2], result, error, seconds)
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
    work, call, answer, context = job
    if answer.cancelled():
        return None, None, None
    started = time.monotonic()
    if call.deadline is not None and started >= call.deadline:
        problem = "the deadline passed before the call's turn came; nothing was changed"
        return None, RequestError(Reason.DEADLINE_EXCEEDED, problem), None
    result = error = None
    try:
        # Log lines and spans of the thread belong to the call.
        result = context.run(work)
    except BaseException as raised:
        error = raised
    return result, error, time.monotonic() - started
