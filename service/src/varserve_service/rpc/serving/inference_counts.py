"""How many inferences of each version were asked for in a foreign protocol, and how long they took.

Used from the event loop alone.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from varserve_service.core.model.live_model import LiveModel


@dataclass(slots=True)
class Counts:
    """Of one version since it was loaded. Times in nanoseconds; `last_at` in ms since 1970."""

    succeeded: int = 0
    succeeded_ns: int = 0
    failed: int = 0
    failed_ns: int = 0
    last_at: int = 0

    def add(self, nanoseconds: int, *, succeeded: bool) -> None:
        """Count a call that has ended."""
        self.last_at = time.time_ns() // 1_000_000
        if succeeded:
            self.succeeded += 1
            self.succeeded_ns += nanoseconds
        else:
            self.failed += 1
            self.failed_ns += nanoseconds


class InferenceCounts:
    """The counts of all versions in memory."""

    def __init__(self) -> None:
        self._counts: WeakKeyDictionary[LiveModel, Counts] = WeakKeyDictionary()

    def of(self, live: LiveModel) -> Counts:
        """The counts of one version."""
        return self._counts.setdefault(live, Counts())
