"""Wires the parts of a model: repository, TensorFlow, state, memory, warm-up."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING

import structlog

from varserve_service.core.commit.history import History
from varserve_service.core.commit.idempotency import IdempotencyCache
from varserve_service.core.errors import JournalError, ModelLoadError, RequestError
from varserve_service.core.inspection.ports import InspectionLimits
from varserve_service.core.memory import MemoryBudget
from varserve_service.core.model.input_bounds import InputBounds
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.registry import STABLE, Models
from varserve_service.core.ports.commits import CommitListener
from varserve_service.core.ports.loaded_model import LoadedModel
from varserve_service.core.ports.messages import Answer
from varserve_service.core.ports.shared_journal import AnyJournal
from varserve_service.core.ports.shared_labels import SharedLabels
from varserve_service.core.threads import prepare_threads_with
from varserve_service.descriptors import Reserve
from varserve_service.host_memory import HostMemory
from varserve_service.journal import StateDirectory
from varserve_service.lifecycle import (
    AllowedModels,
)
from varserve_service.repository import ModelSource, Repository, RepositoryError
from varserve_service.rpc import (
    BatchOptions,
    batching_problem,
    run_everything,
    run_requests,
)
from varserve_service.settings import Settings
from varserve_service.telemetry import Telemetry

from .options import batch_options, journal_options
from .shared_sources import shared_sources

if TYPE_CHECKING:
    from varserve_service.journal.postgres import PostgresState

log = structlog.get_logger("varserve.bootstrap")

LOADING_SWITCH_SECONDS = 0.0001
"""Seconds for which a load keeps the interpreter while others wait: each call takes some turns."""
_NEVER = 1_000_000


class Loader:
    """Loads SavedModels according to the settings, at the start and later."""

    def __init__(
        self, settings: Settings, telemetry: Telemetry, expired: CommitListener | None = None
    ) -> None:
        """`expired`: as of LiveModel.

        Raises RepositoryError, ModelLoadError, JournalError; for the operator, as all below.
        """
        self._settings = settings
        self._expired = expired
        self._telemetry = telemetry
        self.repository = Repository(
            settings.models, settings.model_repository, settings.repository_marker
        )
        # Before TensorFlow, which takes seconds to import: a wrong path is reported at once.
        self._sources = self._at_start()
        self._states: StateDirectory | PostgresState | None = None
        if settings.state_dir is not None:
            self._states = StateDirectory(
                settings.state_dir,
                journal_options(settings),
                reset=settings.state_reset,
                restored=settings.state_restored,
            )
        self.labels: SharedLabels | None = None
        """What labels mean in all replicas; None where there is one service."""
        if settings.state is not None:
            database = _postgres_state(settings.state, settings)
            self._states, self.labels = database, database.labels
            self._sources = shared_sources(self._sources, self.labels, self.repository)
        from varserve_service import savedmodel

        self.savedmodel = savedmodel
        self.placement = savedmodel.configure_devices(
            settings.device, settings.gpu_memory_limit, settings.threads_per_model
        )
        # With reserved descriptors: a thread may start when no others are left.
        reserve = Reserve()
        savedmodel.prepare_thread()
        prepare_threads_with(lambda: reserve.spend_on(savedmodel.prepare_thread))
        # Imported objects stay: a collection after an unload need not visit them while every call
        # waits. Not later, or a model of the start could never be collected.
        gc.collect()
        gc.freeze()
        self.allowed = AllowedModels(settings.allowed_models) if settings.allowed_models else None

    def _at_start(self) -> list[tuple[ModelSource, tuple[str, ...]]]:
        """What to serve, with its labels: of a model without labels the highest version."""
        sources: dict[ModelSource, tuple[str, ...]] = {}
        unknown = set(self._settings.labels)
        changing = _changing(self._settings)
        # If versions can appear later, the others need not wait for one that is being copied.
        later = self.repository.incomplete() if changing else []
        for name in later:
            log.warning("no complete version yet", model=name)
        for source in self.repository.all(but=later):
            labels = {STABLE: source.version} | self._settings.labels.get(source.name, {})
            unknown.discard(source.name)
            for label, version in labels.items():
                labelled = self.repository.find(source.name, version)
                sources[labelled] = (*sources.get(labelled, ()), label)
        if unknown:
            raise RepositoryError(f"labels of models that are not there: {', '.join(unknown)}")
        if not sources and not (changing and self.repository.has_root):
            raise ModelLoadError(
                "no model to serve: give --model NAME=PATH or a --model-repository that has one"
            )
        names = {source.name for source in sources}
        for setting in ("xla", "loading"):
            for name in sorted(getattr(self._settings, setting).keys() - names):
                if not changing:
                    problem = "there is no such model to serve"
                    raise ModelLoadError(f"{setting} of model {name!r}: {problem}")
        return list(sources.items())

    def load_all(self) -> Models:
        """Load the models that are served from the start."""
        models = Models()
        for source, labels in self._sources:
            try:
                self.check(source)
                live = self.load(source)
            except RequestError as error:  # not allowed; no memory; no room where its state is kept
                whose = f"model {source.name!r}: "
                raise ModelLoadError(whose + error.message.removeprefix(whose)) from error
            for label in labels:
                models.serve(live, label)
        check_batching(models, self._settings)
        return models

    def check(self, source: ModelSource) -> None:
        """Refuse what the operator does not allow, before anything of it is loaded.

        Raises RequestError MODEL_NOT_ALLOWED, too.
        """
        if self.allowed is not None:
            self.allowed.check(source)
        settings = self._settings
        if settings.allowed_operations or settings.denied_operations:
            self.savedmodel.check_operations(
                source.name,
                source.path,
                allowed=settings.allowed_operations,
                denied=settings.denied_operations,
            )

    def load(self, source: ModelSource) -> LiveModel:
        """A SavedModel in memory, where its state was."""
        log.info("loading model", model=source.name, version=source.version)
        xla = self._settings.xla.get(source.name, {})
        loading = self._settings.loading.get(source.name)
        load = partial(
            self.savedmodel.load,
            source.name,
            source.path,
            version=source.version,
            placement=self.placement,
            xla={name: each.rows for name, each in xla.items()},
            tags=loading.tags if loading else (),
            op_libraries=loading.op_libraries if loading else (),
            print_to_stderr=self._settings.print_to_stderr,
        )
        make = partial(
            _live,
            settings=self._settings,
            telemetry=self._telemetry,
            on_expiry=self._expired,
        )
        if self._states is None:
            live = make(load())
        else:
            live = self._states.take_up(load, make)[0]
            live.keep_what_loading_set()
        described = live.describe()
        log.info(
            "loaded model",
            model=source.name,
            version=source.version,
            variables=len(described.variables),
            functions=len(described.functions),
            device=described.device,
            revision=described.header.revision,
        )
        return live

    def load_warm(self, source: ModelSource) -> LiveModel:
        """The same, ready to replace a version that is served."""
        with _often_interrupted():
            live = self.load(source)
            try:
                models = Models([live])
                check_batching(models, self._settings)
                warm_up(models, self._settings, batch_options(self._settings), only=source.name)
            except BaseException:
                live.close()
                raise
        return live


@contextmanager
def _often_interrupted() -> Iterator[None]:
    """Have whatever computes in Python give way to others within LOADING_SWITCH_SECONDS.

    And put full collections off, each of which visits every object of every model while all wait:
    a load would cause several, for what it makes stays.
    """
    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(LOADING_SWITCH_SECONDS)
    gc.set_threshold(*thresholds[:2], _NEVER)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        sys.setswitchinterval(interval)


def _postgres_state(address: str, settings: Settings) -> PostgresState:
    """Raises JournalError, also where the database's client is not installed."""
    try:
        from varserve_service.journal.postgres import PostgresState
    except ModuleNotFoundError as error:
        raise JournalError(
            'a state in PostgreSQL needs psycopg: pip install "./service[postgresql]"'
        ) from error
    return PostgresState(address, journal_options(settings))


