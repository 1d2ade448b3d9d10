"""Waits with a bound, for every test: on a condition, a thread, a line of a process, its end."""

from __future__ import annotations

import asyncio
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


def until(condition: Callable[[], object], seconds: float = 30, pause: float = 0.002) -> None:
    """Ask until the condition is true, for what no event announces; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not true within {seconds} seconds"
        time.sleep(pause)


async def until_async(condition: Callable[[], object], seconds: float = 30) -> None:
    """The same while the event loop of the test runs."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not true within {seconds} seconds"
        await asyncio.sleep(0.002)


def join(threads: Iterable[threading.Thread], seconds: float = 60) -> None:
    """Wait for the ends of threads; the test fails when one still runs after `seconds`."""
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
        assert not thread.is_alive(), f"{thread.name} still runs after {seconds} seconds"


@contextmanager
def killed_after(process: subprocess.Popen[str], seconds: float) -> Iterator[None]:
    """Bound a block that reads from a process: the process is killed, and the block fails."""
    late = threading.Event()

    def kill() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(seconds, kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join(60)
        assert not late.is_set(), f"the process was not heard of for {seconds} seconds"


def read_line(process: subprocess.Popen[str], seconds: float = 120) -> str:
    """The next line of a process's standard output, without the line's end; "" when it ended."""
    assert process.stdout is not None
    with killed_after(process, seconds):
        return process.stdout.readline().removesuffix("\n")
