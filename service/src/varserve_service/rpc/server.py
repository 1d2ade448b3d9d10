"""The gRPC server: which handler answers which method, health, and an orderly end.

Owns the socket. Knows gRPC, the handlers and the registry of models.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from varserve import frames
from varserve.v1 import admin_service_pb2
from varserve.v1 import model_service_pb2 as pb
from varserve_service.access.certificates import ServerIdentity
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.registry import Models
from varserve_service.core.ports.administration import Administration
from varserve_service.core.threads import model_executor
from varserve_service.reloading import ReloadedFiles

from .authorization.access import OPEN, Access, server_credentials
from .authorization.guard import Guard
from .entry.admission import Admission, Limit
from .entry.call_log import CallLog
from .entry.observing import (
    Answering,
    Arriving,
    CallObserver,
    Method,
    Observed,
    Observers,
    UnknownMethods,
)
from .entry.verbs import VERBS, WATCH
from .services.admin_service import AdminService
from .services.history_service import HistoryService
from .services.model_service import ModelService
from .services.read_cache import ReadCache
from .serving.batching import BatchOptions
from .serving.calls import Calls
from .serving.served import Served, Serving
from .serving.workers import Workers

log = structlog.get_logger("varserve.rpc")

# Seconds at shutdown for connections that have no call in progress, those that watch health say.
CLOSE_GRACE = 1.0

SERVICE = pb.DESCRIPTOR.services_by_name["ModelService"]
ADMIN_SERVICE = admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"]
# One model is loaded at a time; the others are for saves and unloads beside it.
ADMIN_THREADS = 4


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How the service is reached and how much it takes on. Sizes are in bytes, times in seconds."""

    host: str = "127.0.0.1"
    port: int = 8500
    health_port: int | None = None
    """Where health is answered as well, in plaintext: probes have no certificates."""
    admin_host: str = "127.0.0.1"
    admin_port: int = 0
    reflection: bool = False
    threads_per_model: int = 8
    max_pending_calls: int = 256
    message_bytes: int = 4 * 2**20
    chunk_bytes: int = 2**20
    body_bytes: int = 8 * 2**30
    staging_bytes: int = 16 * 2**30
    upload_silence: float = 60.0
    """Seconds that a streaming request may leave the service without a message."""
    batching: Mapping[tuple[str, str], BatchOptions] = field(default_factory=dict)
    """By model and function, which must be fit for it: `batching.batching_problem`."""
    limits: Mapping[str, Limit] = field(default_factory=dict)
    """By verb, of those in `verbs`."""
    call_log_level: str = "debug"
    max_streams: int = 256
    """Of one connection, open at once; a client keeps the others waiting."""
    max_connections: int = 4096
    """Of callers of ModelService, open at once; further ones are closed as soon as they come."""
    max_other_connections: int = 64
    """The same, on the port of AdminService and on that of health."""
    connection_idle: float = 300.0
    """Seconds after which a connection without a call is closed."""
    connection_handshake: float = 20.0
    """Seconds that a new connection has for its TLS and HTTP/2 handshakes."""
    # Of a watch on which nothing else is sent, and of a connection on which nothing is heard.
    bookmark_seconds: float = 10.0
    keepalive_seconds: float = 30.0
    keepalive_timeout: float = 10.0
    max_connection_age: float | None = None
    """Seconds after which clients are asked to connect anew; None: never. A tenth more or less."""
    connection_grace: float | None = None
    """Seconds that the calls of such a connection get; None: all that they need."""


