"""How long a turn takes, as far as the last ones tell, and who need not wait for one.

A call that waits in vain costs those who come after it their turn, too: under overload a queue
would be full of calls that are given up when their turn comes. So it is refused as soon as it
comes.
Knows the core's errors; knows nothing of what a turn is.
"""

from __future__ import annotations

import time

from varserve_service.core.errors import Reason, RequestError

# How much the last turn counts in the mean.
_NEWEST = 0.1
# A shorter queue keeps the threads just as busy; a longer one ends close to the deadlines, and on
# the wrong side of them as soon as the machine is slower than it was.
_CAUTION = 1.5


class LoadShedder:
    """The mean time of a turn. Used from the event loop alone."""

    def __init__(self) -> None:
        self._seconds = 0.0

    @property
    def seconds(self) -> float:
        """Of one turn; 0 before there was one."""
        return self._seconds

    def took(self, seconds: float) -> None:
        """One more turn is over."""
        self._seconds += _NEWEST * (seconds - self._seconds)

    def check(self, turns: float, deadline: float | None, where: str) -> None:
        """Let a call wait `turns` of the mean time for its own, if that is before its deadline.

        Whoever need not wait is let in. Raises RequestError TOO_MANY_REQUESTS.
        """
        wait = turns * self._seconds
        if deadline is None or not wait:
            return
        left = deadline - time.monotonic()
        # Those before it and its own may take longer than the last ones did.
        if _CAUTION * wait + 2 * self._seconds > left:
            raise too_many(
                f"{where}: a turn comes in about {wait:.3f} seconds, too late for the deadline in "
                f"{left:.3f}",
                wait,
            )


def too_many(problem: str, wait: float) -> RequestError:
    """The refusal of a call that would wait `wait` seconds; 0 when nobody knows."""
    known = {"retry_after": f"{wait:.3f}"} if wait else {}
    return RequestError(Reason.TOO_MANY_REQUESTS, f"{problem}; retry later", **known)
