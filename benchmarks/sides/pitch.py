"""varserve with basic-pitch, and a client that looks into its function."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import varserve
from benchmarks.pitch import FUNCTION, PITCH, audio, spread

Act = Callable[[], Any]
ASKED = 3
"""So often a set of probes is asked for: the last time, the function is rebuilt for it."""
WARM_UP = 20
"""Sets that come before those that count: more than the service keeps."""


class Client:
    """Works over `varserve`."""

    def __init__(self, address: str) -> None:
        self._client = varserve.connect(address)
        self._function = self._client.model(PITCH).functions[FUNCTION]

    @contextmanager
    def plain(self) -> Iterator[Act]:
        inputs = audio()
        yield lambda: self._function.call(inputs)

    @contextmanager
    def again(self, tensors: int, summarized: bool = False) -> Iterator[Act]:
        """So many inner tensors that have been asked for before, their values or summaries."""
        inputs, names = audio(), spread(self._function.tensors(), tensors)

        def act() -> None:
            seen = self._function.inspect(inputs, probe=names, summarize=16 if summarized else None)
            assert len(seen.probes) == tensors

        for _ in range(ASKED):
            act()
        yield act

    @contextmanager
    def sets(self, count: int, tensors: int) -> Iterator[Act]:
        """So many sets of so many inner tensors, each set asked for until it is rebuilt."""
        inputs, found = audio(), self._function.tensors()
        starts = itertools.cycle(range(len(found) // 3))

        def act(count: int = count) -> None:
            for start in itertools.islice(starts, count):
                names = spread(found, tensors, start)
                for _ in range(ASKED):
                    self._function.inspect(inputs, probe=names, summarize=True)

        # What the service keeps of any such sets, it has after these.
        act(WARM_UP)
        yield act
