"""Whose turn is next, where what several callers wait for is done one by one.

Owns the order: each caller that waits has one turn in a round, and its own calls come in the order
in which they came. Knows nothing of what a turn is.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """Items that wait, by their callers' keys. A key is kept as long as an item of it waits."""

    __slots__ = ("_count", "_queues")

    def __init__(self) -> None:
        # The first has the next turn.
        self._queues: OrderedDict[Hashable, deque[T]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, key: Hashable, item: T) -> None:
        """Let an item of a caller wait."""
        self._count += 1
        queue = self._queues.get(key)
        if queue is None:
            self._queues[key] = deque((item,))
        else:
            queue.append(item)

    def take(self) -> T:
        """The item whose turn it is. Raises KeyError where none waits."""
        key, queue = self._queues.popitem(last=False)
        item = queue.popleft()
        self._count -= 1
        if queue:
            self._queues[key] = queue
        return item

    def next(self) -> T:
        """The item whose turn it is, which goes on waiting. Raises StopIteration as `take`."""
        return next(iter(self._queues.values()))[0]

    def firsts(self) -> Iterator[T]:
        """The first item of each caller."""
        return (queue[0] for queue in self._queues.values())

    def waiting(self, key: Hashable) -> int:
        """How many items of a caller wait."""
        queue = self._queues.get(key)
        return 0 if queue is None else len(queue)

    def before(self, key: Hashable) -> int:
        """The most turns before a further item of a caller has its own, if no other caller comes.

        Of those that wait now: each other has as many turns until then as this one.
        """
        return min(self._count, (self.waiting(key) + 1) * len(self._queues))

    def longest(self) -> Hashable:
        """The caller that has most. None where none waits."""
        return max(self._queues, key=self.waiting, default=None)

    def newest(self, key: Hashable) -> T:
        """The item of a caller that came last. Raises KeyError where none waits."""
        return self._queues[key][-1]

    def take_newest(self, key: Hashable) -> T:
        """The same, which waits no longer."""
        queue = self._queues[key]
        item = queue.pop()
        self._count -= 1
        if not queue:
            del self._queues[key]
        return item

    def clear(self) -> list[T]:
        """Take all of them out."""
        items = [item for queue in self._queues.values() for item in queue]
        self._queues.clear()
        self._count = 0
        return items
