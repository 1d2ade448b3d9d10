"""Files that are read again when they change, where a broken change leaves what was there.

Owns when a file is looked at; what is in it is the reader's. Used for policies, tokens, keys and
certificates alike: an operator, or Kubernetes, replaces them while the service runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import structlog

log = structlog.get_logger("varserve.access")

T = TypeVar("T")

_Seen = tuple[tuple[int, int, int, int] | None, ...]


class Refreshes(Protocol):
    """Something that looks whether it is out of date."""

    def refresh(self) -> bool:
        """Look now, on any thread. Whether it is another now."""
        ...


class Watched(Generic[T]):
    """What was last read well from one or more files that belong together."""

    def __init__(
        self, name: str, paths: Sequence[Path], read: Callable[[Sequence[bytes]], T]
    ) -> None:
        """Read now. `read` makes something of the files' bytes.

        Raises OSError, ValueError (what `read` raises, with the files' names).
        """
        self._name = name
        self._paths = tuple(paths)
        self._read = read
        self._turn = threading.Lock()
        try:
            self._seen, self.current = self._load()
        except ValueError as error:
            files = ", ".join(map(str, self._paths))
            raise ValueError(f"{name} in {files}: {error}") from None
        self._failed: _Seen | None = None

    def refresh(self) -> bool:
        """Read again if a file has changed. Whether that gave something new."""
        with self._turn:
            if self._stamps() in (self._seen, self._failed):
                return False
            before = self._stamps()
            try:
                self._seen, self.current = self._load()
            except Exception as error:  # whatever is wrong with it: what was good stays
                # Told once for each change, not once for each look.
                self._failed = before
                log.error(
                    "file not taken: what was read before stays",
                    what=self._name,
                    files=[str(path) for path in self._paths],
                    error=str(error),
                )
                return False
            self._failed = None
            log.info("file taken", what=self._name, files=[str(path) for path in self._paths])
            return True

    def _load(self) -> tuple[_Seen, T]:
        # Of before the reading: who writes meanwhile has the files read once more.
        stamps = self._stamps()
        return stamps, self._read([path.read_bytes() for path in self._paths])

    def _stamps(self) -> _Seen:
        return tuple(map(_stamp, self._paths))


def _stamp(path: Path) -> tuple[int, int, int, int] | None:
    try:
        found = path.stat()  # of what a link leads to: Kubernetes swaps links
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class Refresher:
    """A thread that looks after everything that may be out of date."""

    def __init__(self, watched: Sequence[Refreshes], seconds: float = 2.0) -> None:
        self._watched = tuple(watched)
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="varserve-files", daemon=True)

    def start(self) -> None:
        """Look now and then from now on."""
        if self._watched:
            self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            for each in self._watched:
                try:
                    each.refresh()
                except Exception:
                    log.exception("a look at files failed")
