"""What operators do to models: implements the core's Administration.

Owns whose turn it is: one load or unload at a time for each model. Knows the models and the
repository.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import structlog

from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.memory import MemoryBudget
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.registry import LABEL_PATTERN, STABLE, Models, Status, bare_name
from varserve_service.core.ports.administration import KnownVersion, Saved, SaveFormat
from varserve_service.core.ports.loaded_model import ModelState
from varserve_service.core.ports.messages import Header
from varserve_service.core.ports.shared_labels import SharedLabels
from varserve_service.repository import ModelSource, Repository, RepositoryError

from .agreement import Agreement
from .loading import Front, LifecycleOptions, Loader, remaining, too_late
from .prepared import Prepared
from .saving import SaveRoom

log = structlog.get_logger("varserve.lifecycle")

_TURNS = 256


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
        self._room = room
        self._loader = Loader(
            models, repository, front, load, check, budgets, options or LifecycleOptions()
        )
        # Two names may share a lock and then wait for each other; the number of locks is fixed.
        self._turns = [threading.Lock() for _ in range(_TURNS)]
        self._agreement: Agreement | None = None

    def share(self, labels: SharedLabels) -> None:
        """Follow labels that several processes follow, from now on."""
        prepared = Prepared(self._models, self._loader, self._front, self._find, self._turn)
        self._agreement = Agreement(labels, prepared)
        self._agreement.start()

    def stop(self) -> None:
        """Refuse further loads: the service is shutting down."""
        self._loader.stop()
        if self._agreement is not None:
            self._agreement.stop()

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
            live = self._loader.in_memory(name, version)
            if live is None:
                source = self._find(name, version)
                live = self._loader.in_memory(name, source.version)
            if self._agreement is None:
                if live is not None:
                    self._loader.end(self._front.serve(live, label))
                    return live.header
                return self._loader.bring_in(source, label, deadline)
            version = source.version if live is None else live.version
        return self._agreement.load(name, version, label, deadline)

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
            if self._agreement is not None:
                self._agreement.unload(name, label)
            ended = self._front.withdraw(name, label)
            headers = [live.header for live in ended]
            for status in known:
                if label is None and status.live is None:
                    self._models.forget(name, status.version)
                    headers.append(Header(name, status.version, "", 0))
            self._loader.end(ended)
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

    # One after the other, for each model.

    @contextmanager
    def _turn(self, name: str, deadline: float | None) -> Iterator[None]:
        if name != bare_name(name):
            raise RequestError(
                Reason.REQUEST_MALFORMED, f"model: expected a name alone, found {name[:200]!r}"
            )
        turn = self._turns[hash(name) % len(self._turns)]
        if not turn.acquire(timeout=remaining(deadline)):
            raise too_late(f"model {name[:200]!r} is being loaded or unloaded")
        try:
            yield
        finally:
            turn.release()


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
