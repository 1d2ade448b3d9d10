"""The one place that wires the rooms together: settings in, a running service out."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from functools import cache, partial
from typing import NoReturn

import structlog

from .bootstrap_access import Gate, open_gate
from .core.answers import Answers
from .core.commits import Witness
from .core.errors import ModelLoadError, StateError
from .core.history import History
from .core.journal import Journal
from .core.live_model import LiveModel
from .core.memory import MemoryBudget
from .core.messages import Answer
from .core.models import Models
from .core.ports import LoadedModel
from .host_memory import HostMemory
from .journal import JournalOptions, StateDirectory
from .logs import configure_logs
from .repository import find_models
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


def load_models(settings: Settings, telemetry: Telemetry, expired: Witness | None = None) -> Models:
    """Load every model that the settings name, and bring each to where it was.

    `expired`: as of LiveModel.

    Raises RepositoryError, ModelLoadError or JournalError, whose messages are for the operator.
    """
    sources = find_models(settings.models, settings.model_repository)
    if not sources:
        raise ModelLoadError(
            "no model to serve: give --model NAME=PATH or a --model-repository that has one"
        )
    states = None
    if settings.state_dir is not None:
        states = StateDirectory(
            settings.state_dir, journal_options(settings), reset=settings.state_reset
        )
    # Imported here: it takes seconds, and a wrong path should be told at once.
    from . import savedmodel

    placement = savedmodel.configure_devices(settings.device, settings.gpu_memory_limit)
    models = []
    for source in sources:
        log.info("loading model", model=source.name, version=source.version)
        load = partial(
            savedmodel.load, source.name, source.path, version=source.version, placement=placement
        )
        make = partial(_live, settings=settings, telemetry=telemetry, expired=expired)
        live = make(load()) if states is None else states.take_up(load, make)[0]
        models.append(live)
        found = live.describe()
        log.info(
            "loaded model",
            model=source.name,
            variables=len(found.variables),
            functions=len(found.functions),
            device=found.device,
            revision=found.header.revision,
        )
    return Models(models)


def batch_options(models: Models, settings: Settings) -> dict[tuple[str, str], BatchOptions]:
    """The batching that the settings ask for. Raises ModelLoadError for what cannot be batched."""
    found = {}
    for model, functions in settings.batching.items():
        for function, batching in functions.items():
            try:
                problem = unfit(models.find(model).function(function))
            except StateError as error:
                problem = error.message
            if problem:
                raise ModelLoadError(f"batching of {function!r} of model {model!r}: {problem}")
            found[model, function] = BatchOptions(**batching.model_dump())
    return found


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


def server_options(models: Models, settings: Settings) -> ServerOptions:
    """What the settings say about the server. Raises ModelLoadError."""
    return ServerOptions(
        host=settings.host,
        port=settings.port,
        health_port=settings.health_port,
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
        batching=batch_options(models, settings),
        call_log_level=settings.call_log_level,
    )


def start_telemetry(settings: Settings) -> Telemetry:
    """What the settings ask for to see the service by. Raises OSError."""
    telemetry = Telemetry(methods())
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


def warm_up(models: Models, settings: Settings, options: ServerOptions) -> None:
    """Run what the settings ask for before anybody else does. Raises ModelLoadError."""
    done = run_everything(models, options.batching) if settings.warm_up else 0
    if settings.warm_up_requests is not None:
        done += run_requests(models, settings.warm_up_requests)
    if done:
        log.info("warmed up", runs=done)


async def run_server(
    models: Models,
    settings: Settings,
    options: ServerOptions,
    gate: Gate,
    telemetry: Telemetry,
) -> bool:
    """Serve until SIGTERM or SIGINT. Returns whether all work in progress was finished."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    server = Server(models, options, gate.access, telemetry.call_observers)
    address = await server.start()
    gate.start()
    telemetry.watch(sources(models, server, settings))
    print(f"varserve ready on {address}", flush=True)
    log.info("ready", address=address, health=server.health_address)
    await stop.wait()
    log.info("shutting down", grace=settings.grace)
    return await server.stop(settings.grace)


def serve(settings: Settings) -> NoReturn:
    """Load the models, serve them until a signal says stop, and end the process."""
    configure_logs(settings.log_level)
    gate = open_gate(settings)
    telemetry = start_telemetry(settings)
    auditing = gate.access.auditing
    models = load_models(settings, telemetry, auditing.expired if auditing is not None else None)
    options = server_options(models, settings)
    warm_up(models, settings, options)
    finished = asyncio.run(run_server(models, settings, options, gate, telemetry))
    log.info("stopped", finished=finished)
    telemetry.close()
    # Everything that was acknowledged is done. Taking TensorFlow down in good order needs seconds
    # that Kubernetes does not give, and would wait for kernels that cannot be stopped.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
