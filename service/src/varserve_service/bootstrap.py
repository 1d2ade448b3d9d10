"""The one place that wires the rooms together: settings in, a running service out."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Coroutine
from functools import cache, partial
from typing import Any, NoReturn, TypeVar

import structlog

from .bootstrap_access import Gate, open_gate
from .core.administration import SaveFormat
from .core.answers import Answers
from .core.commits import Witness
from .core.errors import ModelLoadError, StateError
from .core.history import History
from .core.journal import Journal
from .core.live_model import LiveModel
from .core.memory import MemoryBudget
from .core.messages import Answer
from .core.models import STABLE, Models
from .core.ports import LoadedModel
from .host_memory import HostMemory
from .journal import JournalOptions, StateDirectory, save_safetensors
from .lifecycle import (
    AllowedModels,
    Lifecycle,
    LifecycleOptions,
    Poller,
    Saver,
    SaveRoom,
    SwitchOrder,
)
from .logs import configure_logs
from .repository import ModelSource, Repository, RepositoryError
from .rpc import (
    BatchOptions,
    Limit,
    Server,
    ServerOptions,
    methods,
    run_everything,
    run_requests,
    unfit,
)
from .settings import Settings
from .telemetry import Certificates, Sources, Telemetry

log = structlog.get_logger("varserve.bootstrap")

T = TypeVar("T")


class Loader:
    """Loads SavedModels as the settings say, at the start and later."""

    def __init__(
        self, settings: Settings, telemetry: Telemetry, expired: Witness | None = None
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
        # Before TensorFlow, which takes seconds: a wrong path should be told at once.
        self._sources = self._at_start()
        self._states: StateDirectory | None = None
        if settings.state_dir is not None:
            self._states = StateDirectory(
                settings.state_dir, journal_options(settings), reset=settings.state_reset
            )
        from . import savedmodel

        self._savedmodel = savedmodel
        self._placement = savedmodel.configure_devices(settings.device, settings.gpu_memory_limit)
        # What was imported stays: a collection after a model has gone need not look at all of it,
        # with every call waiting. Not later, or a model of the start could never be collected.
        gc.collect()
        gc.freeze()
        self._allowed = AllowedModels(settings.allowed_models) if settings.allowed_models else None

    def _at_start(self) -> list[tuple[ModelSource, tuple[str, ...]]]:
        """What to serve, with its labels; the highest version of what the settings do not label."""
        found: dict[ModelSource, tuple[str, ...]] = {}
        unknown = set(self._settings.labels)
        for source in self.repository.all():
            labels = {STABLE: source.version} | self._settings.labels.get(source.name, {})
            unknown.discard(source.name)
            for label, version in labels.items():
                labelled = self.repository.find(source.name, version)
                found[labelled] = (*found.get(labelled, ()), label)
        if unknown:
            raise RepositoryError(f"labels of models that are not there: {', '.join(unknown)}")
        changing = self._settings.admin_port is not None or self._settings.repository_poll
        if not found and not (changing and self.repository.has_root):
            raise ModelLoadError(
                "no model to serve: give --model NAME=PATH or a --model-repository that has one"
            )
        for name in sorted(self._settings.xla.keys() - {source.name for source in found}):
            if not changing:
                raise ModelLoadError(f"xla of model {name!r}: there is no such model to serve")
        return list(found.items())

    def load_all(self) -> Models:
        """What is served from the start."""
        models = Models()
        for source, labels in self._sources:
            try:
                self.check(source)
            except StateError as error:
                raise ModelLoadError(error.message) from error
            live = self.load(source)
            for label in labels:
                models.serve(live, label)
        check_batching(models, self._settings)
        return models

    def check(self, source: ModelSource) -> None:
        """Refuse what the operator does not allow, before anything of it is loaded.

        Raises StateError MODEL_NOT_ALLOWED, too.
        """
        if self._allowed is not None:
            self._allowed.check(source)
        settings = self._settings
        if settings.allowed_operations or settings.denied_operations:
            self._savedmodel.check_operations(
                source.name,
                source.path,
                allowed=settings.allowed_operations,
                denied=settings.denied_operations,
            )

    def load(self, source: ModelSource) -> LiveModel:
        """A SavedModel in memory, where its state was."""
        log.info("loading model", model=source.name, version=source.version)
        xla = self._settings.xla.get(source.name, {})
        load = partial(
            self._savedmodel.load,
            source.name,
            source.path,
            version=source.version,
            placement=self._placement,
            xla={name: each.rows for name, each in xla.items()},
        )
        make = partial(
            _live,
            settings=self._settings,
            telemetry=self._telemetry,
            expired=self._expired,
        )
        live = make(load()) if self._states is None else self._states.take_up(load, make)[0]
        found = live.describe()
        log.info(
            "loaded model",
            model=source.name,
            version=source.version,
            variables=len(found.variables),
            functions=len(found.functions),
            device=found.device,
            revision=found.header.revision,
        )
        return live

    def load_warm(self, source: ModelSource) -> LiveModel:
        """The same, ready to take the place of a version that is served."""
        live = self.load(source)
        try:
            models = Models([live])
            check_batching(models, self._settings)
            warm_up(models, self._settings, batch_options(self._settings), only=source.name)
        except BaseException:
            live.close()
            raise
        return live

    def lifecycle(
        self, models: Models, server: Server, loop: asyncio.AbstractEventLoop
    ) -> Lifecycle:
        """What changes the models while they are served."""
        settings = self._settings
        room = None
        if settings.save_dir is not None:
            savers: dict[SaveFormat, Saver] = {
                SaveFormat.SAVED_MODEL: self._savedmodel.save_saved_model,
                SaveFormat.CHECKPOINT: self._savedmodel.save_checkpoint,
                SaveFormat.SAFETENSORS: save_safetensors,
            }
            room = SaveRoom(settings.save_dir, savers)
        return Lifecycle(
            models,
            self.repository,
            _Front(server, loop),
            self.load_warm,
            check=self.check,
            room=room,
            budgets=(
                _host_memory(settings.memory_limit, settings.memory_reserve),
                MemoryBudget("device", self._placement.memory),
            ),
            options=LifecycleOptions(settings.drain, SwitchOrder(settings.switch_order)),
        )


class _Front:
    """The server, as threads reach it."""

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._loop = loop

    def serve(self, live: LiveModel, label: str) -> list[LiveModel]:
        return self._wait(self._server.serve(live, label))

    def withdraw(self, name: str, label: str | None) -> list[LiveModel]:
        return self._wait(self._server.withdraw(name, label))

    def retire(self, live: LiveModel, seconds: float) -> None:
        self._wait(self._server.retire(live, seconds))

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def check_batching(models: Models, settings: Settings) -> None:
    """Raises ModelLoadError for a function of a served model that cannot be batched."""
    names = {live.name for live in models.sorted}
    changing = settings.admin_port is not None or settings.repository_poll
    for model, functions in settings.batching.items():
        if model not in names:
            if changing:
                continue
            raise ModelLoadError(f"batching of model {model!r}: there is no such model")
        for live in models.sorted:
            for function in functions if live.name == model else ():
                try:
                    problem = unfit(live.function(function))
                except StateError as error:
                    problem = error.message
                if problem:
                    raise ModelLoadError(f"batching of {function!r} of model {model!r}: {problem}")


def batch_options(settings: Settings) -> dict[tuple[str, str], BatchOptions]:
    """The batching that the settings ask for."""
    return {
        (model, function): BatchOptions(**batching.model_dump())
        for model, functions in settings.batching.items()
        for function, batching in functions.items()
    }


def _live(
    loaded: LoadedModel,
    *,
    settings: Settings,
    telemetry: Telemetry,
    expired: Witness | None,
    journal: Journal | None = None,
) -> LiveModel:
    answers: Answers[Answer] = Answers(settings.request_ids, max_age=settings.request_id_age)
    history = History(settings.history_commits, settings.history_bytes)
    return LiveModel(
        loaded,
        answers=answers,
        history=history,
        journal=journal,
        expired=expired,
        host_memory=_host_memory(settings.memory_limit, settings.memory_reserve),
        observer=telemetry.model(loaded.name, loaded.version),
    )


@cache
def _host_memory(limit: int | None, reserve: int) -> MemoryBudget:
    """One for all models: the process has one memory."""
    return MemoryBudget("host", HostMemory(limit), reserve)


def journal_options(settings: Settings) -> JournalOptions:
    """What the settings say about the journal."""
    return JournalOptions(
        history_commits=settings.history_commits,
        history_bytes=settings.history_bytes,
        answer_count=settings.request_ids,
        answer_age=settings.request_id_age,
    )


def server_options(settings: Settings) -> ServerOptions:
    """What the settings say about the server."""
    return ServerOptions(
        host=settings.host,
        port=settings.port,
        health_port=settings.health_port,
        admin_host=settings.admin_host,
        admin_port=settings.admin_port or 0,
        reflection=settings.reflection,
        threads_per_model=settings.threads_per_model,
        max_pending_calls=settings.max_pending_calls,
        body_bytes=settings.max_body_bytes,
        staging_bytes=settings.max_staging_bytes,
        max_streams=settings.max_streams,
        max_connection_age=settings.max_connection_age,
        connection_grace=settings.connection_grace,
        limits={
            verb: Limit(
                calls=limit.calls,
                calls_per_subject=limit.calls_per_subject,
                nbytes=limit.bytes,
                nbytes_per_subject=limit.bytes_per_subject,
            )
            for verb, limit in settings.limits.items()
        },
        batching=batch_options(settings),
        call_log_level=settings.call_log_level,
    )


def start_telemetry(settings: Settings) -> Telemetry:
    """What the settings ask for to see the service by. Raises OSError."""
    telemetry = Telemetry(methods())
    telemetry.send(os.environ)
    if settings.metrics_port is not None:
        tls = None
        if settings.tls_cert is not None and settings.tls_key is not None:
            tls = Certificates(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
        address = telemetry.export(settings.host, settings.metrics_port, tls=tls)
        log.info("metrics", address=address)
    return telemetry


def sources(models: Models, server: Server, settings: Settings) -> Sources:
    """Where the state of a running service is read."""
    from . import savedmodel

    return Sources(
        models=models,
        ready=lambda: server.ready,
        pending=server.pending,
        staged=lambda: server.staged,
        staged_limit=settings.max_staging_bytes,
        admitted=lambda: server.admitted,
        state_dir=settings.state_dir,
        graph_functions=savedmodel.graph_functions,
    )


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
        done += run_requests(models, settings.warm_up_requests, only=only)
    if done:
        log.info("warmed up", runs=done)


async def run_server(
    models: Models, settings: Settings, loader: Loader, gate: Gate, telemetry: Telemetry
) -> bool:
    """Serve until SIGTERM or SIGINT. Returns whether all work in progress was finished."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    server = Server(models, server_options(settings), gate.access, telemetry.call_observers)
    lifecycle = loader.lifecycle(models, server, loop)
    if settings.admin_port is not None:
        server.administer(lifecycle)
    address = await server.start()
    gate.start()
    telemetry.watch(sources(models, server, settings))
    poller = None
    if settings.repository_poll:
        pinned = {model for model, labels in settings.labels.items() if STABLE in labels}
        poller = Poller(lifecycle, models, loader.repository, settings.repository_poll, pinned)
        poller.start()
    if server.admin_address:
        print(f"varserve admin on {server.admin_address}", flush=True)
    log.info(
        "ready",
        address=address,
        health=server.health_address,
        admin=server.admin_address,
    )
    print(f"varserve ready on {address}", flush=True)
    await stop.wait()
    log.info("shutting down", grace=settings.grace)
    lifecycle.stop()
    if poller is not None:
        poller.stop()
    return await server.stop(settings.grace)


def serve(settings: Settings) -> NoReturn:
    """Load the models, serve them until a signal says stop, and end the process."""
    configure_logs(settings.log_level)
    gate = open_gate(settings)
    telemetry = start_telemetry(settings)
    auditing = gate.access.auditing
    loader = Loader(settings, telemetry, auditing.expired if auditing is not None else None)
    models = loader.load_all()
    warm_up(models, settings, batch_options(settings))
    finished = asyncio.run(run_server(models, settings, loader, gate, telemetry))
    log.info("stopped", finished=finished)
    telemetry.close()
    # Everything that was acknowledged is done. Taking TensorFlow down in good order needs seconds
    # that Kubernetes does not give, and would wait for kernels that cannot be stopped.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
