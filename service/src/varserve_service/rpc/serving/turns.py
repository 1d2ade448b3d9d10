"""Whose turn is next, where what several callers wait for is done one by one.

Owns the order: each caller that waits has one turn in a round, and its own calls come in the order
in which they came. Knows nothing of what a turn is.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

T = TypeVar("T")

# Callers of whom nothing waits that are remembered, beside as many as there are items.
_KEPT = 64


class Turns(Generic[T]):
    """Items that wait, by their callers' keys.

    Each item has the number of its round: one more than the caller's last, and than the round that
    is on. Used from the event loop, but for `take`, which any thread may call: it takes no lock,
    for which the event loop would have to wait, but one step of C.
    """

    __slots__ = ("_added", "_last", "_round", "_waiting")

    def __init__(self) -> None:
        self._waiting: list[tuple[int, int, Hashable, T]] = []
        """A heap, by round, and in it by order of arrival."""
        self._last: dict[Hashable, int] = {}
        """The round of each caller's last item."""
        self._round = 0
        self._added = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, key: Hashable, item: T) -> None:
        """Let an item of a caller wait."""
        if len(self._last) > len(self._waiting) + _KEPT:
            self._forget()
        self._added += 1
        self._last[key] = round_ = max(self._last.get(key, 0), self._round) + 1
        heappush(self._waiting, (round_, self._added, key, item))

    def take(self) -> T:
        """The item whose turn it is. Raises IndexError where none waits."""
        self._round, _, _, item = heappop(self._waiting)
        return item

    def next(self) -> T:
        """The item whose turn it is, which goes on waiting. Raises IndexError as `take`."""
        return self._waiting[0][3]

    def __iter__(self) -> Iterator[T]:
        return (item for _, _, _, item in self._waiting)

    def waiting(self, key: Hashable) -> int:
        """How many rounds come after this one until all of a caller has had its turn."""
        return max(0, self._last.get(key, 0) - self._round)

    def before(self, key: Hashable) -> int:
        """The most turns before a further item of a caller has its own, if nobody else comes.

        Of those that wait now: each other has as many turns until then as this one.
        """
        self._forget()
        return min(len(self._waiting), (self.waiting(key) + 1) * max(1, len(self._last)))

    def give_up(self, key: Hashable) -> T | None:
        """Take out the last item of who has most, to make room for a further one of `key`.

        None where `key` would then have more.
        """
        while self._waiting:
            last = max(self._waiting)
            if last[0] <= max(self._last.get(key, 0), self._round) + 1:
                return None
            if self._remove(last):
                return last[3]
        return None

    def give_up_last(self, key: Hashable) -> T:
        """Take out the last item of a caller. No thread takes any meanwhile."""
        last = max(each for each in self._waiting if each[2] == key)
        self._remove(last)
        return last[3]

    def _forget(self) -> None:
        """Forget those of whom nothing waits: their next items have the same round without."""
        self._last = {key: last for key, last in self._last.items() if last >= self._round}

    def _remove(self, last: tuple[int, int, Hashable, T]) -> bool:
        try:
            self._waiting.remove(last)
        except ValueError:  # a thread has just taken it
            return False
        # What a thread takes in between is the first nevertheless.
        heapify(self._waiting)
        self._last[last[2]] -= 1
        return True
