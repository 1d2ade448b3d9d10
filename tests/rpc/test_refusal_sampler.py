"""Which refusals of strangers get a line of their own, and how the others are summed up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from varserve_service.rpc.authorization import refusal_sampler as module
from varserve_service.rpc.authorization.refusal_sampler import RefusalSampler


class Loop:
    """An event loop's clock, which a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.later: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, seconds: float, action: Callable[[], None]) -> None:
        self.later.append((self.now + seconds, action))

    def move(self, seconds: float) -> None:
        self.now += seconds
        due = [action for at, action in self.later if at <= self.now]
        self.later = [each for each in self.later if each[0] > self.now]
        for action in due:
            action()


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    loop = Loop()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: loop)
    monkeypatch.setattr(module, "_BURST", 3)
    return loop


def test_a_few_come_at_once_and_then_one_in_a_while(loop: Loop) -> None:
    """What is not used is saved up, and no more than at the start."""
    sampler = RefusalSampler(lambda count, seconds: None)
    assert [sampler.take() for _ in range(5)] == [True, True, True, False, False]
    loop.move(0.5)
    assert not sampler.take()
    loop.move(0.5)
    assert [sampler.take() for _ in range(2)] == [True, False]
    loop.move(2.0)
    assert [sampler.take() for _ in range(3)] == [True, True, False]
    loop.move(3600.0)
    assert [sampler.take() for _ in range(4)] == [True, True, True, False]


def test_what_was_left_out_is_summed_up_once(loop: Loop) -> None:
    """After a while, with the number of then; the next one that is left out begins another sum."""
    told: list[tuple[int, float]] = []
    sampler = RefusalSampler(lambda count, seconds: told.append((count, seconds)))
    for _ in range(7):
        sampler.take()
    assert (told, len(loop.later)) == ([], 1)
    loop.move(9.9)
    assert told == []
    loop.move(0.1)
    assert told == [(4, 10.0)]
    for _ in range(5):
        sampler.take()
    loop.move(10.0)
    assert told == [(4, 10.0), (2, 10.0)]
    loop.move(100.0)
    assert len(told) == 2
