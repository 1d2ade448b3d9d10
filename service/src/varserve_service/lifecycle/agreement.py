"""Labels that all replicas follow: loads what is wanted, and serves it when all have it.

Two threads: one says that this process lives and what it has in memory, and moves labels; the other
loads and serves, which takes long. Knows the port of shared labels; its creator tells it how
versions are loaded and served.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

import structlog

from varserve_service.core.errors import Reason, RequestError, StateStoreUnavailable
from varserve_service.core.ports.messages import Header
from varserve_service.core.ports.shared_labels import Attempt, Loaded, SharedLabels
from varserve_service.core.threads import ModelThread

log = structlog.get_logger("varserve.lifecycle")

_LOOK_SECONDS = 0.25
_AGAIN_SECONDS = 5.0
"""Until a version is loaded again that was not there, or did not stay."""
_FAILED_SECONDS = 60.0
"""Until one is loaded again that could not be loaded."""
_LOAD_SECONDS = 600.0
"""That a load without a deadline waits for other replicas."""


class Versions(Protocol):
    """What this process has in memory, and how that changes. Raises RequestError."""

    def loaded(self) -> set[Loaded]:
        """The versions that are served, or could be at once."""
        ...

    def prepare(self, name: str, version: int, deadline: float | None) -> None:
        """Load a version, unless it is loaded, and serve it to nobody yet."""
        ...

    def release(self, needed: Collection[Loaded]) -> None:
        """Let go of what was prepared, but for these."""
        ...

    def follow(self, name: str, labels: Mapping[str, int]) -> None:
        """Let the labels of a model mean these versions, as far as they are loaded."""
        ...

    def labelled(self) -> set[str]:
        """The models that have labels."""
        ...

    def header(self, name: str, label: str, version: int) -> Header | None:
        """The state of a version; None when the label does not mean it."""
        ...


class Agreement:
    """This process's part in what labels mean."""

    def __init__(self, labels: SharedLabels, versions: Versions) -> None:
        self._labels = labels
        self._versions = versions
        self._lock = threading.Lock()
        self._failed: dict[Attempt, str] = {}
        self._again: dict[Attempt, float] = {}
        self._stopped = threading.Event()
        self._threads = (
            ModelThread(self._repeat, "varserve-say-labels", (self.say,)),
            ModelThread(self._repeat, "varserve-follow-labels", (self.follow,)),
        )

    def start(self) -> None:
        """Begin to follow."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Take no part any more. A load in progress continues."""
        if not self._stopped.is_set():
            self._stopped.set()
            self._labels.leave()

    def load(self, name: str, version: int, label: str, deadline: float | None) -> Header:
        """Let a label mean a version at all replicas; returns when this one follows it.

        Raises RequestError: what loading it here raises, or MODEL_LOAD_FAILED with the reason of
        another replica, with nothing changed; DEADLINE_EXCEEDED while it stays wanted.
        """
        self._versions.prepare(name, version, deadline)
        if deadline is None:
            deadline = time.monotonic() + _LOAD_SECONDS
        attempt = self._labels.want(name, label, version)
        while True:
            header = self._versions.header(name, label, version)
            if header is not None:
                return header
            failures = self._labels.failures((name, version, attempt))
            if failures:
                self._labels.give_up(name, label, version)
                raise RequestError(
                    Reason.MODEL_LOAD_FAILED,
                    f"model {name!r}, version {version}: another replica could not load it, and "
                    f"label {label!r} stays as it was at all of them: {failures[0]}",
                    model=name,
                )
            if time.monotonic() >= deadline:
                raise RequestError(
                    Reason.DEADLINE_EXCEEDED,
                    f"the deadline passed before all replicas had model {name!r}, version "
                    f"{version}; label {label!r} moves when they have it",
                )
            if self._stopped.wait(_LOOK_SECONDS):
                raise RequestError(Reason.SHUTTING_DOWN, "the service is shutting down")

    def unload(self, name: str, label: str | None) -> None:
        """Take a label away, or all of a model, at all replicas."""
        self._labels.remove(name, label)

    # Its threads.

    def say(self) -> None:
        """Say what this process has, and move labels whose versions all have."""
        self._say()
        self._labels.move()

    def _say(self) -> None:
        with self._lock:
            failed = dict(self._failed)
        self._labels.say(self._versions.loaded(), failed)

    def follow(self) -> None:
        """Serve what labels mean, and load what they will mean."""
        # Before anything is served that others do not know of, and would not wait for.
        self._say()
        labels = self._labels.all()
        current = [(each.model, each.current) for each in labels if each.current is not None]
        wanted = {(each.model, each.wanted): each.attempt for each in labels}
        with self._lock:
            asked = {(*key, attempt) for key, attempt in wanted.items()}
            self._failed = {key: why for key, why in self._failed.items() if key in asked}
        self._again = {key: at for key, at in self._again.items() if key in asked or not key[2]}
        for model in {each.model for each in labels} | self._versions.labelled():
            own = [each for each in labels if each.model == model]
            meant = {each.label: each.current for each in own if each.current is not None}
            self._versions.follow(model, meant)
        self._versions.release({*current, *wanted})
        loaded = self._versions.loaded()
        for key in dict.fromkeys([*current, *wanted]):
            if key not in loaded:
                self._prepare((*key, wanted.get(key, 0)))

    def _prepare(self, attempt: Attempt) -> None:
        if time.monotonic() < self._again.get(attempt, 0.0) or self._stopped.is_set():
            return
        name, version, _ = attempt
        try:
            self._versions.prepare(name, version, None)
        except RequestError as error:
            if attempt not in self._again:
                log.warning(
                    "a version that a label means is not loaded here",
                    model=name,
                    version=version,
                    error=error.message,
                )
            # Where each replica has its own repository, the files may be on their way.
            failed = error.reason is not Reason.MODEL_NOT_FOUND
            pause = _FAILED_SECONDS if failed else _AGAIN_SECONDS
            self._again[attempt] = time.monotonic() + pause
            if failed:
                with self._lock:
                    self._failed[attempt] = error.message
        else:
            with self._lock:
                self._failed.pop(attempt, None)
            # Whatever becomes of it: what cannot be served is not loaded without a pause.
            self._again[attempt] = time.monotonic() + _AGAIN_SECONDS

    def _repeat(self, action: Callable[[], None]) -> None:
        told = ""
        while not self._stopped.wait(_LOOK_SECONDS):
            try:
                action()
                told = ""
            except StateStoreUnavailable as error:
                if error.message != told:  # it is tried every second
                    told = error.message
                    log.warning("labels are not followed", error=told)
                self._stopped.wait(1.0)
            except Exception as error:
                log.error("defect", exc_info=error)
                self._stopped.wait(1.0)
