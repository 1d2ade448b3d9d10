"""Memory is promised as far as there is some, and given back."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from tests.waiting import until
from varserve_service.core import memory as memory_module
from varserve_service.core.errors import OutOfMemory, Reason, RequestError
from varserve_service.core.memory import SMALL_BYTES, MemoryBudget, Room

MIB = 2**20


def budget(available: int, *, reserve: int = 0) -> MemoryBudget:
    return MemoryBudget("host", lambda: Room(available, 100 * MIB), reserve)


@pytest.mark.parametrize(("more", "fits"), [(-1, True), (0, True), (1, False)])
def test_what_is_left_is_promised_and_no_more(more: int, fits: bool) -> None:
    """Beside what was promised and what stays free, the last byte can be had."""
    memory = budget(50 * MIB, reserve=10 * MIB)
    with memory.reserve(15 * MIB, "one"):
        if fits:
            memory.reserve(25 * MIB + more, "another").used(25 * MIB + more)
        else:
            with pytest.raises(OutOfMemory) as caught:
                memory.reserve(25 * MIB + more, "another")
            assert caught.value.message == (
                f"another needs {25 * MIB + more} bytes of host memory; {25 * MIB} are available, "
                f"of {100 * MIB}; nothing was changed; try again when less is in use, or give "
                "the service more"
            )
            assert caught.value.metadata == {
                "needed": str(25 * MIB + more),
                "available": str(25 * MIB),
                "limit": str(100 * MIB),
            }
    assert memory.reserved == 0


def test_what_can_never_fit_is_not_tried_again() -> None:
    """What stays free counts: more than the rest of the memory is never available."""
    memory = budget(50 * MIB, reserve=10 * MIB)
    for needed, advice in ((89 * MIB, "changed; try again when"), (90 * MIB, "changed; give the")):
        with pytest.raises(OutOfMemory, match=advice):
            memory.reserve(needed, "one")


def test_many_small_ones_count_as_what_they_are() -> None:
    """One that is small is let in unseen; a thousand of one call are not."""
    memory = budget(0)
    memory.reserve(SMALL_BYTES - 1, "small")
    held = memory.reserve(0, "all")
    for _ in range(3):
        held.add(SMALL_BYTES // 4, "small")
    with pytest.raises(OutOfMemory):
        held.add(SMALL_BYTES // 4, "small")


def test_used_bytes_are_promised_no_more() -> None:
    """What was written to is in the system's own figures: it does not count twice."""
    memory = budget(100 * MIB)
    with memory.reserve(60 * MIB, "one") as held:
        held.used(40 * MIB)
        assert memory.reserved == 20 * MIB
        held.used(90 * MIB)
        assert memory.reserved == 0
    assert memory.reserved == 0


def test_who_goes_on_after_its_call_is_promised_nothing() -> None:
    """A thread whose caller has gone gets no more, and what it had asked for is given back."""
    memory = budget(100 * MIB)
    with memory.reserve(0, "a call") as held:
        pass
    with pytest.raises(RequestError) as refused:
        held.add(60 * MIB, "what comes too late")
    assert refused.value.reason is Reason.DEADLINE_EXCEEDED
    assert memory.reserved == 0


def test_threads_do_not_promise_the_same_bytes() -> None:
    """Of many who ask at once, as many get theirs as there is room for."""
    memory = budget(100 * MIB)
    got: list[object] = []
    start = threading.Barrier(16)

    def ask() -> None:
        start.wait(30)
        for _ in range(20):
            try:
                got.append(memory.reserve(7 * MIB, "some"))
            except OutOfMemory:
                return

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(got) == 14
    assert memory.reserved == 98 * MIB


def test_memory_is_trimmed_after_the_last_that_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at once, and for all who ask until then; who asks while it is done is not forgotten."""
    times: list[float] = []
    began, go_on = threading.Event(), threading.Event()

    def trim() -> None:
        times.append(time.monotonic())
        began.set()
        go_on.wait(30)

    monkeypatch.setattr(memory_module, "trim", trim)
    late = memory_module.LateTrim(0.05)
    first = time.monotonic()
    for _ in range(3):
        late.ask()
    assert began.wait(30)
    assert times[0] - first >= 0.05
    late.ask()
    go_on.set()
    until(lambda: len(times) == 2)
    late.ask()
    until(lambda: len(times) == 3)


def test_a_trim_without_a_thread_is_made_with_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system gives no thread nobody who asks is told, and who asks later is heard."""
    trimmed = threading.Event()
    monkeypatch.setattr(memory_module, "trim", trimmed.set)
    late = memory_module.LateTrim(0.01)
    with monkeypatch.context() as none:
        none.setattr(memory_module, "started", lambda thread: False)
        late.ask()
    late.ask()
    assert trimmed.wait(30)


def test_what_was_freed_is_returned_where_the_library_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it; another C library has no such function, or is not there."""
    trimmed: list[int] = []
    found: Any = SimpleNamespace(malloc_trim=trimmed.append)
    monkeypatch.setattr(memory_module.ctypes, "CDLL", lambda name: found)
    memory_module.trim()
    assert trimmed == [0]
    found = SimpleNamespace()
    memory_module.trim()

    def absent(name: str) -> Any:
        raise OSError(name)

    monkeypatch.setattr(memory_module.ctypes, "CDLL", absent)
    memory_module.trim()
