"""How long to wait before the next attempt, and how many retries a client may add to the load.

Knows nothing of calls: only that one was refused or succeeded.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

from .forks import GATE, Renewable

# A client begins with so many retries in hand, and never has more.
_MOST = 10.0
# What each call that succeeds at once earns: so many retries for each.
_EARNED = 0.1


class Backoff(NamedTuple):
    """Delays that double with each failure, up to `longest` seconds, and are spread at random."""

    first: float
    longest: float

    def delay(self, failures: int) -> float:
        """Seconds to wait after this many failures in a row before the last one."""
        from random import uniform  # only when something has failed

        return min(self.longest, self.first * 2.0 ** min(failures, 30)) * uniform(0.5, 1.5)


RECONNECT = Backoff(0.05, 2.0)
"""After a failure that may pass: of a call, and of a watch's stream."""
CONTEND = Backoff(0.001, 0.1)
"""After another caller was faster to write."""


PATIENCE = 120.0
"""Seconds that a watch goes on trying: a service that restarts has to load its models."""


class Throttle(Renewable):
    """Retries that all calls of one client share. May be used from any thread.

    With a service that is only briefly busy every call may come again. Under lasting overload
    retries would only add to it: when those in hand are used up, there is one for ten calls that
    succeed.
    """

    def __init__(self) -> None:
        self._left = _MOST
        self.answered = False
        """A call of the client has succeeded."""
        self._after_fork()
        GATE.renew_in_child(self)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Whether a call that was refused may come again."""
        with self._lock:
            if self._left < 1.0:
                return False
            self._left -= 1.0
            return True

    def succeeded(self, *, repeated: bool) -> None:
        """A call succeeded; one that was `repeated` gives its last retry back."""
        self.answered = True
        if self._left >= _MOST:  # nearly always, and then there is nothing to earn
            return
        with self._lock:
            self._left = min(_MOST, self._left + (1.0 if repeated else _EARNED))
