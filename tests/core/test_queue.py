"""Who shares a sync, who leads, and who is woken when."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from tests.core.test_live_model import refusal
from tests.waiting import join, until
from varserve_service.core.commit import queue as module
from varserve_service.core.commit.queue import Queue
from varserve_service.core.errors import Reason
from varserve_service.core.ports.commits import WriteRequest


def proposal(
    request: str = "", subject: str = "", *, history: bool = False, deadline: float | None = None
) -> Any:
    asked = WriteRequest(request, b"", subject) if request else None
    terms = SimpleNamespace(deadline=deadline, request=asked)
    return SimpleNamespace(terms=terms, needs_history=history, needs_turn=history)


class Entering:
    """Enters a proposal from a thread of its own."""

    def __init__(self, queue: Queue, entered: Any) -> None:
        self.proposal = entered
        self.leads: list[bool] = []
        self.error: list[Exception] = []
        before = len(queue)
        self.thread = threading.Thread(target=self._enter, args=(queue,), daemon=True)
        self.thread.start()
        until(lambda: len(queue) > before)

    def _enter(self, queue: Queue) -> None:
        self.leads.append(queue.enter(self.proposal))


def filled(*proposals: Any) -> tuple[Queue, list[Entering]]:
    """A queue that this thread leads, with the first proposal in it and the others behind."""
    queue = Queue()
    assert queue.enter(proposals[0])
    return queue, [Entering(queue, each) for each in proposals[1:]]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TOGETHER_SECONDS", 60.0)


def ended(queue: Queue, waiting: list[Entering]) -> None:
    """Everybody is woken in the end: who was taken by `settle`, the others one after the other."""
    queue.settle()
    queue.leave()
    while len(queue):
        list(queue.take())
        queue.settle()
        queue.leave()
    join([each.thread for each in waiting])


def test_all_that_wait_share_a_sync() -> None:
    """In their order; those that come while they are made, too."""
    one, two, three = proposal(), proposal("r", "ann"), proposal("r", "bob")
    queue, waiting = filled(one, two)
    taking = queue.take()
    assert next(taking) is one
    waiting.append(Entering(queue, three))
    assert list(taking) == [two, three]
    ended(queue, waiting)
    assert [each.leads for each in waiting] == [[False], [False]]


def test_none_joins_when_it_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is made, however long that takes; the others wait for the next sync."""
    monkeypatch.setattr(module, "_TOGETHER_SECONDS", 0.0)
    one, two = proposal(), proposal()
    queue, waiting = filled(one, two)
    assert list(queue.take()) == [one]
    assert list(queue.take()) == [two]
    assert list(queue.take()) == []
    ended(queue, waiting)


def test_what_looks_at_the_history_is_the_first_of_its_sync() -> None:
    """Alone it may go first, and others behind it; never behind another."""
    look, plain, second = proposal(history=True), proposal(), proposal(history=True)
    queue, waiting = filled(look, plain, second)
    assert list(queue.take()) == [look, plain]
    assert list(queue.take()) == [second]
    ended(queue, waiting)


def test_a_request_twice_is_not_in_one_sync() -> None:
    """The second wants the answer of the first; ids belong to their subjects."""
    first, again, other = proposal("r", "ann"), proposal("r", "ann"), proposal("s", "ann")
    queue, waiting = filled(first, again, other)
    assert list(queue.take()) == [first]
    assert list(queue.take()) == [again, other]
    ended(queue, waiting)


def test_the_next_one_leads_when_the_leader_leaves() -> None:
    """Only it is woken; whoever comes to an empty queue leads at once."""
    queue, waiting = filled(proposal(), proposal(), proposal())
    (taken,) = [next(queue.take())]
    assert taken is not waiting[0].proposal
    queue.settle()
    queue.leave()
    until(lambda: waiting[0].leads)
    assert (waiting[0].leads, waiting[1].leads) == ([True], [])
    assert list(queue.take()) == [waiting[0].proposal, waiting[1].proposal]
    queue.settle()
    until(lambda: waiting[1].leads)
    queue.leave()
    assert waiting[1].leads == [False]
    assert queue.enter(proposal())


def test_who_gives_up_is_not_made() -> None:
    """It is out of the queue; one that is being made, or leads, waits for its end."""
    queue, waiting = filled(proposal(), proposal())
    error = refusal(queue.enter, proposal(deadline=time.monotonic() + 0.02))
    assert (error.reason, len(queue)) == (Reason.DEADLINE_EXCEEDED, 2)
    late = Entering(queue, proposal(deadline=time.monotonic() + 1.5))
    assert len(list(queue.take())) == 3
    late.thread.join(1.7)
    assert late.thread.is_alive()  # another thread is making it
    ended(queue, [*waiting, late])
    assert late.leads == [False]


def test_a_leader_that_is_withdrawn_leaves_the_others() -> None:
    """They are in their order still."""
    mine, two, three = proposal(), proposal(), proposal()
    queue, waiting = filled(mine, two, three)
    queue.withdraw(mine)
    assert list(queue.take()) == [two, three]
    queue.withdraw(mine)
    ended(queue, waiting)
