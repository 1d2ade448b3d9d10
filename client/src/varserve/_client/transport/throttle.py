"""How much a client may add to the load of a service that has refused its calls as too many.

Knows nothing of calls: only that one was refused, and that one succeeded.
"""

from __future__ import annotations

import threading

# A client begins with so many retries in hand, and never has more.
_MOST = 10.0
# What each call that succeeds at once earns: so many retries for each.
_EARNED = 0.1


class Throttle:
    """Retries that all calls of one client share. May be used from any thread.

    With a service that is only briefly busy every call may come again. Under lasting overload
    retries would only add to it: when those in hand are used up, there is one for ten calls that
    succeed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left = _MOST

    def take(self) -> bool:
        """Whether a call that was refused may come again."""
        with self._lock:
            if self._left < 1.0:
                return False
            self._left -= 1.0
            return True

    def succeeded(self, *, repeated: bool) -> None:
        """A call succeeded; one that was `repeated` gives its last retry back."""
        if self._left >= _MOST:  # nearly always, and then there is nothing to earn
            return
        with self._lock:
            self._left = min(_MOST, self._left + (1.0 if repeated else _EARNED))
