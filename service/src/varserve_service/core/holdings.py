"""What callers keep alive in a memory: bodies that arrive, values that are sent or leased.

Each holding belongs to a subject, which has a share of the memory. When memory is short, the
holdings that have been idle longest are given up before a call is refused. Knows nothing of what is
held; each holding comes with a function that gives it up.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

from .errors import Reason, RequestError

IDLE_SECONDS = 2.0
"""A holding that has been idle for less is not given up."""

SMALL_BYTES = 64 * 2**10
"""Smaller holdings are not counted."""

# How long the memory of one that was given up is waited for, and of all together. A lease needs the
# model's lock to end, which the caller that waits may hold.
_WAIT_SECONDS = 0.1
_WAIT_SECONDS_IN_ALL = 0.5
# Its memory is free when the last reference is gone.
_FREE_SECONDS = 0.02


class Holding:
    """Bytes that one subject keeps alive, until `release`."""

    def __init__(
        self,
        holdings: Holdings,
        subject: str,
        nbytes: int,
        give_up: Callable[[], None] | None,
    ) -> None:
        self._holdings = holdings
        self.subject = subject
        self.nbytes = nbytes
        self.give_up = give_up
        self.touched_at = time.monotonic()

    def touched(self) -> None:
        """Its subject has shown that it is needed."""
        self.touched_at = time.monotonic()

    def release(self) -> None:
        """Stop holding. Does nothing the second time."""
        self._holdings.forget(self)


class Holdings:
    """The holdings in one memory. May be used from any thread.

    `limit` tells how many bytes the memory has; None if unknown. One subject may hold half
    of them. Callers without a name cannot be told apart, so their share is the whole.
    """

    def __init__(self, limit: Callable[[], int | None] = lambda: None) -> None:
        self._limit = limit
        self._changed = threading.Condition()
        self._holdings: set[Holding] = set()
        self._bytes: Counter[str] = Counter()

    def hold(
        self,
        subject: str,
        nbytes: int,
        thing: str,
        give_up: Callable[[], None] | None,
        *,
        charged: bool = True,
    ) -> Holding:
        """Hold bytes for a subject. `give_up` is called at most once, and must not wait; None for
        what cannot be given up, because another process has it.

        `charged`: they count against the subject's share; not where they are values of the model,
        which take memory of their own only once they are overwritten. Raises RequestError
        TOO_MANY_REQUESTS when the subject would hold more than its share.
        """
        holding = Holding(self, subject, nbytes if charged else 0, give_up)
        if nbytes < SMALL_BYTES:
            return holding
        limit = self._limit() if subject and charged else None
        with self._changed:
            held = self._bytes[subject]
            if limit is not None and held + nbytes > limit // 2:
                raise RequestError(
                    Reason.TOO_MANY_REQUESTS,
                    f"{thing} would keep {nbytes} bytes of memory beside the {held} bytes that "
                    f"{subject[:200]!r} keeps already; expected at most {limit // 2} in all; "
                    "nothing was changed; retry when some of them are free",
                    limit=limit // 2,
                )
            self._holdings.add(holding)
            self._bytes[subject] += holding.nbytes
        return holding

    def held_by(self, subject: str) -> int:
        """Bytes that a subject holds."""
        return self._bytes[subject]

    def forget(self, holding: Holding) -> None:
        """See Holding.release."""
        with self._changed:
            if holding in self._holdings:
                self._holdings.remove(holding)
                self._bytes[holding.subject] -= holding.nbytes
                if not self._bytes[holding.subject]:
                    del self._bytes[holding.subject]
                self._changed.notify_all()

    def relief(self) -> Iterator[None]:
        """Give up one idle holding after the other, the longest idle first.

        Yields whenever memory may have become free.
        """
        given_up: set[Holding] = set()
        end = time.monotonic() + _WAIT_SECONDS_IN_ALL
        while time.monotonic() < end:
            idle_since = time.monotonic() - IDLE_SECONDS
            with self._changed:
                idle = [
                    (holding, give_up)
                    for holding in self._holdings - given_up
                    if (give_up := holding.give_up) is not None and holding.touched_at <= idle_since
                ]
            if not idle:
                return
            longest, give_up = min(idle, key=lambda each: each[0].touched_at)
            given_up.add(longest)
            give_up()
            with self._changed:
                gone = partial(self._is_gone, longest)
                released = self._changed.wait_for(gone, _WAIT_SECONDS)
            yield
            if released:
                time.sleep(_FREE_SECONDS)
                yield

    def _is_gone(self, holding: Holding) -> bool:
        return holding not in self._holdings
