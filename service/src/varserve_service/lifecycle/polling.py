"""Takes new versions from the repository as they come.

A version is taken when two looks at it, one after the other, saw the same complete files. Each is
tried once, and again when its files have changed; what an operator loaded stays until a version
comes that had not been there then. Knows the lifecycle and the repository.
"""

from __future__ import annotations

import threading
from collections.abc import Collection

import structlog

from varserve_service.core.errors import StateError
from varserve_service.core.models import STABLE, Models
from varserve_service.repository import Look, ModelSource, Repository, look

from .manager import Lifecycle

log = structlog.get_logger("varserve.lifecycle")


class Poller:
    """Looks at the repository now and then. `pinned`: models whose stable version is fixed."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        models: Models,
        repository: Repository,
        seconds: float,
        pinned: Collection[str] = (),
    ) -> None:
        self._lifecycle = lifecycle
        self._models = models
        self._repository = repository
        self._seconds = seconds
        self._pinned = pinned
        self._seen: dict[str, tuple[int, Look]] = {}
        self._tried: dict[str, tuple[int, Look]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="varserve-repository", daemon=True)
        # What is there at the start is what is served, or what an operator did not want.
        for name, source in repository.newest().items():
            if models.versions(name):
                self._tried[name] = (source.version, look(source.path))

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more; a load that is under way goes on."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                self.poll()
            except Exception as error:  # the next look may be luckier
                log.warning("the repository cannot be looked at", error=str(error))

    def poll(self) -> list[ModelSource]:
        """One look. Returns the versions that it took, whether they could be loaded or not."""
        taken = []
        self._lifecycle.look_around()
        for name, source in self._repository.newest().items():
            seen = (source.version, look(source.path))
            before = self._seen.get(name)
            self._seen[name] = seen
            if name in self._pinned or seen != before or self._done(name, seen):
                continue
            self._tried[name] = seen
            taken.append(source)
            try:
                self._lifecycle.load(name, source.version, STABLE)
            except StateError as error:
                # The lifecycle has logged why.
                log.debug("new version not taken", model=name, reason=error.reason.value)
        for name in self._seen.keys() - self._repository.newest().keys():
            del self._seen[name]
        return taken

    def _done(self, name: str, seen: tuple[int, Look]) -> bool:
        tried = self._tried.get(name)
        if tried is None:
            return False
        if seen[0] == tried[0]:
            loaded = any(s.version == seen[0] and s.live for s in self._models.versions(name))
            return seen == tried or loaded
        return seen[0] < tried[0]
