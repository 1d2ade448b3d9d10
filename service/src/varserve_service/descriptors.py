"""The process's file descriptors: how many there may be, and what they are kept free for.

Whoever can reach the service's ports can take descriptors from it. So the limit is raised as far as
it goes, connections get a share of it, and a few descriptors are held in reserve for work that must
not fail. Knows the operating system alone.
"""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

_RESERVED = 16
_RETRY_SECONDS = 0.05


def raise_limit() -> int:
    """Raise the soft limit to the hard one. Returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return soft
    # An unlimited hard limit is more than some kernels take for this one.
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@dataclass(frozen=True, slots=True)
class ConnectionShares:
    """How many connections may be open at once, by what they are for."""

    calls: int
    others: int
    """On the port of AdminService, and on that of health."""
    lane: int = 512
    """On the lane's socket."""
    memories: int = 4096
    """Memories that were handed over on it, of which each has a descriptor."""


def connection_shares(limit: int, wanted: int) -> ConnectionShares:
    """The bounds that leave at least an eighth of `limit` descriptors to files.

    `wanted`: connections for calls, if there are descriptors for so many.
    """
    if limit < 0:  # unlimited
        return ConnectionShares(wanted, 64)
    return ConnectionShares(
        max(1, min(wanted, limit // 2)),
        max(1, min(64, limit // 16)),
        max(1, min(512, limit // 8)),
        max(1, min(4096, limit // 8)),
    )


@dataclass(slots=True)
class Reserve:
    """Descriptors that are held, to be free for a moment when something must not fail."""

    size: int = _RESERVED
    _held: list[int] = field(default_factory=list)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._fill()

    def spend_on(self, work: Callable[[], None]) -> None:
        """Run `work`, which opens a few files for a moment. One caller at a time.

        Waits while there is no free descriptor even so.
        """
        with self._turn:
            while self._held:
                os.close(self._held.pop())
            while not _is_one_free():
                time.sleep(_RETRY_SECONDS)
            try:
                work()
            finally:
                self._fill()

    def _fill(self) -> None:
        with suppress(OSError):  # when others took them meanwhile
            while len(self._held) < self.size:
                self._held.append(os.open(os.devnull, os.O_RDONLY))


def _is_one_free() -> bool:
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return False
    return True