class Server:
    """One listening service over a registry of models."""

    def __init__(
        self,
        models: Models,
        options: ServerOptions,
        access: Access = OPEN,
        observers: Sequence[CallObserver] = (),
    ) -> None:
        """`observers` are told of every call."""
        self._observers = Observers([*observers, CallLog(options.call_log_level)])
        self._models = models
        self._options = options
        self._access = access
        self._guard = Guard(models, access.policy, access.auditing, options.upload_silence)
        self._admission = Admission(options.limits, options.staging_bytes)
        self._calls = Calls(self._admission, access.authenticator, access.auditing)
        self._lister = Workers("list", 2, options.max_pending_calls)
        self._senders = model_executor(2, "varserve-send")
        self._read_cache = ReadCache(models.resolve)
        self._serving = Serving(models, self._served)
        self._health = health.aio.HealthServicer()
        self._healthy: set[str] = set()
        self._stopping = False
        self._admin: tuple[grpc.aio.Server, Workers] | None = None
        self.address: str | None = None
        """`HOST:PORT` of ModelService, once it listens."""
        self.admin_address: str | None = None
        """`HOST:PORT` of AdminService, once it listens."""
        self._server = grpc.aio.server(options=_channel_options(options, options.max_connections))
        self._history = HistoryService(
            self._serving,
            self._senders,
            options.message_bytes,
            options.bookmark_seconds,
        )
        self._server.add_generic_rpc_handlers((self._handlers(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._prober: grpc.aio.Server | None = None
        self.health_address: str | None = None
        """`HOST:PORT` of the port for health alone, once it listens."""
        if options.reflection:
            names = (SERVICE.full_name, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._server)
        # The last: it is asked for what nobody before it has.
        self._server.add_generic_rpc_handlers((UnknownMethods(self._observers),))

    async def start(self) -> str:
        """Listen and answer. Returns `HOST:PORT` as clients reach it.

        Raises OSError when the address cannot be had.
        """
        tls, options = self._access.tls, self._options
        self.address = address = _listen(self._server, options.host, options.port, tls)
        if options.health_port is not None:
            self._prober = grpc.aio.server(
                options=_channel_options(options, options.max_other_connections)
            )
            health_pb2_grpc.add_HealthServicer_to_server(self._health, self._prober)
            self.health_address = _listen(self._prober, options.host, options.health_port, None)
            await self._prober.start()
        if self._admin is not None:
            server, _ = self._admin
            self.admin_address = _listen(server, options.admin_host, options.admin_port, tls)
            await server.start()
        await self._server.start()
        await self._tell_health()
        return address

    def administer(self, administration: Administration) -> None:
        """Serve AdminService, too, on its own port. To be called before `start`."""
        workers = Workers("admin", ADMIN_THREADS, self._options.max_pending_calls)
        service = AdminService(administration, workers, self._lister)
        calls = {
            "LoadModel": service.load_model,
            "UnloadModel": service.unload_model,
            "SaveModel": service.save_model,
            "ListVersions": service.list_versions,
        }
        server = grpc.aio.server(
            options=_channel_options(self._options, self._options.max_other_connections)
        )
        server.add_generic_rpc_handlers((self._handler_of(ADMIN_SERVICE, calls),))
        server.add_generic_rpc_handlers((UnknownMethods(self._observers),))
        self._admin = server, workers

    async def serve(self, live: LiveModel, label: str) -> list[LiveModel]:
        """Let a model's label mean this version from now on, for every call that comes.

        Returns the versions that nothing means any more, to be retired. From the event loop.
        """
        self._serving.open(live)
        return await self._after(self._models.serve(live, label))

    async def withdraw(self, name: str, label: str | None) -> list[LiveModel]:
        """Take a label away from a model, or all of them. Returns what `serve` does."""
        return await self._after(self._models.withdraw(name, label))

    async def retire(self, live: LiveModel, seconds: float) -> None:
        """Let the calls of a version that nothing means any more end, and its watches at once."""
        left = await self._serving.retire(live, seconds)
        if left:
            log.warning("calls cut off", model=live.name, version=live.version, calls=left)

    async def _after(self, ended: list[LiveModel]) -> list[LiveModel]:
        for live in ended:
            self._read_cache.forget(live)
        await self._tell_health()
        return ended

    async def _tell_health(self) -> None:
        """The service as a whole, and all that a model can be called."""
        if self._stopping:  # what was still being loaded changes nothing about that
            return
        names = {""}
        for live in self._models.sorted:
            names.update((*self._models.names(live.name), f"{live.name}@{live.version}"))
        gone, self._healthy = self._healthy - names, names
        for name in names:
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        for name in gone:
            await self._health.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)

    def _served(self, live: LiveModel) -> Served:
        options = self._options
        name = f"{live.name}@{live.version}"
        return Served(
            live,
            Workers(name, options.threads_per_model, options.max_pending_calls),
            # Watches begin apart: a thousand of them at once are not too many calls.
            Workers(f"{name}-watch", 1, self._admission.most_calls(WATCH)),
            options.batching,
        )

    @property
    def ready(self) -> bool:
        """Whether health says SERVING for the service as a whole. From any thread."""
        return "" in self._healthy

    @property
    def ports(self) -> Sequence[tuple[str, int, int]]:
        """Each port that it listens on: what it is for, its number, and how many connections it
        may have. From any thread.
        """
        calls, others = self._options.max_connections, self._options.max_other_connections
        addresses = (
            ("calls", self.address, calls),
            ("admin", self.admin_address, others),
            ("health", self.health_address, others),
        )
        return [
            (name, int(address.rpartition(":")[2]), limit)
            for name, address, limit in addresses
            if address is not None
        ]

    @property
    def staged(self) -> int:
        """Bytes of bodies that are arriving or in use. From any thread."""
        return self._admission.staged

    @property
    def admitted(self) -> Mapping[str, tuple[int, int]]:
        """By verb: calls in progress, and how many there may be. From any thread."""
        admission = self._admission
        return {verb: (admission.calls(verb), admission.most_calls(verb)) for verb in VERBS}

    def pending(self, live: LiveModel) -> int:
        """Calls that run or wait on the threads of a model. From any thread."""
        served = self._serving.find(live)
        return 0 if served is None else served.workers.pending

    async def stop(self, grace: float) -> bool:
        """Report not serving at once, finish what is in progress, and close.

        Returns False when, after `grace` seconds, work was still in progress.
        """
        self._stopping = True
        self._healthy = set()
        # At once: telling watchers may take a second.
        self._calls.refuse()
        await self._health.enter_graceful_shutdown()
        await self._history.close()
        left = await self._calls.drain(grace)
        if left:
            log.warning("calls cut off at shutdown", calls=left)
        if self._admin is not None:
            server, admin_workers = self._admin
            await server.stop(0)
            admin_workers.close()
        await self._server.stop(0 if left else CLOSE_GRACE)
        if self._prober is not None:
            await self._prober.stop(0)
        busy = sum(served.workers.pending for served in self._serving.all)
        for served in self._serving.all:
            served.close()
        self._lister.close()
        self._senders.shutdown(wait=False, cancel_futures=True)
        # Handlers that were cut off end after stop() returns: let them.
        await asyncio.sleep(0)
        return busy == 0

    def _handlers(self) -> grpc.GenericRpcHandler:
        service = ModelService(
            self._models,
            self._serving,
            self._lister,
            self._senders,
            self._admission,
            pb.TransferLimits(
                message_bytes=self._options.message_bytes,
                chunk_bytes=self._options.chunk_bytes,
                body_bytes=self._options.body_bytes,
            ),
            self._read_cache,
            self._options.upload_silence,
        )
        calls = {
            "ListModels": service.list_models,
            "GetModel": service.get_model,
            "ReadVariable": service.read_variable,
            "ReadVariables": service.read_variables,
            "SummarizeVariables": service.summarize_variables,
            "AssignVariable": service.assign_variable,
            "AssignVariables": service.assign_variables,
            "RunFunction": service.run_function,
            "StreamRunFunction": service.stream_run_function,
            "WatchVariables": self._history.watch_variables,
            "ListCommits": self._history.list_commits,
            "RevertCommits": self._history.revert_commits,
            "RenewLease": self._history.renew_lease,
            "RevokeLease": self._history.revoke_lease,
        }
        return self._handler_of(SERVICE, calls)

    def _handler_of(
        self, service: Any, calls: Mapping[str, Callable[..., Any]]
    ) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            service.full_name,
            {method.name: self._handler(method, calls[method.name]) for method in service.methods},
        )

    def _handler(self, method: Any, call: Callable[..., Any]) -> grpc.RpcMethodHandler:
        # Requests reach the handlers as bytes: what gRPC's own deserializing refuses would be
        # INTERNAL, though it is the caller's mistake.
        known = Method.of(method)
        guarded = self._guard.around(method, call)

        async def handle(request: Any, context: Any) -> Any:
            observed = Observed(self._observers, known, context)
            if method.client_streaming:
                request = Arriving(request, observed)
            if method.server_streaming:
                context = Answering(context, observed)
            return await self._calls.handle(observed, context, guarded(request, context))

        if method.client_streaming and method.server_streaming:
            make = grpc.stream_stream_rpc_method_handler
        elif method.client_streaming:
            make = grpc.stream_unary_rpc_method_handler
        elif method.server_streaming:
            make = grpc.unary_stream_rpc_method_handler
        else:
            make = grpc.unary_unary_rpc_method_handler
        return make(handle, response_serializer=frames.write_message)


def _milliseconds(seconds: float | None) -> int:
    """As gRPC takes them: the largest int, 24 days, is for ever."""
    return 2**31 - 1 if seconds is None else min(int(seconds * 1000), 2**31 - 1)


def _listen(
    server: grpc.aio.Server, host: str, port: int, tls: ReloadedFiles[ServerIdentity] | None
) -> str:
    """Listen there. Returns `HOST:PORT` as clients reach it. Raises OSError."""
    shown = f"[{host}]" if ":" in host else host
    try:
        if tls is None:
            return f"{shown}:{server.add_insecure_port(f'{shown}:{port}')}"
        # Each port has its own: what they are asked for is whether it has changed since.
        credentials = server_credentials(tls)
        return f"{shown}:{server.add_secure_port(f'{shown}:{port}', credentials)}"
    except RuntimeError as error:
        raise OSError(f"cannot listen on {shown}:{port}") from error


def _channel_options(options: ServerOptions, connections: int) -> Sequence[tuple[str, Any]]:
    return (
        # Each takes a file descriptor, and nobody has to say who they are to connect.
        ("grpc.max_allowed_incoming_connections", connections),
        ("grpc.max_connection_idle_ms", _milliseconds(options.connection_idle)),
        ("grpc.server_handshake_timeout_ms", _milliseconds(options.connection_handshake)),
        ("grpc.max_receive_message_length", options.message_bytes),
        ("grpc.max_send_message_length", options.message_bytes),
        # A second server on the same port must fail, not share its connections.
        ("grpc.so_reuseport", 0),
        # A client whose machine is gone says nothing: ask, or its watches stay for ever.
        ("grpc.keepalive_time_ms", int(options.keepalive_seconds * 1000)),
        ("grpc.keepalive_timeout_ms", int(options.keepalive_timeout * 1000)),
        # That one is for what TCP has not had acknowledged, this for the answer to a ping.
        ("grpc.http2.ping_timeout_ms", int(options.keepalive_timeout * 1000)),
        ("grpc.http2.max_pings_without_data", 0),
        # ... and let clients ask as often.
        ("grpc.http2.min_ping_interval_without_data_ms", 5000),
        ("grpc.keepalive_permit_without_calls", 1),
        # With a bound, gRPC itself refuses streams of a peer that opens and resets them faster than
        # they are ended here; without one they would all come to our loop.
        ("grpc.max_concurrent_streams", options.max_streams),
        # A client looks for servers anew when it has to connect anew.
        ("grpc.max_connection_age_ms", _milliseconds(options.max_connection_age)),
        ("grpc.max_connection_age_grace_ms", _milliseconds(options.connection_grace)),
    )
