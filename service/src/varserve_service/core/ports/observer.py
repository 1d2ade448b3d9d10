"""The port of metrics: what the core reports about one model while it works.

Nothing here may wait, fail, or delay its caller.
"""

from __future__ import annotations

from typing import Protocol


class Observer(Protocol):
    """Receives what one model does. Times are in seconds.

    Called from any thread, mostly without the model's lock and never with a reader or writer
    waiting for the call itself.
    """

    def lock_waited(self, seconds: float, *, exclusive: bool, ago: float = 0.0) -> None:
        """A thread got the model's lock after so many seconds, or gave up; 0.0: at once.

        `ago`: seconds since the wait ended.
        """
        ...

    def lock_held(self, seconds: float) -> None:
        """The lock was held exclusively for so long: a commit's pause, seen by everybody else."""
        ...

    def committed(self, nbytes: int) -> None:
        """A commit of values of so many bytes is visible."""
        ...

    def ran(self, seconds: float) -> None:
        """A function was run; also one that failed."""
        ...

    def synced(self, seconds: float, commits: int) -> None:
        """So many commits were made durable together. The lock is held."""
        ...


class Unobserved:
    """Keeps no figures."""

    def lock_waited(self, seconds: float, *, exclusive: bool, ago: float = 0.0) -> None:
        pass

    def lock_held(self, seconds: float) -> None:
        pass

    def committed(self, nbytes: int) -> None:
        pass

    def ran(self, seconds: float) -> None:
        pass

    def synced(self, seconds: float, commits: int) -> None:
        pass


UNOBSERVED: Observer = Unobserved()
