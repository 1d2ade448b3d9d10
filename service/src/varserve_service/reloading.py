"""What is read from outside while the service runs, and read again when it changes.

Policies, tokens, keys and certificates: an operator, or Kubernetes, replaces their files under a
running service. A change that cannot be taken leaves the last good value in use. Owns when a file
is looked at; what is in it is the reader's business.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import structlog

log = structlog.get_logger("varserve.reloading")

INTERVAL_SECONDS = 2.0

_MOST_BYTES = 64 << 20
"""Of one file: none of them needs more."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ReloadStatus:
    """How the reloads of one thing went."""

    name: str
    taken: int
    """Changes that were taken."""
    refused: int
    """Changes that were not, each counted once however often it was tried."""
    failing: bool
    """Whether what is there now could not be taken, so that an older value is in use."""


class Reloadable(Protocol):
    """Something that is read again when it is out of date."""

    def reload(self) -> bool:
        """Look now, on any thread. Whether there is a new value."""
        ...

    @property
    def status(self) -> ReloadStatus:
        """How that went so far. From any thread."""
        ...


class ReloadedFiles(Generic[T]):
    """The value of one or more files that belong together.

    Files are compared by their content: a change may leave size and time as they were. What failed
    is tried again at every look, since not only the content decides: a mode is mended, or a
    certificate becomes valid.
    """

    def __init__(
        self, name: str, paths: Sequence[Path], parse: Callable[[Sequence[bytes]], T]
    ) -> None:
        """Read now. `parse` makes the value of the files' contents, and raises ValueError.

        Raises OSError, and ValueError with the files' names.
        """
        self._name = name
        self._paths = tuple(paths)
        self._parse = parse
        self._turn = threading.Lock()
        self._taken = 0
        self._refused = 0
        self._problem: tuple[bytes, str] | None = None
        contents = self._contents()
        try:
            self.current = parse(contents)
        except ValueError as error:
            files = ", ".join(map(str, self._paths))
            raise ValueError(f"{name} in {files}: {error}") from None
        self._digest = _digest(contents)

    @property
    def status(self) -> ReloadStatus:
        return ReloadStatus(self._name, self._taken, self._refused, self._problem is not None)

    def reload(self) -> bool:
        with self._turn:
            digest = b""
            try:
                _check_files(self._paths)
                contents = self._contents()
                digest = _digest(contents)
                if digest == self._digest:
                    self._problem = None
                    return False
                self.current = self._parse(contents)
            except Exception as error:  # whatever is wrong with them
                self._refuse(digest, error)
                return False
            self._digest = digest
            self._problem = None
            self._taken += 1
            log.info("files reloaded", what=self._name, files=self._shown)
            return True

    def _refuse(self, digest: bytes, error: Exception) -> None:
        problem = digest, str(error)
        if problem == self._problem:
            return  # it is known already
        self._problem = problem
        self._refused += 1
        log.error(
            "files not reloaded: the last good content stays in use",
            what=self._name,
            files=self._shown,
            error=str(error),
        )

    @property
    def _shown(self) -> list[str]:
        return [str(path) for path in self._paths]

    def _contents(self) -> list[bytes]:
        return [_content(path) for path in self._paths]


def _check_files(paths: Sequence[Path]) -> None:
    """Raises ValueError for what is no file, OSError. To open a pipe would wait for its writer."""
    for path in paths:
        if not path.is_file():
            path.stat()
            raise ValueError(f"{path}: expected a file, found something else")


def _content(path: Path) -> bytes:
    """Raises OSError, and ValueError for what has no end."""
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError(f"{path}: expected at most {_MOST_BYTES} bytes, found more")
    return content


def _digest(contents: Sequence[bytes]) -> bytes:
    return b"".join(hashlib.sha256(content).digest() for content in contents)


class Reloader:
    """A thread that looks after things that may be out of date."""

    def __init__(self, things: Sequence[Reloadable], seconds: float = INTERVAL_SECONDS) -> None:
        self._things = tuple(things)
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="varserve-reload", daemon=True)

    def start(self) -> None:
        """Look now and then from now on."""
        if self._things:
            self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            for thing in self._things:
                try:
                    thing.reload()
                except Exception:
                    log.exception("reload failed")
