"""What a person sees of a command that takes more than a second: what it does, for how long, and
the bytes that have moved, in one line on standard error that goes when the command prints.

Nothing of it is in a pipe.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

PATIENCE_SECONDS = 1.0


class Progress:
    """One command's line. Any thread may report."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._what = ""
        self._began = 0.0
        self._timer: threading.Timer | None = None
        self._bar: Bar | None = None
        self._done = self._total = 0

    @contextmanager
    def shown(self, what: str) -> Iterator[None]:
        """Show it while the block runs, where standard error is a terminal."""
        if not sys.stderr.isatty():
            yield
            return
        global _here
        self._what, self._began = what, time.monotonic()
        self._wait()
        _here = self
        try:
            yield
        finally:
            _here = None
            self._end()

    def report(self, done: int, total: int) -> None:
        """So many bytes of so many have moved."""
        with self._lock:
            first = not self._total
            self._done, self._total = done, total
            if self._bar is None:
                return
            if first:
                self._bar.stop()
                self._draw()
            self._bar.update(self._bar.task_ids[0], completed=done, total=total)

    def hide(self) -> None:
        """Clear the line: something is printed. It comes again if the command goes on."""
        with self._lock:
            self._end()
            self._wait()

    def _wait(self) -> None:
        self._timer = threading.Timer(PATIENCE_SECONDS, self._show)
        self._timer.daemon = True
        self._timer.start()

    def _end(self) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._bar is not None:
                self._bar.stop()
                self._bar = None

    def _show(self) -> None:
        import rich.progress  # not while the lock is held  # noqa: F401

        with self._lock:
            if self._timer is not None:  # it has not ended meanwhile
                self._draw()

    def _draw(self) -> None:
        from rich import progress as rich
        from rich.console import Console

        columns: list[rich.ProgressColumn] = [
            rich.SpinnerColumn(),
            rich.TextColumn("{task.description}", markup=False),
        ]
        if self._total:
            columns += [
                rich.BarColumn(bar_width=20),
                rich.DownloadColumn(binary_units=True),
                rich.TransferSpeedColumn(),
            ]
        columns.append(rich.TimeElapsedColumn())
        console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._bar = rich.Progress(*columns, console=console, transient=True)
        task = self._bar.add_task(self._what, total=self._total or None, completed=self._done)
        self._bar.tasks[task].start_time = self._began
        self._bar.start()


_here: Progress | None = None
"""The line of the command that runs."""


def hide() -> None:
    """Clear the line of the command that runs, before it prints."""
    if _here is not None:
        _here.hide()
