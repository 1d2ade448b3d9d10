"""When calls go in a session: when small ones come often, and nothing has spoken against it."""

from __future__ import annotations

import math
import time
from collections import deque

# So many calls within a second are often.
_OFTEN = 8
_OFTEN_SECONDS = 1.0
# A session that failed before it had an answer is not tried again for so long: something between
# may not carry such streams.
_PAUSE_SECONDS = 60.0


class Usage:
    """When calls go in a session: `wanted` True always, False never, None when they come often."""

    def __init__(self, wanted: bool | None) -> None:
        self._wanted = wanted
        self._times: deque[float] = deque(maxlen=_OFTEN)
        self._paused_until = -math.inf

    def wants(self, opened: bool) -> bool:
        """Whether a small call that is made now goes in a session. `opened`: there is one."""
        if self._wanted is False:
            return False
        now = time.monotonic()
        if now < self._paused_until:
            return False
        if self._wanted or opened:
            return True
        self._times.append(now)
        return len(self._times) == _OFTEN and now - self._times[0] < _OFTEN_SECONDS

    def failed(self) -> None:
        """A session ended before it had an answer."""
        self._paused_until = time.monotonic() + _PAUSE_SECONDS

    def impossible(self) -> None:
        """The service has no sessions."""
        self._wanted = False
