"""The queue of proposals that wait to be made durable, and whose caller leads.

One caller at a time leads: it makes all that wait. The others sleep until theirs has ended, or
until it is their turn to lead. Knows proposals; knows nothing of journals.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator

from varserve_service.core.errors import Reason, RequestError

from .proposal import Proposal

_TOGETHER_SECONDS = 0.005
"""After this long no further proposal joins those that wait for the same sync."""


class _Place:
    """A proposal in the queue, and what wakes its caller."""

    __slots__ = ("leads", "proposal", "wake")

    def __init__(self, proposal: Proposal) -> None:
        self.proposal = proposal
        self.leads = False
        self.wake = threading.Lock()
        self.wake.acquire()


class Queue:
    """Who waits, and who leads. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._led = False
        self._waiting: deque[_Place] = deque()
        self._taken: list[_Place] = []

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def enter(self, proposal: Proposal) -> bool:
        """Wait until a proposal has ended, or its caller leads: whether it does.

        Whoever leads calls `leave`. Raises RequestError DEADLINE_EXCEEDED, and is not in it then.
        """
        place = _Place(proposal)
        with self._changing:
            self._waiting.append(place)
            if not self._led:
                self._led = place.leads = True
                return True
        if not place.wake.acquire(timeout=_remaining(proposal.terms.deadline)):
            with self._changing:
                if place in self._waiting and not place.leads:
                    self._waiting.remove(place)
                    raise too_late()
            place.wake.acquire()  # Another thread is making it: it ends soon.
        return place.leads

    def take(self, *, optimistic: bool = False) -> Iterator[Proposal]:
        """The proposals that go into one sync; `optimistic`: of those that can be put back.

        For who leads.
        """
        ids: set[tuple[str, str]] = set()
        until: float | None = None
        while until is None or time.monotonic() < until:
            with self._changing:
                if not self._waiting:
                    return
                proposal = self._waiting[0].proposal
                if proposal.needs_history and until is not None:
                    return
                if proposal.needs_turn and optimistic:
                    return
                request = proposal.terms.request
                if request is not None and (request.subject, request.id) in ids:
                    return  # It wants the answer of one that is not durable yet.
                self._taken.append(self._waiting.popleft())
            if request is not None:
                ids.add((request.subject, request.id))
            yield proposal
            until = until or time.monotonic() + _TOGETHER_SECONDS

    def put_back(self, proposals: Iterable[Proposal]) -> None:
        """Some that were taken are to be made anew, before those that wait. For who leads."""
        chosen = set(proposals)
        with self._changing:
            again = [place for place in self._taken if place.proposal in chosen]
            self._taken = [place for place in self._taken if place.proposal not in chosen]
            self._waiting.extendleft(reversed(again))

    def withdraw(self, proposal: Proposal) -> None:
        """Take the proposal of who leads out of it, if it waits still."""
        with self._changing:
            self._waiting = deque(each for each in self._waiting if each.proposal is not proposal)

    def settle(self) -> None:
        """What was taken has ended: its callers go on. For who leads."""
        taken, self._taken = self._taken, []
        for place in taken:
            if not place.leads:
                place.wake.release()

    def leave(self) -> None:
        """Lead no more: the first that waits does."""
        with self._changing:
            self._led = bool(self._waiting)
            if self._led:
                self._waiting[0].leads = True
                self._waiting[0].wake.release()


def too_late() -> RequestError:
    """The failure of a proposal whose deadline passed before its turn came."""
    return RequestError(
        Reason.DEADLINE_EXCEEDED,
        "the deadline passed while the model was busy; nothing was changed",
    )


def _remaining(deadline: float | None) -> float:
    if deadline is None:
        return -1
    return min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX)
