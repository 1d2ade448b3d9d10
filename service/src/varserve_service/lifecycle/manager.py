"""Loads and unloads versions of models: implements the core's Administration.

Owns the order: a version is removed only when its replacement is ready, unless memory does not
allow both, and a failure leaves everything as it was. Knows the models and the repository; its
creator tells it how a SavedModel is loaded, served and saved.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from varserve_service.core.model.registry import LABEL_PATTERN, STABLE, Models, Status, bare_name
from varserve_service.core.ports.administration import KnownVersion, Saved, SaveFormat
from varserve_service.core.ports.loaded_model import ModelState
from varserve_service.core.ports.messages import Header
from varserve_service.core.threads import ModelThread
from varserve_service.repository import ModelSource, Repository, RepositoryError, look

from . import memory
from .saving import SaveRoom

log = structlog.get_logger("varserve.lifecycle")

# Seconds beyond those of its calls that a load or unload waits for the end of a version.
_ENDING_SECONDS = 5.0
_TURNS = 256


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


class Lifecycle:
    """The models of a running service."""

    def __init__(
        self,
        models: Models,
        repository: Repository,
        front: Front,
        load: Callable[[ModelSource], LiveModel],
        *,
        check: Callable[[ModelSource], None] = lambda source: None,
        room: SaveRoom | None = None,
        budgets: Sequence[MemoryBudget] = (),
        options: LifecycleOptions | None = None,
    ) -> None:
        """`load` makes a live model of a source, warm and ready to serve; it is called by one
        thread at a time and raises ModelLoadError, JournalError or RequestError. `check` is asked
        before anything of a source is loaded, and raises RequestError or RepositoryError. `budgets`
        are of the memories that values are loaded into, each of all of them.
        """
        self._models = models
        self._repository = repository
        self._front = front
        self._load = load
        self._check = check
        self._room = room
        self._budgets = budgets
        self._options = options or LifecycleOptions()
        # Two names may share a lock and then wait for each other; the number of locks is fixed.
        self._turns = [threading.Lock() for _ in range(_TURNS)]
        # TensorFlow is given one SavedModel at a time: two would take the interpreter from calls
        # for twice as long, and memory could not be budgeted.
        self._loading = threading.Lock()
        self._stopped = False

    def stop(self) -> None:
        """Refuse further loads: the service is shutting down."""
        self._stopped = True

    # Administration, for operators.

    def load(
        self, name: str, version: int | None, label: str, deadline: float | None = None
    ) -> Header:
        label = label or STABLE
        if not LABEL_PATTERN.fullmatch(label):
            raise RequestError(
                Reason.REQUEST_MALFORMED,
                f"label: expected small letters, digits, '-' and '_', found {label[:64]!r}",
            )
        with self._turn(name, deadline):
            live = self._in_memory(name, version)
            if live is None:
                source = self._find(name, version)
                live = self._in_memory(name, source.version)
            if live is not None:
                self._end(self._front.serve(live, label))
                return live.header
            return self._bring_in(source, label, deadline)

    def unload(self, name: str, label: str | None, deadline: float | None = None) -> list[Header]:
        with self._turn(name, deadline):
            known = self._models.versions(name)
            labels = self._models.labels(name)
            if not known:
                raise RequestError(
                    Reason.MODEL_NOT_FOUND, f"no model {name[:200]!r} is loaded", model=name[:200]
                )
            if label is not None and label not in labels:
                raise RequestError(
                    Reason.MODEL_NOT_FOUND, _no_label(name, label, labels, known), model=name
                )
            ended = self._front.withdraw(name, label)
            headers = [live.header for live in ended]
            for status in known:
                if label is None and status.live is None:
                    self._models.forget(name, status.version)
                    headers.append(Header(name, status.version, "", 0))
            self._end(ended)
            return headers

    def save(
        self, name: str, folder: str, form: SaveFormat, deadline: float | None = None
    ) -> Saved:
        if self._room is None:
            raise RequestError(Reason.NOT_CONFIGURED, "no folder to save models in is configured")
        try:
            live = self._models.find(name)
        except RequestError as error:
            if error.reason is not Reason.MODEL_NOT_FOUND:
                raise
            # Not as the registry says it: whoever may save some models need not know of the others.
            raise RequestError(
                error.reason, f"no model {name[:200]!r} is loaded", model=name[:200]
            ) from None
        try:
            path = self._repository.find(live.name, live.version).path
        except (RepositoryError, OSError):
            path = None
        return self._room.save(live, path, folder, form, deadline)

    def versions(self, name: str = "") -> Sequence[KnownVersion]:
        found: dict[tuple[str, int], KnownVersion] = {}
        loadable = self.look_around()
        for key in loadable:
            found[key] = KnownVersion(Header(*key, "", 0), None, (), "", loadable=True)
        for status in self._models.statuses:
            key = (status.name, status.version)
            header = status.live.header if status.live else Header(*key, "", 0)
            found[key] = KnownVersion(
                header, status.state, status.labels, status.error, loadable=key in loadable
            )
        return [found[key] for key in sorted(found) if name in ("", key[0])]

    def look_around(self) -> set[tuple[str, int]]:
        """What can be loaded now, by name and version. Drops failures whose files are gone."""
        statuses = self._models.statuses  # before: a version that fails from now on is kept
        try:
            loadable = {(each.name, each.version) for each in self._repository.loadable()}
        except (RepositoryError, OSError) as error:
            log.warning("could not read the repository", error=str(error))
            return set()
        for status in statuses:
            if status.state is ModelState.FAILED and (status.name, status.version) not in loadable:
                self._models.forget(status.name, status.version, status)
        return loadable

    # Into memory.

    def _find(self, name: str, version: int | None) -> ModelSource:
        try:
            return self._repository.find(name, version)
        except (RepositoryError, OSError) as error:
            log.info("no such model to load", model=name[:200], version=version, error=str(error))
            if not self._repository.has_root:
                raise RequestError(
                    Reason.NOT_CONFIGURED, "no model repository is configured"
                ) from None
            wanted = f"model {name[:200]!r}" + ("" if version is None else f", version {version}")
            raise RequestError(
                Reason.MODEL_NOT_FOUND,
                f"{wanted}: expected a complete SavedModel in the repository, found none",
                model=name[:200],
            ) from None

    def _in_memory(self, name: str, version: int | None) -> LiveModel | None:
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

    def _bring_in(self, source: ModelSource, label: str, deadline: float | None) -> Header:
        if not self._loading.acquire(timeout=_remaining(deadline)):
            raise _too_late("another model is being loaded")
        try:
            if self._stopped:
                raise RequestError(Reason.SHUTTING_DOWN, "the service is shutting down")
            self._models.note(source.name, source.version, ModelState.LOADING)
            try:
                live, ended = self._loaded(source, label)
            except BaseException as error:
                failure = self._failure(source, error)
                self._models.note(source.name, source.version, ModelState.FAILED, failure.message)
                raise failure from error
        finally:
            self._loading.release()
        self._end(ended)
        return live.header

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
        self._end(self._front.withdraw(old.name, label))
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
            self._in_memory(name, version)
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

    # Out of memory.

    def _end(self, ended: list[LiveModel]) -> None:
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

    # One after the other, for each model.

    @contextmanager
    def _turn(self, name: str, deadline: float | None) -> Iterator[None]:
        if name != bare_name(name):
            raise RequestError(
                Reason.REQUEST_MALFORMED, f"model: expected a name alone, found {name[:200]!r}"
            )
        turn = self._turns[hash(name) % len(self._turns)]
        if not turn.acquire(timeout=_remaining(deadline)):
            raise _too_late(f"model {name[:200]!r} is being loaded or unloaded")
        try:
            yield
        finally:
            turn.release()


def _remaining(deadline: float | None) -> float:
    return -1 if deadline is None else max(0.0, deadline - time.monotonic())


def _no_label(name: str, label: str, labels: Mapping[str, int], known: Sequence[Status]) -> str:
    """For an operator, who may mean a version that could not be loaded: that has no label."""
    expected = ", ".join(f"{each!r} of version {labels[each]}" for each in sorted(labels))
    message = f"model {name!r} has no label {label[:64]!r}; expected one of: {expected or '(none)'}"
    failed = [str(each.version) for each in known if each.state is ModelState.FAILED]
    if not failed:
        return message
    return (
        f"{message}. No label means a version that is failed ({', '.join(failed)}): it leaves the "
        "list with its files, when it is loaded after all, or with all of the model, when that is "
        "unloaded without a label"
    )


def _too_late(why: str) -> RequestError:
    return RequestError(Reason.DEADLINE_EXCEEDED, f"the deadline passed while {why}")
