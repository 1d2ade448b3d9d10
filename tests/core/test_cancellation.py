"""What becomes of a run that nobody waits for any more."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from tests.fakes import FakeFunction, FakeModel, FakeVariable, Gate
from tests.waiting import join, until
from varserve_service.core import cancellation
from varserve_service.core.cancellation import Cancellation, Deadlines
from varserve_service.core.errors import FunctionFailed, Reason, RequestError
from varserve_service.core.model import runs
from varserve_service.core.model.live_model import LiveModel

BOUND = 10
"""Seconds that a run may take to end; with a busy machine in mind."""


def endless(**options: Any) -> FakeFunction:
    """A function that goes on until it is cancelled, and then fails as TensorFlow's do."""

    def call() -> dict[str, np.ndarray[Any, Any]]:
        assert function.cancelled.wait(30), "it was never cancelled"
        raise ArithmeticError("cancelled")

    function = FakeFunction("endless", call, **options)
    return function


def model(*functions: FakeFunction) -> tuple[LiveModel, FakeVariable]:
    variable = FakeVariable("a", np.zeros(2, np.float32))
    return LiveModel(FakeModel([variable], list(functions))), variable


@pytest.mark.parametrize("writes", [(), ("a",)])
def test_a_run_ends_when_its_deadline_passes(writes: tuple[str, ...]) -> None:
    """With a reason that says so, and the model is free for the next: a run that writes, too."""
    live, _ = model(endless(writes=writes))
    began = time.monotonic()
    with pytest.raises(RequestError, match="'endless': the deadline passed while it ran") as caught:
        live.run("endless", {}, {}, deadline=began + 0.1)
    assert caught.value.reason is Reason.DEADLINE_EXCEEDED
    assert 0.1 <= time.monotonic() - began < BOUND
    assert live.header.revision == 0
    live.read([], deadline=time.monotonic() + BOUND)


def test_a_run_ends_when_its_caller_goes() -> None:
    """Without a deadline, and at once: nobody waits for the next look at deadlines."""
    live, _ = model(endless())
    gone, errors = Cancellation(), []

    def act() -> None:
        with pytest.raises(RequestError) as caught:
            live.run("endless", {}, {}, cancellation=gone)
        errors.append(caught.value.message)

    thread = threading.Thread(target=act)
    thread.start()
    until(lambda: live._parts.runs._runs)
    gone.cancel()
    join([thread], BOUND)
    assert "its caller went away" in errors[0]


def test_a_run_whose_caller_has_gone_does_not_begin() -> None:
    """What waited for its turn meanwhile is not done."""
    ran: list[int] = []

    def call() -> dict[str, Any]:
        ran.append(1)
        return {}

    live, _ = model(FakeFunction("f", call, writes=("a",)))
    gone = Cancellation()
    gone.cancel()
    with pytest.raises(RequestError, match="went away"):
        live.run("f", {}, {}, cancellation=gone)
    assert (ran, live.header.revision) == ([], 0)


def test_what_an_ended_run_had_written_is_put_back() -> None:
    """It is as if the run had never begun."""
    live, variable = model()

    def call() -> dict[str, Any]:
        variable.array = np.ones(2, np.float32)
        assert function.cancelled.wait(30)
        raise ArithmeticError("cancelled")

    function = FakeFunction("half", call, writes=("a",))
    live, _ = LiveModel(FakeModel([variable], [function])), variable
    with pytest.raises(RequestError):
        live.run("half", {}, {}, deadline=time.monotonic() + 0.05)
    assert variable.array is not None
    assert (variable.array.tolist(), live.header.revision) == ([0, 0], 0)


def test_a_run_that_cannot_be_ended_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """By function, until it ends by itself; its result is given then."""
    monkeypatch.setattr(runs, "_OVERDUE_SECONDS", 0.0)
    gate, answers = Gate(), []

    def call() -> dict[str, Any]:
        gate()
        return {"y": np.ones(1, np.float32)}

    live, _ = model(FakeFunction("stubborn", call))
    deadline = time.monotonic() + 0.05
    thread = threading.Thread(
        target=lambda: answers.append(live.run("stubborn", {}, {}, deadline=deadline))
    )
    thread.start()
    assert gate.reached.wait(30)
    until(lambda: live.overdue_runs == {"stubborn": 1})
    gate.opened.set()
    join([thread])
    assert answers[0].values["y"].numpy().tolist() == [1]
    assert live.overdue_runs == {}


def test_a_failure_of_its_own_stays_what_it_is() -> None:
    """A deadline that has not passed changes no error."""

    def call() -> dict[str, Any]:
        raise ArithmeticError("of its own")

    live, _ = model(FakeFunction("f", call))
    with pytest.raises(FunctionFailed, match="of its own"):
        live.run("f", {}, {}, deadline=time.monotonic() + 60, cancellation=Cancellation())


def test_deadlines_are_kept_by_one_thread_that_forgets_what_has_ended() -> None:
    """A thousand that are removed leave nothing; one that is added late is still called."""
    deadlines, called = Deadlines(), threading.Event()
    for _ in range(1000):

        def end() -> None:
            raise AssertionError

        deadlines.add(end, time.monotonic() + 60)
        deadlines.remove(end)
    assert not deadlines._ends
    deadlines.add(called.set, time.monotonic())
    assert called.wait(BOUND)


def test_a_deadline_that_passes_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it stays there, and whatever is due later."""
    monkeypatch.setattr(cancellation, "_LOOK_SECONDS", 0.002)
    deadlines, called = Deadlines(), list[str]()
    deadlines.add(lambda: called.append("first"), time.monotonic())
    deadlines.add(lambda: called.append("never"), time.monotonic() + 60)
    until(lambda: called)
    deadlines.add(lambda: called.append("second"), time.monotonic() + 0.05)
    until(lambda: len(called) > 1)
    assert called == ["first", "second"]


def test_deadlines_that_no_thread_can_be_had_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work goes on without them; the next one that comes has them all looked at."""

    def fail(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    deadlines, first, second = Deadlines(), threading.Event(), threading.Event()
    with monkeypatch.context() as exhausted:
        exhausted.setattr(threading.Thread, "start", fail)
        deadlines.add(first.set, time.monotonic())
    deadlines.add(second.set, time.monotonic())
    assert first.wait(BOUND)
    assert second.wait(BOUND)


class Slow(float):
    """A time that lets other threads run while it is looked at."""

    def __le__(self, other: float) -> bool:
        time.sleep(0.001)
        return super().__le__(other)


def test_deadlines_come_and_go_while_they_are_looked_at() -> None:
    """The one that is due is called all the same."""
    deadlines, called = Deadlines(), threading.Event()
    for _ in range(20):
        deadlines.add(threading.Event().set, Slow(time.monotonic() + 60))
    for _ in range(200):
        end = threading.Event().set
        deadlines.add(end, time.monotonic() + 60)
        time.sleep(0.001)
        deadlines.remove(end)
    deadlines.add(called.set, time.monotonic())
    assert called.wait(BOUND)


def test_work_that_has_ended_is_not_ended_again() -> None:
    """Whether it was told, or never came; each is told once, and at once where it comes late."""
    gone, told = Cancellation(), list[str]()
    ends = {name: (lambda name=name: told.append(name)) for name in "abc"}
    gone.add(ends["a"])
    gone.add(ends["b"])
    gone.remove(ends["b"])
    gone.remove(ends["c"])  # it was never there
    gone.cancel()
    gone.cancel()
    assert told == ["a"]
    gone.remove(ends["a"])
    gone.add(ends["c"])
    assert told == ["a", "c"]
