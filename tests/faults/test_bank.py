"""A bank: what is taken from one variable is added to another, and the sum never changes."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import pytest

import varserve
from tests.fakes import FakeModel, FakeVariable
from tests.serving import ServiceProcess
from tests.waiting import join
from varserve_service.core.change.writes import Write
from varserve_service.core.commit.lock import ReadersWriterLock
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import Operation
from varserve_service.core.ports.messages import Read

ACCOUNTS = [f"account_{n}" for n in range(8)]
START = 1_000_000


class Watched:
    """Runs readers beside writers, and counts what they saw."""

    def __init__(self, total: Callable[[], int], readers: int) -> None:
        self.done = threading.Event()
        self.reads = 0
        self.wrong: list[int] = []
        self._total = total
        self._threads = [threading.Thread(target=self._watch) for _ in range(readers)]

    def __enter__(self) -> Watched:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        for thread in self._threads:
            thread.join(60)

    def _watch(self) -> None:
        while not self.done.is_set():
            total = self._total()
            self.reads += 1
            if total != START * len(ACCOUNTS):
                self.wrong.append(total)


def bank(*, locked: bool) -> LiveModel:
    class NoLock(ReadersWriterLock):
        def shared(self, deadline: float | None = None) -> AbstractContextManager[None]:
            return AlwaysOpen()

        def exclusive(self, deadline: float | None = None) -> AbstractContextManager[None]:
            return AlwaysOpen()

    accounts = [FakeVariable(name, np.array([START]), in_place=True) for name in ACCOUNTS]
    return LiveModel(FakeModel(accounts), lock=ReadersWriterLock() if locked else NoLock())


class AlwaysOpen(AbstractContextManager[None]):
    def __exit__(self, *_: object) -> None:
        return None


def transfers(live: LiveModel, count: int, seed: int) -> None:
    choose = random.Random(seed)
    for _ in range(count):
        giver, taker = choose.sample(ACCOUNTS, 2)
        amount = np.array([choose.randrange(1000)])
        live.assign(
            [
                Write(giver, Operation.SUB, amount),
                Write(taker, Operation.ADD, amount.copy()),
            ]
        )


def total(live: LiveModel) -> int:
    entries = live.read([Read(name) for name in ACCOUNTS]).entries
    return sum(int(entry.value.numpy().item()) for entry in entries if entry.value)


def run_bank(live: LiveModel, count: int) -> Watched:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    writers = [
        threading.Thread(target=transfers, args=(live, count // 4, seed + n)) for n in range(4)
    ]
    with Watched(lambda: total(live), readers=4) as watched:
        for writer in writers:
            writer.start()
        join(writers, seconds=600)
    return watched


def test_the_sum_never_changes() -> None:
    """50,000 transfers between 8 variables by 4 writers: no snapshot ever has a wrong sum."""
    live = bank(locked=True)
    watched = run_bank(live, 50_000)
    assert (live.header.revision, total(live)) == (50_000, START * len(ACCOUNTS))
    assert watched.reads >= 1_000
    assert watched.wrong == []


def test_without_the_lock_the_sum_changes() -> None:
    """The same with the lock taken out has wrong sums: the test above can fail."""
    for _ in range(20):
        live = bank(locked=False)
        watched = run_bank(live, 2_000)
        if watched.wrong or total(live) != START * len(ACCOUNTS):
            return
    pytest.fail("no wrong sum was seen without the lock")


def test_the_sum_never_changes_over_the_wire(
    serve: Callable[..., AbstractContextManager[ServiceProcess]],
) -> None:
    """400 transfers as transactions against the real service, watched by 4 clients."""
    names = [f"part_{n}" for n in range(8)]
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    choose = random.Random(seed)
    with serve("uniform") as service, varserve.connect(service.address) as client:
        model = client.model("uniform")
        with model.transaction() as opening:
            for name in names:
                opening.assign(name, np.float32(START))

        def seen() -> int:
            snapshot = model.read(names)
            return sum(int(snapshot[name]) for name in names)

        with Watched(seen, readers=4) as watched:
            for _ in range(400):
                giver, taker = choose.sample(names, 2)
                amount = np.float32(choose.randrange(100))
                with model.transaction() as transfer:
                    transfer.assign_sub(giver, amount)
                    transfer.assign_add(taker, amount)
        assert transfer.revision == 401
        assert seen() == START * len(names)
    assert watched.reads >= 100
    assert watched.wrong == []
