"""Versions that are loaded before callers follow them, and labels that others move.

Implements the agreement's Versions: what this process has in memory, and how that changes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager

import structlog

from varserve_service.core.errors import RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.registry import Models
from varserve_service.core.ports.loaded_model import ModelState
from varserve_service.core.ports.messages import Header
from varserve_service.core.ports.shared_labels import Loaded
from varserve_service.repository import ModelSource

from .loading import Front, Loader

log = structlog.get_logger("varserve.lifecycle")

_TURN_SECONDS = 0.1


class Prepared:
    """The versions of this process, in memory and not yet served."""

    def __init__(
        self,
        models: Models,
        loader: Loader,
        front: Front,
        find: Callable[[str, int], ModelSource],
        turn: Callable[[str, float | None], AbstractContextManager[None]],
    ) -> None:
        """`find` is the source of a version, and raises RequestError; `turn` is a model's."""
        self._models = models
        self._loader = loader
        self._front = front
        self._find = find
        self._turn = turn
        self._lock = threading.Lock()
        self._lives: dict[Loaded, LiveModel] = {}

    def loaded(self) -> set[Loaded]:
        served = {
            (status.name, status.version)
            for status in self._models.statuses
            if status.state is ModelState.READY
        }
        with self._lock:
            return served | self._lives.keys()

    def prepare(self, name: str, version: int, deadline: float | None) -> None:
        with self._turn(name, deadline):
            if (name, version) in self._lives or self._loader.in_memory(name, version):
                return
            live = self._loader.prepare(self._find(name, version), deadline)
            with self._lock:
                self._lives[name, version] = live

    def release(self, needed: Collection[Loaded]) -> None:
        with self._lock:
            gone = [self._lives.pop(key) for key in self._lives.keys() - set(needed)]
        for live in gone:
            live.close()
            self._models.forget(live.name, live.version)
            log.info("not wanted any more", model=live.name, version=live.version)

    def follow(self, name: str, labels: Mapping[str, int]) -> None:
        if self._models.labels(name) == labels:
            return
        try:
            with self._turn(name, time.monotonic() + _TURN_SECONDS):
                self._follow(name, labels)
        except RequestError as error:  # it is being loaded or unloaded: the next look finds out
            log.debug("labels are not followed yet", model=name, reason=error.reason.value)

    def _follow(self, name: str, labels: Mapping[str, int]) -> None:
        for label, version in labels.items():
            if self._models.labels(name).get(label) == version:
                continue
            with self._lock:
                prepared = self._lives.pop((name, version), None)
            live = prepared or self._loader.in_memory(name, version)
            if live is None:
                continue
            log.info("label moves", model=name, label=label, version=version)
            try:
                self._loader.end(self._front.serve(live, label))
            except BaseException:
                if prepared is not None:
                    prepared.close()  # else its journal stays open
                raise
        for label in self._models.labels(name).keys() - labels.keys():
            log.info("label goes", model=name, label=label)
            self._loader.end(self._front.withdraw(name, label))

    def labelled(self) -> set[str]:
        return {status.name for status in self._models.statuses if status.labels}

    def header(self, name: str, label: str, version: int) -> Header | None:
        if self._models.labels(name).get(label) != version:
            return None
        found = self._models.resolve(f"{name}@{label}")
        return None if found is None else found.header
