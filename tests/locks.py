"""Locks that tell how often they were taken."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class Counted:
    """A lock or condition, and how often the thread that made this has entered it."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self._thread = threading.get_ident()
        self.entered = 0

    def __enter__(self) -> Any:
        entered = self._lock.__enter__()
        self.entered += threading.get_ident() == self._thread
        return entered

    def __exit__(self, *error: Any) -> Any:
        return self._lock.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lock, name)


def times_taken(owner: Any, name: str, action: Callable[[], Any]) -> int:
    """How often the action takes the lock in this attribute, on this thread."""
    lock = getattr(owner, name)
    counted = Counted(lock)
    setattr(owner, name, counted)
    try:
        action()
    finally:
        setattr(owner, name, lock)
    return counted.entered
