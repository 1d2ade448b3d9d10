"""Batching: calls of one function that wait together run as one.

Callers take turns: a batch has a call of each that waits before it has another one of the same
caller. Owns the waiting calls, what is run together and how outputs are split. A function is
batched only if the operator configures it: whether its rows are independent cannot be told from
outside.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import structlog

from varserve_service.core.arrays.reductions import Counted, Reduced
from varserve_service.core.arrays.shapes import PartialShape
from varserve_service.core.cancellation import Cancellation
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import FunctionSpec, TensorSpec, Value
from varserve_service.core.ports.messages import Header
from varserve_service.core.values.host_value import HostValue
from varserve_service.rpc.calls.load_shedding import LoadShedder, too_many

from .turns import Turns
from .workers import Turn, Waiter, Workers

log = structlog.get_logger("varserve.batching")

Arrays: TypeAlias = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """How the calls of one function are batched. Rows are counted along dimension 0.

    `max_rows`: of one batch. `max_delay`: seconds that the first call of a batch waits for others;
    with 0 a batch is what came while the one before it ran. `allowed_rows`: sizes that a batch is
    filled up to, by repeating its last row. `max_waiting_rows`: beyond it calls are refused.
    """

    max_rows: int
    max_delay: float = 0.0
    allowed_rows: tuple[int, ...] = ()
    max_waiting_rows: int = 4096


class Ran(NamedTuple):
    """A call's own part of a batch's answer."""

    header: Header
    outputs: dict[str, Value]


class _NoElements:
    """Some rows of a Value without elements, of sizes, maybe, that no array of numpy can have."""

    def __init__(self, whole: Value, rows: int) -> None:
        self._whole = whole
        self.dtype = whole.dtype
        self.shape = (rows, *whole.shape[1:])
        self.nbytes = 0

    def numpy(self) -> np.ndarray[Any, Any]:
        return self._whole.numpy()[: self.shape[0]]

    def buffer(self, start: int, stop: int) -> memoryview:
        return self._whole.buffer(0, 0)

    def reduce(self, start: int, stop: int) -> Sequence[Reduced]:
        return self._whole.reduce(0, 0)

    def count(self, start: int, stop: int, edges: np.ndarray[Any, Any]) -> Counted:
        return self._whole.count(0, 0, edges)


def _rows(whole: Value, start: int, stop: int) -> Value:
    if 0 in whole.shape:
        return _NoElements(whole, stop - start)
    return HostValue(whole.numpy()[start:stop])


class _Callers:
    """The callers of one batch; `cancellation` says that all of them have gone."""

    __slots__ = ("_count", "cancellation")

    def __init__(self, count: int) -> None:
        self._count = count
        self.cancellation = Cancellation()

    def one_left(self) -> None:
        """One of them has gone."""
        self._count -= 1
        if not self._count:
            self.cancellation.cancel()


@dataclass(slots=True, eq=False)
class _Waiting:
    inputs: Arrays
    rows: int
    deadline: float | None
    key: Hashable
    """Whose turn it takes."""
    since: float
    """By the loop's clock."""
    answer: asyncio.Future[Ran]
    callers: _Callers | None = None
    """Those of its batch, once it has one."""


def batching_problem(function: FunctionSpec) -> str | None:
    """Why a function cannot be batched; None when it can."""
    for overload in function.overloads:
        if overload.writes or overload.changes_other_state:
            return "it changes state"
        shapes: dict[str, PartialShape] = {o.name: o.tensor.shape for o in overload.outputs}
        for spec in overload.inputs:
            if not isinstance(spec.kind, TensorSpec):
                return f"its input {spec.name!r} is a constant"
            shapes[spec.name] = spec.kind.shape
        for name, shape in shapes.items():
            if not shape or shape[0] is not None:
                return f"dimension 0 of {name!r} is not one of any size"
    return None