def _live(
    loaded: LoadedModel,
    *,
    settings: Settings,
    telemetry: Telemetry,
    on_expiry: CommitListener | None,
    journal: AnyJournal | None = None,
) -> LiveModel:
    idempotency: IdempotencyCache[Answer] = IdempotencyCache(
        settings.request_ids, max_age=settings.request_id_age
    )
    history = History(settings.history_commits, settings.history_bytes)
    bounds = settings.input_bounds.get(loaded.name, {})
    return LiveModel(
        loaded,
        input_bounds={
            function: {name: InputBounds(**each.model_dump()) for name, each in inputs.items()}
            for function, inputs in bounds.items()
        },
        idempotency=idempotency,
        history=history,
        journal=journal,
        on_expiry=on_expiry,
        host_memory=host_memory(settings.memory_limit, settings.memory_reserve),
        observer=telemetry.model(loaded.name, loaded.version),
        inspection_limits=InspectionLimits(
            settings.inspection_bytes, settings.inspection_operations
        ),
    )


@cache
def host_memory(limit: int | None, reserve: int) -> MemoryBudget:
    """One budget for all models: the process has one memory."""
    return MemoryBudget("host", HostMemory(limit), reserve)


def _changing(settings: Settings) -> bool:
    """Whether models may come while the service runs."""
    return settings.admin_port is not None or settings.repository_poll > 0


def check_batching(models: Models, settings: Settings) -> None:
    """Raises ModelLoadError for a function of a served model that cannot be batched."""
    names = {live.name for live in models.sorted}
    changing = _changing(settings)
    for model, functions in settings.batching.items():
        if model not in names:
            if changing:
                continue
            raise ModelLoadError(f"batching of model {model!r}: there is no such model")
        for live in models.sorted:
            for function in functions if live.name == model else ():
                try:
                    problem = batching_problem(live.function(function))
                except RequestError as error:
                    problem = error.message
                if problem:
                    raise ModelLoadError(f"batching of {function!r} of model {model!r}: {problem}")


def warm_up(
    models: Models,
    settings: Settings,
    batching: dict[tuple[str, str], BatchOptions],
    *,
    only: str = "",
) -> None:
    """Run what the settings ask for before anybody else does, of one model or all.

    Raises ModelLoadError.
    """
    done = run_everything(models, batching) if settings.warm_up else 0
    if settings.warm_up_requests is not None:
        coming = not only and _changing(settings)
        done += run_requests(models, settings.warm_up_requests, only=only, coming=coming)
    if done:
        log.info("warmed up", runs=done)
