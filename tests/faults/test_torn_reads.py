"""Torn reads: every write makes a 4 MiB variable uniform, and no reader may see two values in it.

TensorFlow alone does not promise that: with the lock taken out, these readers do see torn values.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from varserve_service.core.arrays.regions import Region, Rows, Slice, Slices
from varserve_service.core.change.writes import Write
from varserve_service.core.commit.lock import ReadersWriterLock
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import Operation
from varserve_service.core.ports.messages import Read

SECONDS = 4.0
LONGEST_SECONDS = 300.0  # on a machine that is far too busy
LEAST_READS = 1_000
SHAPE = (1024, 1024)
EVERY_ROW = Rows(np.arange(1024))
EVERY_SLICE = Slices((Slice(0, 1024), Slice(0, 1024)))

Mutator = Callable[[LiveModel, int], object]


class NoLock(ReadersWriterLock):
    """What the core would be without its lock."""

    @contextmanager
    def shared(self, deadline: float | None = None) -> Iterator[None]:
        yield

    @contextmanager
    def exclusive(self, deadline: float | None = None) -> Iterator[None]:
        yield


def write(operation: Operation, region: Region | None) -> Mutator:
    def mutate(live: LiveModel, turn: int) -> object:
        value = 1.0 if operation is Operation.ADD else float(turn)
        array = np.full(SHAPE, value, np.float32)
        return live.assign([Write("big", operation, array, region)])

    return mutate


def run(function: str) -> Mutator:
    def mutate(live: LiveModel, turn: int) -> object:
        return live.run(function, {"value": np.array(turn, np.float32)}, {})

    return mutate


def revert(live: LiveModel, turn: int) -> object:
    # In turns: a revert needs something to take back.
    if turn % 2:
        return write(Operation.SET, None)(live, turn)
    return live.revert(live.header.revision - 1)


MUTATORS: dict[str, Mutator] = {
    "assign": write(Operation.SET, None),
    "add": write(Operation.ADD, None),
    "scatter": write(Operation.SET, EVERY_ROW),
    "scatter-add": write(Operation.ADD, EVERY_ROW),
    "slice": write(Operation.SET, EVERY_SLICE),
    "revert": revert,
    "a function that scatters": run("scatter"),
    "a function that assigns slices": run("slices"),
}


class Readers:
    """Two that read the variable and one that runs a function over it, for as long as it takes."""

    def __init__(self, live: LiveModel) -> None:
        self.reads = 0
        self.torn = 0
        self.writes = 0
        self.failures: list[BaseException] = []
        self._live = live
        self._done = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(look,))
            for look in (self._read, self._read, self._run)
        ]

    def _repeat(self, look: Callable[[], tuple[Any, Any]]) -> None:
        try:
            while not self._done.is_set():
                least, greatest = look()
                self.reads += 1
                self.torn += bool(least != greatest)
        except BaseException as error:
            self.failures.append(error)

    def _read(self) -> tuple[Any, Any]:
        (entry,) = self._live.read([Read("big")]).entries
        assert entry.value is not None
        # A row of each quarter, and both ends of it: what tears, tears between rows.
        sample = entry.value.numpy()[::128, ::1023]
        return sample.min(), sample.max()

    def _run(self) -> tuple[Any, Any]:
        values = self._live.run("extremes", {}, {}).values
        return values["least"].numpy(), values["greatest"].numpy()

    def __enter__(self) -> Readers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join(60)


@pytest.fixture(scope="module")
def uniform(model_folder: Callable[[str], Path]) -> Callable[[ReadersWriterLock], LiveModel]:
    from varserve_service import savedmodel

    folder = model_folder("uniform")
    return lambda lock: LiveModel(
        savedmodel.load("uniform", folder, placement=savedmodel.Placement()), lock=lock
    )


def watch(live: LiveModel, mutate: Mutator, enough: Callable[[Readers, float], bool]) -> Readers:
    """Mutate until the readers have seen enough, or for much longer than that takes."""
    live.assign([Write("big", Operation.SET, np.zeros(SHAPE, np.float32))])
    started = time.monotonic()
    turn = 0
    with Readers(live) as readers:
        while not readers.failures and time.monotonic() - started < LONGEST_SECONDS:
            turn += 1
            mutate(live, turn)
            if enough(readers, time.monotonic() - started):
                break
    assert readers.failures == []
    readers.writes = turn
    return readers


@pytest.mark.parametrize("name", MUTATORS)
def test_nothing_is_torn(name: str, uniform: Callable[[ReadersWriterLock], LiveModel]) -> None:
    """Readers of a variable that is written all the time never see two values in it."""
    readers = watch(
        uniform(ReadersWriterLock()),
        MUTATORS[name],
        lambda readers, seconds: seconds >= SECONDS and readers.reads >= LEAST_READS,
    )
    assert readers.reads >= LEAST_READS, "too few reads to say anything"
    assert readers.writes >= 10, "too few writes to say anything"
    assert readers.torn == 0


@pytest.mark.parametrize("name", ["a function that scatters", "a function that assigns slices"])
def test_without_the_lock_reads_are_torn(
    name: str, uniform: Callable[[ReadersWriterLock], LiveModel]
) -> None:
    """With the lock taken out the same readers see torn values: the test above can fail."""
    readers = watch(uniform(NoLock()), MUTATORS[name], lambda readers, seconds: readers.torn > 0)
    assert readers.torn > 0
