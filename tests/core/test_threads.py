"""Threads that work on a model are prepared before they do, and it is known when all are."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator

import pytest

from tests.fakes import Gate
from tests.waiting import join, until
from varserve_service.core import threads
from varserve_service.core.arrays.sealed import _LetGo
from varserve_service.core.threads import (
    ModelThread,
    model_executor,
    prepare_threads_with,
    wait_until_prepared,
)


@pytest.fixture
def gate() -> Iterator[Gate]:
    """What prepares a thread waits here."""
    usual, gate = threads._prepare, Gate()
    prepare_threads_with(gate)
    try:
        yield gate
    finally:
        prepare_threads_with(usual)


def test_a_thread_is_prepared_before_its_work(gate: Gate) -> None:
    """Until then it counts as one that is not ready."""
    assert wait_until_prepared(30)
    worked = threading.Event()
    thread = ModelThread(worked.set, "works")
    thread.start()
    assert gate.reached.wait(30)
    assert not wait_until_prepared(0)
    assert not worked.is_set()
    gate.opened.set()
    assert wait_until_prepared(30)
    join([thread])
    assert worked.is_set()
    assert (thread.daemon, thread.name) == (True, "works")


def test_a_thread_that_the_system_does_not_give_is_not_waited_for(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its start fails, and that is all."""

    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as short:
        short.setattr(threading.Thread, "start", refused)
        with pytest.raises(RuntimeError):
            ModelThread(lambda: None, "none").start()
    assert wait_until_prepared(0)


def test_memory_is_let_go_of_when_there_is_a_thread_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was to be let go of meanwhile is kept, and goes then."""

    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    letting_go = _LetGo()
    with monkeypatch.context() as short:
        short.setattr(threading.Thread, "start", refused)
        letting_go.start()
    letting_go.later.put(mmap.mmap(-1, 4096))
    assert not letting_go.later.empty()
    letting_go.start()
    until(letting_go.later.empty)


def test_the_threads_of_an_executor_are_prepared(gate: Gate) -> None:
    """Each as it begins, as many as it was given, and under its name."""
    executor = model_executor(2, "some")
    try:
        works = [executor.submit(lambda: threading.current_thread().name) for _ in range(4)]
        assert gate.reached.wait(30)
        assert not any(work.done() for work in works)
        gate.opened.set()
        assert {work.result(30)[:5] for work in works} == {"some_"}
        assert executor._max_workers == 2
    finally:
        executor.shutdown()
