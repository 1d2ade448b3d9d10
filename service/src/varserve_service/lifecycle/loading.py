"""Brings versions of models into memory, one at a time, and sees them out.

Owns the order: a version is removed only when its replacement is ready, unless memory does not
allow both, and a failure leaves everything as it was. Its creator tells it how a SavedModel is
loaded and served.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import structlog

from varserve_service.core.errors import (
    JournalError,
    ModelLoadError,
    OutOfMemory,
    Reason,
    RequestError,
)
from varserve_service.core.memory import MemoryBudget
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.registry import Models
from varserve_service.core.ports.loaded_model import ModelState
from varserve_service.core.ports.messages import Header
from varserve_service.core.threads import ModelThread
from varserve_service.repository import ModelSource, Repository, RepositoryError, look

from . import memory

log = structlog.get_logger("varserve.lifecycle")

# Seconds beyond those of its calls that a load or unload waits for the end of a version.
_ENDING_SECONDS = 5.0


class Front(Protocol):
    """Serves models to callers. Called on any thread but the event loop's."""

    def serve(self, live: LiveModel, label: str) -> list[LiveModel]:
        """Point a label at this version. Returns the versions that have no label left."""
        ...

    def withdraw(self, name: str, label: str | None) -> list[LiveModel]:
        """Remove one label, or all. Returns the versions that have no label left."""
        ...

    def retire(self, live: LiveModel, seconds: float) -> None:
        """Let the calls of such a version end, and cancel them after so many seconds."""
        ...


class SwitchOrder(StrEnum):
    """Whether a new version is loaded before the old one goes."""

    AUTO = "auto"
    NEW_FIRST = "new_first"
    OLD_FIRST = "old_first"


@dataclass(frozen=True, slots=True)
class LifecycleOptions:
    """`drain_seconds`: time for the calls of a version to end when it is unloaded."""

    drain_seconds: float = 20.0
    order: SwitchOrder = SwitchOrder.AUTO