class Batcher:
    """The calls of one function. Used from the event loop alone."""

    def __init__(
        self, live: LiveModel, function: str, options: BatchOptions, workers: Workers
    ) -> None:
        self._live = live
        self._function = function
        self._options = options
        self._workers = workers
        self._groups: dict[object, _Group] = {}
        self._waiting_rows = 0
        self._rows_of: Counter[Hashable] = Counter()
        self._shedder = LoadShedder()

    async def run(self, inputs: Arrays, call: Waiter) -> Ran | None:
        """Run in a batch. None for inputs that are as large as a batch.

        Raises what `LiveModel.run` raises of this call, and RequestError TOO_MANY_REQUESTS,
        DEADLINE_EXCEEDED.
        """
        overload = self._live.check_run(self._function, inputs, {})
        sizes = {array.shape[0] for array in inputs.values()}
        rows = sizes.pop() if len(sizes) == 1 else 0
        if not 0 < rows < self._options.max_rows:
            return None
        self._make_room(rows, call)
        # Only what agrees in all but dimension 0 can be put together.
        key = (overload, *sorted((n, a.dtype.str, a.shape[1:]) for n, a in inputs.items()))
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(partial(self._flush, key))
        loop = asyncio.get_running_loop()
        waiting = _Waiting(
            inputs, rows, call.deadline, call.queue_key, loop.time(), loop.create_future()
        )
        self._count(waiting, group, 1)
        group.waiting.add(waiting.key, waiting)
        if not group.running:
            self._wake(group, loop)
        try:
            return await waiting.answer
        except asyncio.CancelledError:
            if waiting.callers is not None:
                waiting.callers.one_left()
            raise

    def _make_room(self, rows: int, call: Waiter) -> None:
        """Let so many rows wait, or raise RequestError TOO_MANY_REQUESTS.

        Those of a caller that has fewer than another get in: the last ones of who has most are
        refused in their place.
        """
        key, most = call.queue_key, self._options.max_waiting_rows
        while self._waiting_rows + rows > most:
            problem = f"{self._waiting()}; expected at most {most}"
            wait = self._waiting_rows // self._options.max_rows * self._shedder.seconds
            longest = max(self._rows_of, key=self._rows_of.__getitem__)
            if self._rows_of[longest] <= self._rows_of[key] + rows:
                raise too_many(problem, wait)
            self._give_up(longest, too_many(f"{problem}, and another caller has fewer", wait))
        callers = len(self._rows_of) + (key not in self._rows_of)
        before = min(self._waiting_rows, (self._rows_of[key] + rows) * callers)
        turns = before // self._options.max_rows
        if turns:
            self._shedder.check(turns, call.deadline, self._waiting)

    def _give_up(self, key: Hashable, why: RequestError) -> None:
        """Refuse the last call of a caller, in one of its groups."""
        group = next(
            group
            for group in self._groups.values()
            if any(waiting.key == key for waiting in group.waiting)
        )
        waiting = group.waiting.give_up_last(key)
        self._count(waiting, group, -1)
        if not waiting.answer.done():
            waiting.answer.set_exception(why)

    def _waiting(self) -> str:
        return f"{self._waiting_rows} rows wait for function {self._function!r}"

    def _count(self, waiting: _Waiting, group: _Group, sign: int) -> None:
        """A call begins to wait (1), or ends to (-1)."""
        rows = sign * waiting.rows
        group.rows += rows
        self._waiting_rows += rows
        self._rows_of[waiting.key] += rows
        if not self._rows_of[waiting.key]:
            del self._rows_of[waiting.key]

    def _wake(self, group: _Group, loop: asyncio.AbstractEventLoop) -> None:
        """Flush when the first call has waited for the delay, or at once when a batch is full."""
        full = group.rows >= self._options.max_rows
        left = 0.0
        if not full and self._options.max_delay:
            since = min(waiting.since for waiting in group.waiting)
            left = since + self._options.max_delay - loop.time()
        group.wake(loop, max(0.0, left))

    def _flush(self, key: object) -> None:
        group = self._groups[key]
        batch = self._next_batch(group)
        if not batch:
            del self._groups[key]
            return
        work = self._run(batch, _callers_of(batch))
        group.running = asyncio.get_running_loop().create_task(work)
        group.running.add_done_callback(partial(self._ended, group))

    def _ended(self, group: _Group, task: asyncio.Task[None]) -> None:
        group.running = None
        if not task.cancelled():
            task.result()
        if group.waiting:
            self._wake(group, asyncio.get_running_loop())
        else:
            group.flush()

    def _next_batch(self, group: _Group) -> list[_Waiting]:
        batch: list[_Waiting] = []
        total, now = 0, time.monotonic()
        while group.waiting and total + group.waiting.next().rows <= self._options.max_rows:
            waiting = group.waiting.take()
            self._count(waiting, group, -1)
            if waiting.answer.done():
                continue  # the caller has gone
            if waiting.deadline is not None and now >= waiting.deadline:
                waiting.answer.set_exception(
                    RequestError(
                        Reason.DEADLINE_EXCEEDED,
                        "the deadline passed before the call's turn came; nothing was changed",
                    )
                )
                continue
            batch.append(waiting)
            total += waiting.rows
        return batch

    async def _run(self, batch: Sequence[_Waiting], callers: _Callers) -> None:
        deadlines = [waiting.deadline for waiting in batch]
        last = None if None in deadlines else max(d for d in deadlines if d is not None)
        started = time.monotonic()
        try:
            work = partial(self._together, batch, last, callers.cancellation)
            # It comes when the first of its callers would have come alone.
            key = min({waiting.key for waiting in batch}, key=self._workers.waiting)
            answers = await self._workers.run(work, Turn(last, key))
            self._shedder.took(time.monotonic() - started)
        except Exception as error:
            # Run alone, only the calls that are at fault fail.
            if len(batch) > 1 and not _of_all(error):
                for waiting in batch:
                    if not waiting.answer.done():
                        await self._run([waiting], _callers_of([waiting]))
                return
            for waiting in batch:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
            return
        for waiting, answer in zip(batch, answers, strict=True):
            if not waiting.answer.done():
                waiting.answer.set_result(answer)

    def _together(
        self, batch: Sequence[_Waiting], deadline: float | None, cancellation: Cancellation
    ) -> list[Ran]:
        """On a thread: one run, taken apart again."""

        def ran(inputs: Arrays) -> Ran:
            answer = self._live.run(
                self._function, inputs, {}, deadline=deadline, cancellation=cancellation
            )
            return Ran(answer.header, dict(answer.values))

        total = sum(waiting.rows for waiting in batch)
        filled = min((n for n in self._options.allowed_rows if n >= total), default=total)
        header, outputs = ran(_joined([w.inputs for w in batch], filled - total))
        if any(value.shape[:1] != (filled,) for value in outputs.values()):
            log.warning("outputs do not follow the rows of the inputs", function=self._function)
            if len(batch) > 1:
                raise _NotByRows
            return [ran(batch[0].inputs)]
        answers, start = [], 0
        for waiting in batch:
            stop = start + waiting.rows
            parts = {name: _rows(value, start, stop) for name, value in outputs.items()}
            answers.append(Ran(header, parts))
            start = stop
        return answers


