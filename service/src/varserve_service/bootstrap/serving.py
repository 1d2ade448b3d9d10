"""Wires the service and runs it: telemetry, server, signals, shutdown."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from socket import socket
from typing import NoReturn

import structlog
import uvloop

from varserve.frames import keep_what_is_freed
from varserve_service.addresses import UNIX, ListenAddress, hold, open_connections, release
from varserve_service.core.model.registry import STABLE, Models
from varserve_service.core.threads import wait_until_prepared
from varserve_service.descriptors import ConnectionShares, connection_shares, raise_limit
from varserve_service.lifecycle import (
    Poller,
)
from varserve_service.logs import configure_logs
from varserve_service.process_start import STOP_SIGNALS, stop_requested
from varserve_service.rpc import Server, methods
from varserve_service.settings import Settings
from varserve_service.telemetry import Sources, Telemetry

from .lifecycle import make_lifecycle
from .loading import Loader, host_memory, warm_up
from .options import batch_options, server_options
from .security import Security, set_up_security
from .summary import after_ready, dry_run

log = structlog.get_logger("varserve.bootstrap")

SWITCH_SECONDS = 0.001
"""Seconds that a thread which computes in Python keeps the interpreter while others wait for it.

Python's default of 5 ms adds up: a health check takes several turns.
"""

_PREPARING_SECONDS = 30.0


def start_telemetry(settings: Settings, security: Security) -> Telemetry:
    """The metrics, traces and sent logs that the settings ask for. Raises OSError."""
    telemetry = Telemetry(methods())
    telemetry.send(os.environ)
    if settings.metrics_port is not None:
        address = telemetry.export(
            settings.network_host, settings.metrics_port, tls=security.metrics_tls
        )
        log.info("metrics", address=address)
    return telemetry


def sources(models: Models, server: Server, settings: Settings, security: Security) -> Sources:
    """Where the state of a running service is read."""
    from varserve_service import savedmodel

    return Sources(
        models=models,
        ready=lambda: server.ready,
        pending=server.pending,
        staged=lambda: server.staged,
        staged_limit=settings.max_staging_bytes,
        admitted=lambda: server.admitted,
        connections=lambda: {
            name: (open_connections(address), limit) for name, address, limit in server.ports
        },
        lent=lambda: server.lent,
        health_watches=lambda: server.health_watches,
        reloads=security.reloads,
        expiries=security.expiries,
        state_dir=settings.state_dir,
        graph_functions=savedmodel.graph_functions,
    )


def share_descriptors(settings: Settings) -> ConnectionShares:
    """How many connections there may be, for the file descriptors that the process may have."""
    limit = raise_limit()
    shares = connection_shares(limit, settings.max_connections)
    if shares.calls < settings.max_connections:
        log.warning(
            "fewer connections than max_connections: the limit of open files is too low",
            connections=shares.calls,
            max_connections=settings.max_connections,
            open_files=limit,
        )
    return shares


def hold_addresses(settings: Settings) -> list[socket]:
    """Try the addresses of the settings, and keep others off them. Raises AddressError."""
    addresses = [ListenAddress("port", settings.host, settings.port)]
    if settings.health_port is not None:
        addresses.append(ListenAddress("health_port", settings.network_host, settings.health_port))
    if settings.lane_socket is not None:
        addresses.append(ListenAddress("lane_socket", f"{UNIX}{settings.lane_socket}", 0))
    if settings.lane_port is not None:
        addresses.append(ListenAddress("lane_port", settings.network_host, settings.lane_port))
    if settings.admin_port is not None:
        addresses.append(ListenAddress("admin_port", settings.admin_host, settings.admin_port))
    if settings.metrics_port is not None:
        addresses.append(
            ListenAddress("metrics_port", settings.network_host, settings.metrics_port)
        )
    return hold(addresses)


async def run_server(
    models: Models,
    settings: Settings,
    loader: Loader,
    security: Security,
    telemetry: Telemetry,
    held: Sequence[socket],
) -> bool:
    """Serve until a stop signal. Returns whether all work in progress was finished."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop.set)
    if stop_requested():
        stop.set()
    shares = share_descriptors(settings)
    server = Server(
        models, server_options(settings, shares), security.access, telemetry.call_observers
    )
    lifecycle = make_lifecycle(loader, models, server, settings, loop)
    if settings.admin_port is not None:
        server.administer(lifecycle)
    release(held)
    address = await server.start()
    if loader.labels is not None:
        lifecycle.share(loader.labels)
    await loop.run_in_executor(None, wait_until_prepared, _PREPARING_SECONDS)
    security.start()
    telemetry.watch(sources(models, server, settings, security))
    delay = asyncio.create_task(telemetry.measure_delay())
    poller = None
    if settings.repository_poll:
        pinned = {model for model, labels in settings.labels.items() if STABLE in labels}
        poller = Poller(
            lifecycle,
            models,
            loader.repository,
            settings.repository_poll,
            pinned,
            loader.allowed,
        )
        poller.start()
    await until_ready(server, stop)
    if server.admin_address:
        print(f"varserve admin on {server.admin_address}", flush=True)
    log.info(
        "ready",
        address=address,
        health=server.health_address,
        admin=server.admin_address,
    )
    print(f"varserve ready on {address}", flush=True)
    if sys.stdout.isatty():
        print(after_ready(models, address), flush=True)
    await stop.wait()
    log.info("shutting down", grace=settings.grace)
    await loop.run_in_executor(None, lifecycle.stop)  # it may tell the database
    if poller is not None:
        poller.stop()
    finished = await server.stop(settings.grace)
    delay.cancel()
    return finished


async def until_ready(server: Server, stop: asyncio.Event) -> None:
    """Wait until health says SERVING, or for a stop signal."""
    waits = [asyncio.create_task(each) for each in (server.wait_until_ready(), stop.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for each in waits:
        each.cancel()


def try_out(settings: Settings) -> NoReturn:
    """Load the models as `serve` does, say what they are, and end the process.

    Listens nowhere and touches no kept state.
    """
    configure_logs(settings.log_level, settings.log_format)
    keep_what_is_freed()
    without_state = {
        "state": None,
        "state_dir": None,
        "state_reset": False,
        "state_restored": False,
    }
    settings = settings.model_copy(update=without_state)
    loader = Loader(settings, Telemetry(methods()))
    models = loader.load_all()
    memory = host_memory(settings.memory_limit, settings.memory_reserve)
    try:
        print(dry_run(models, loader.repository, memory), flush=True)
    finally:
        os._exit(0)


def serve(settings: Settings) -> NoReturn:
    """Load the models, serve them until a signal says stop, and end the process."""
    configure_logs(settings.log_level, settings.log_format)
    keep_what_is_freed()
    sys.setswitchinterval(SWITCH_SECONDS)
    held = hold_addresses(settings)
    security = set_up_security(settings)
    telemetry = start_telemetry(settings, security)
    auditing = security.access.auditing
    loader = Loader(settings, telemetry, auditing.expired if auditing is not None else None)
    models = loader.load_all()
    warm_up(models, settings, batch_options(settings))
    finished = uvloop.run(run_server(models, settings, loader, security, telemetry, held))
    try:
        log.info("stopped", finished=finished)
        telemetry.close()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        # Everything that was acknowledged is done. Taking TensorFlow down in good order needs
        # seconds that Kubernetes does not give, and would wait for kernels that cannot be stopped.
        os._exit(0)