class Loader:
    """What is in memory, and how it comes and goes. Its callers take turns for each model."""

    def __init__(
        self,
        models: Models,
        repository: Repository,
        front: Front,
        load: Callable[[ModelSource], LiveModel],
        check: Callable[[ModelSource], None],
        budgets: Sequence[MemoryBudget],
        options: LifecycleOptions,
    ) -> None:
        """As for `Lifecycle`."""
        self._models = models
        self._repository = repository
        self._front = front
        self._load = load
        self._check = check
        self._budgets = budgets
        self._options = options
        # TensorFlow is given one SavedModel at a time: two would take the interpreter from calls
        # for twice as long, and memory could not be budgeted.
        self._loading = threading.Lock()
        self._stopped = False

    def stop(self) -> None:
        """Refuse further loads: the service is shutting down."""
        self._stopped = True

    def in_memory(self, name: str, version: int | None) -> LiveModel | None:
        """The version that can be served; None where it has to be loaded. Raises RequestError."""
        for status in self._models.versions(name):
            if status.version != version:
                continue
            if status.state is ModelState.READY:
                return status.live
            if status.state is ModelState.UNLOADING:
                raise RequestError(
                    Reason.MODEL_NOT_READY,
                    f"model {name!r}: version {version} is still being unloaded; retry later",
                    model=name,
                )
        return None

    def bring_in(self, source: ModelSource, label: str, deadline: float | None) -> Header:
        """Load a version and point the label at it. Raises RequestError."""
        with self._attempt(source, deadline):
            live, ended = self._loaded(source, label)
        self.end(ended)
        return live.header

    def prepare(self, source: ModelSource, deadline: float | None) -> LiveModel:
        """Load a version that no label points at yet; it is LOADING. Raises RequestError."""
        with self._attempt(source, deadline):
            before = look(source.path)
            self._check(source)
            return self._made(source, before)

    @contextmanager
    def _attempt(self, source: ModelSource, deadline: float | None) -> Iterator[None]:
        """The block loads a version, alone: it is FAILED when that fails. Raises RequestError."""
        if not self._loading.acquire(timeout=remaining(deadline)):
            raise too_late("another model is being loaded")
        try:
            if self._stopped:
                raise RequestError(Reason.SHUTTING_DOWN, "the service is shutting down")
            self._models.note(source.name, source.version, ModelState.LOADING)
            try:
                yield
            except BaseException as error:
                failure = self._failure(source, error)
                self._models.note(source.name, source.version, ModelState.FAILED, failure.message)
                raise failure from error
        finally:
            self._loading.release()

    def _loaded(self, source: ModelSource, label: str) -> tuple[LiveModel, list[LiveModel]]:
        before = look(source.path)
        self._check(source)
        old = self._only(source.name, label)
        if old is not None and self._old_first(source, old):
            return self._swapped(source, label, old)
        live = self._made(source, before)
        log.info("serving", model=source.name, version=source.version, label=label)
        return live, self._serve(live, label)

    def _made(self, source: ModelSource, before: object) -> LiveModel:
        log.info("loading model", model=source.name, version=source.version)
        live = self._load(source)
        if look(source.path) != before:
            live.close()
            raise ModelLoadError(
                f"model {source.name!r}: {source.path} was changed while it was loaded"
            )
        return live

    def _serve(self, live: LiveModel, label: str) -> list[LiveModel]:
        try:
            return self._front.serve(live, label)
        except BaseException:
            live.close()  # else its journal stays open
            raise

    def _only(self, name: str, label: str) -> LiveModel | None:
        """The version that would be unloaded if the label moved to another one."""
        for status in self._models.versions(name):
            if status.labels == (label,):
                return status.live
        return None

    def _old_first(self, source: ModelSource, old: LiveModel) -> bool:
        if self._options.order is not SwitchOrder.AUTO:
            return self._options.order is SwitchOrder.OLD_FIRST
        needed, held = memory.needed_bytes(source.path), self._held_bytes(old)
        old_first = False
        for budget in self._budgets:
            room = budget.room()
            if room is None or needed <= room.available:
                continue
            old_first = True
            if needed > room.available + held:
                raise OutOfMemory(
                    f"model {source.name!r}, version {source.version} needs about {needed} bytes "
                    f"of {budget.place} memory; {room.available} are available, and {held} when "
                    f"version {old.version} is unloaded",
                    model=source.name,
                    needed=needed,
                    available=room.available,
                    limit=room.limit,
                )
        return old_first

    def _held_bytes(self, old: LiveModel) -> int:
        try:
            path = self._repository.find(old.name, old.version).path
        except (RepositoryError, OSError):
            return 0
        return memory.needed_bytes(path)

    def _swapped(
        self, source: ModelSource, label: str, old: LiveModel
    ) -> tuple[LiveModel, list[LiveModel]]:
        """The old version goes first; when the new one fails it comes back, as it was loaded."""
        origin = self._repository.find(old.name, old.version)
        log.warning(
            "unloading before loading: memory is for one version, calls are refused meanwhile",
            model=old.name,
            version=old.version,
        )
        before = look(source.path)
        self.end(self._front.withdraw(old.name, label))
        del old
        memory.give_back()
        try:
            live = self._made(source, before)
        except BaseException:
            self._bring_back(origin, label)
            raise
        return live, self._serve(live, label)

    def _bring_back(self, source: ModelSource, label: str) -> None:
        """Serve again what was unloaded; where that fails, the log and the list of versions say so.

        Not while it is still on its way out: its journal is open, and its memory is taken.
        """
        name, version = source.name, source.version
        try:
            self.in_memory(name, version)
        except RequestError as error:
            log.error("the version before is not back", reason=error.message)
            return
        try:
            again = self._load(source)
        except Exception as error:
            failure = self._failure(source, error)
            self._models.note(name, version, ModelState.FAILED, failure.message)
            return
        self._front.serve(again, label)
        log.warning("the version before is back", model=name, version=version)

    def _failure(self, source: ModelSource, error: BaseException) -> RequestError:
        if isinstance(error, RequestError):
            failure = error
        elif isinstance(error, ModelLoadError | JournalError | RepositoryError | OSError):
            failure = RequestError(
                Reason.MODEL_LOAD_FAILED,
                str(error),
                model=source.name,
                version=source.version,
            )
        elif isinstance(error, MemoryError):
            failure = RequestError(
                Reason.OUT_OF_MEMORY, f"model {source.name!r}: no memory to load it"
            )
        else:
            log.error("defect", model=source.name, version=source.version, exc_info=error)
            failure = RequestError(
                Reason.MODEL_LOAD_FAILED,
                f"model {source.name!r}: a defect of the service, which its log has",
                model=source.name,
            )
        log.error(
            "model not loaded", model=source.name, version=source.version, error=failure.message
        )
        return failure

    def end(self, ended: list[LiveModel]) -> None:
        """See versions out that nothing means any more, each on a thread of its own.

        Takes them out of the list, so that nobody holds them. A kernel that runs cannot be stopped:
        after the bound its version is UNLOADING until it ends, and nobody waits for it.
        """
        threads = []
        while ended:
            live = ended.pop()
            thread = ModelThread(
                self._see_out, f"varserve-unload-{live.name}@{live.version}", (live,)
            )
            del live
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join(self._options.drain_seconds + _ENDING_SECONDS)
        if threads:
            memory.give_back()

    def _see_out(self, live: LiveModel) -> None:
        name, version = live.name, live.version
        self._front.retire(live, self._options.drain_seconds)
        live.close()
        self._models.forget(name, version, live)
        del live
        log.info("unloaded model", model=name, version=version)


def remaining(deadline: float | None) -> float:
    """Seconds to a deadline; -1 where there is none, as locks have it."""
    return -1 if deadline is None else max(0.0, deadline - time.monotonic())


def too_late(why: str) -> RequestError:
    """The error of a call whose deadline passed."""
    return RequestError(Reason.DEADLINE_EXCEEDED, f"the deadline passed while {why}")
