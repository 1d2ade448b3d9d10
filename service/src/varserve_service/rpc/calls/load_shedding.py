"""Load shedding: refuses a call whose turn would come after its deadline.

A call that waits in vain costs the calls behind it their turn, too: under overload a queue would be
full of calls that are given up when their turn comes. So such a call is refused as soon as it
arrives. Knows the core's errors; knows nothing of what a turn is.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from varserve_service.core.errors import Reason, RequestError

# The weight of the last turn in the mean.
_NEWEST = 0.1
# A shorter queue keeps the threads just as busy. A longer one ends close to the deadlines, and
# beyond them as soon as the machine is slower than it was.
_CAUTION = 1.5


class LoadShedder:
    """The mean duration of a turn, and which calls need not wait.

    Used from the event loop alone.
    """

    def __init__(self) -> None:
        self._seconds = 0.0

    @property
    def seconds(self) -> float:
        """Mean seconds of a turn; 0 before the first."""
        return self._seconds

    def took(self, seconds: float) -> None:
        """A turn has ended after so many seconds."""
        self._seconds += _NEWEST * (seconds - self._seconds)

    def check(self, turns: float, deadline: float | None, where: Callable[[], str]) -> None:
        """Refuse a call that would wait `turns` turns, past its deadline, for its own.

        `where` says what it would wait for.
        Raises RequestError TOO_MANY_REQUESTS.
        """
        wait = turns * self._seconds
        if deadline is None or not wait:
            return
        left = deadline - time.monotonic()
        # The turns before it and its own may take longer than the last ones did.
        if _CAUTION * wait + 2 * self._seconds > left:
            raise too_many(
                f"{where()}: expected wait {wait:.3f} seconds, deadline in {left:.3f} seconds", wait
            )


def too_many(problem: str, wait: float) -> RequestError:
    """The refusal of a call that would wait `wait` seconds; 0 where that is not known."""
    metadata = {"retry_after": f"{wait:.3f}"} if wait else {}
    return RequestError(Reason.TOO_MANY_REQUESTS, f"{problem}; retry later", **metadata)