class _NotByRows(Exception):
    """The function's outputs cannot be taken apart."""


class _Group:
    """Calls that can run in one batch."""

    def __init__(self, flush: Callable[[], None]) -> None:
        self.waiting: Turns[_Waiting] = Turns()
        self.rows = 0
        self.running: asyncio.Task[None] | None = None
        self._flush = flush
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None
        self._at_once = False

    def wake(self, loop: asyncio.AbstractEventLoop, delay: float) -> None:
        """Flush after a delay; a shorter one than is under way already counts."""
        if self._timer is not None:
            if delay or self._at_once:
                return
            self._timer.cancel()
        self._at_once = not delay
        # In the loop's next iteration: calls that have already arrived join the batch.
        self._timer = loop.call_later(delay, self.flush) if delay else loop.call_soon(self.flush)

    def flush(self) -> None:
        """Run what waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._flush()


def _callers_of(batch: Sequence[_Waiting]) -> _Callers:
    """The callers of a batch none of whom has gone yet; each tells when it goes."""
    callers = _Callers(len(batch))
    for waiting in batch:
        waiting.callers = callers
    return callers


def _of_all(error: Exception) -> bool:
    """Whether every call of the batch would fail like this if it ran alone."""
    return isinstance(error, RequestError) and error.reason in (
        Reason.TOO_MANY_REQUESTS,
        Reason.DEADLINE_EXCEEDED,
        Reason.VARIABLE_UNINITIALIZED,
        Reason.MODEL_NOT_READY,
    )


def _joined(batch: Sequence[Arrays], filling: int) -> Arrays:
    """The inputs concatenated along dimension 0, with the last row repeated `filling` times."""
    if len(batch) == 1 and not filling:
        return batch[0]
    joined = {}
    for name in batch[0]:
        parts = [inputs[name] for inputs in batch]
        joined[name] = np.concatenate([*parts, *[parts[-1][-1:]] * filling])
    return joined
