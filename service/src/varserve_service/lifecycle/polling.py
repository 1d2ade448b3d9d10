"""Loads new versions from the repository as they appear.

A version is loaded when two polls in a row saw the same complete files. It is tried once, and again
when its files change or, if it was not allowed, when the list of allowed models changes. A version
that an operator loaded stays until a version appears that did not exist then. Knows the lifecycle
and the repository.
"""

from __future__ import annotations

import threading
from collections.abc import Collection

import structlog

from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model.registry import STABLE, Models
from varserve_service.core.ports.loaded_model import ModelState
from varserve_service.core.threads import ModelThread
from varserve_service.repository import Look, ModelSource, Repository, look

from .allowed import AllowedModels
from .manager import Lifecycle

log = structlog.get_logger("varserve.lifecycle")


class Poller:
    """Polls the repository.

    `pinned`: models whose stable version is fixed. `allowed`: the list that a load is checked
    against.
    """

    def __init__(
        self,
        lifecycle: Lifecycle,
        models: Models,
        repository: Repository,
        seconds: float,
        pinned: Collection[str] = (),
        allowed: AllowedModels | None = None,
    ) -> None:
        self._lifecycle = lifecycle
        self._models = models
        self._repository = repository
        self._seconds = seconds
        self._pinned = pinned
        self._allowed = allowed
        self._seen: dict[str, tuple[int, Look]] = {}
        self._tried: dict[str, tuple[int, Look]] = {}
        # By model: the stamp of the list by which the version that was tried was not allowed.
        self._refused: dict[str, str] = {}
        self._stop = threading.Event()
        self._thread = ModelThread(self._run, "varserve-repository")
        # Versions that exist at the start are served already, or were not wanted.
        for name, source in repository.newest().items():
            if models.versions(name):
                self._tried[name] = (source.version, look(source.path))

    def start(self) -> None:
        """Start to poll."""
        self._thread.start()

    def stop(self) -> None:
        """Stop polling. A load in progress continues."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                self.poll()
            except Exception as error:  # the next poll may succeed
                log.warning("could not read the repository", error=str(error))

    def poll(self) -> list[ModelSource]:
        """Poll once. Returns the versions that it tried to load, successfully or not."""
        taken = []
        self._lifecycle.look_around()
        for name, source in self._repository.newest().items():
            seen = (source.version, look(source.path))
            before = self._seen.get(name)
            self._seen[name] = seen
            if name in self._pinned or seen != before or self._done(name, seen):
                continue
            self._tried[name] = seen
            self._refused.pop(name, None)
            taken.append(source)
            stamp = self._stamp()  # before the load: a list that changes meanwhile is tried again
            try:
                self._lifecycle.load(name, source.version, STABLE)
            except RequestError as error:
                if error.reason is Reason.MODEL_NOT_ALLOWED:
                    self._refused[name] = stamp
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
            known = [each for each in self._models.versions(name) if each.version == seen[0]]
            if seen != tried:
                return any(each.live for each in known)
            # Not a version that an operator has unloaded since, or replaced by an older one.
            failed = any(each.state is ModelState.FAILED for each in known)
            refused = self._refused.get(name)
            return not failed or refused is None or refused == self._stamp()
        return seen[0] < tried[0]

    def _stamp(self) -> str:
        return "" if self._allowed is None else self._allowed.stamp()
