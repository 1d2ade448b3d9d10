"""Threads that may work on a model: they all begin here, prepared as the model's room asks for it.

Knows nothing of what a thread does, or of what it needs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


def _nothing() -> None:
    pass


_prepare: Callable[[], None] = _nothing
_unprepared = 0
_changed = threading.Condition()


def prepare_threads_with(prepare: Callable[[], None]) -> None:
    """Have every thread that begins from now on call this first. It must not raise."""
    global _prepare
    _prepare = prepare


def wait_until_prepared(seconds: float) -> bool:
    """Wait at most so long for all threads that have been started. Whether they are prepared."""
    with _changed:
        return _changed.wait_for(lambda: _unprepared == 0, seconds)


class ModelThread(threading.Thread):
    """A daemon thread that is prepared before it runs its target."""

    def __init__(
        self, target: Callable[..., object], name: str, args: tuple[object, ...] = ()
    ) -> None:
        super().__init__(target=target, name=name, args=args, daemon=True)

    def start(self) -> None:
        """Raises RuntimeError where the system gives no more threads."""
        _count(1)
        try:
            super().start()
        except RuntimeError:
            _count(-1)
            raise

    def run(self) -> None:
        """On the new thread."""
        try:
            _prepare()
        finally:
            _count(-1)
        super().run()


def started(thread: threading.Thread) -> bool:
    """Start a thread. False where the system gives no more threads.

    Whoever started it then goes on without one, and tries again at the next occasion.
    """
    try:
        thread.start()
    except RuntimeError:
        return False
    return True


def model_executor(threads: int, name: str) -> ThreadPoolExecutor:
    """An executor whose threads are prepared before they take any work."""
    return ThreadPoolExecutor(threads, thread_name_prefix=name, initializer=_prepared)


def _prepared() -> None:
    _prepare()  # as it is when the thread begins


def _count(change: int) -> None:
    global _unprepared
    with _changed:
        _unprepared += change
        _changed.notify_all()
