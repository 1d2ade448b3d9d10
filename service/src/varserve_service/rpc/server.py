"""The gRPC server: the sockets, health, and an orderly end.

Knows gRPC, the table of methods and the registry of models.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from varserve.v1 import model_service_pb2 as pb
from varserve_service.access.policy import Verb
from varserve_service.addresses import UNIX
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.registry import Models
from varserve_service.core.ports.administration import Administration
from varserve_service.core.threads import model_executor

from .authorization.access import OPEN, Access
from .authorization.guard import Guard
from .calls.admission import Admission
from .calls.call_log import CallLog
from .calls.giving_way import SmallCalls
from .calls.observers import CallObserver, Observers
from .calls.transfers import Transfers
from .decoding import Decoder
from .dispatch import Dispatcher, UnknownMethods
from .facades.contracts import EveryPool
from .health import HealthService
from .lane import MOST_PEERS, Lane, Port
from .methods import ADMIN_SERVICE, FACADES, METHODS
from .options import ServerOptions, channel_options, listen
from .public import PublicServer
from .services.backend import Backend
from .serving.read_cache import ReadCache
from .serving.readiness import Readiness
from .serving.served import Served, Serving
from .serving.workers import Workers

log = structlog.get_logger("varserve.rpc")

# What an answer in a foreign protocol needs beside the bytes of its tensors.
_ENVELOPE_BYTES = 64 * 1024
# Seconds at shutdown for connections that have no call in progress, those that watch health say.
CLOSE_GRACE = 1.0

# One model is loaded at a time; the other threads are for saves and unloads beside it.
ADMIN_THREADS = 4


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
        small_calls = SmallCalls()
        self._observers = Observers([*observers, CallLog(options.call_log_level), small_calls])
        self._models = models
        self._options = options
        self._access = access
        self._admission = Admission(options.limits, options.staging_bytes)
        self._transfers = Transfers(options.transfer_silence, options.transfer_rate, small_calls)
        self._serving = Serving(models, self._served)
        self.lane = self._lane()
        """Where the memory of large values is handed over."""
        self._backend = Backend(
            models=models,
            serving=self._serving,
            lister=Workers("list", 2, options.max_pending_calls),
            senders=model_executor(2, "varserve-send"),
            receivers=model_executor(2, "varserve-receive"),
            admission=self._admission,
            read_cache=ReadCache(models.resolve),
            limits=pb.TransferLimits(
                message_bytes=options.message_bytes,
                chunk_bytes=options.chunk_bytes,
                body_bytes=options.body_bytes,
            ),
            transfers=self._transfers,
            small_calls=small_calls,
            lane=self.lane,
            bookmark_seconds=options.bookmark_seconds,
            facade_message_bytes=options.facade_message_bytes - _ENVELOPE_BYTES,
            facades_administer=access.policy is not None or options.admin_host == options.host,
        )
        foreign = [row for name in options.facades for row in FACADES[name]]
        rows = (*METHODS, *foreign)
        self._dispatcher = Dispatcher(
            rows,
            self._backend,
            Guard(models),
            self._admission,
            self._observers,
            policy=access.policy,
            authenticator=access.authenticator,
            auditing=access.auditing,
            authenticate_first=access.strangers_can_connect,
            transfer_silence=options.transfer_silence,
            memory_limit=self._memory_limit,
            decoder=Decoder(
                options.message_bytes,
                {row.method.service: options.facade_message_bytes for row in foreign},
                self._most_variables,
            ),
        )
        self._backend.nested = self._dispatcher.nested
        self._backend.decode_message = self._dispatcher.message
        self._health = HealthService()
        self._known: set[str] = set()
        self._healthy: set[str] = set()
        self._ready = asyncio.Event()
        self._readiness = Readiness(models, options.state_lag, self._tell_health)
        self._stopping = False
        self._prober: grpc.aio.Server | None = None
        self.health_address: str | None = None
        """`HOST:PORT` of the port for health alone, once it listens."""
        self.address: str | None = None
        """`HOST:PORT` of ModelService, once it listens."""
        self._admin: grpc.aio.Server | None = None
        self.admin_address: str | None = None
        """`HOST:PORT` of AdminService, once it listens."""
        services = {row.descriptor.containing_service.full_name: row.descriptor for row in rows}
        services.pop(ADMIN_SERVICE.full_name)
        self._server = self._make_server(
            [method.containing_service for method in services.values()],
            [*services],
            options.max_connections,
        )

    def _make_server(
        self, services: Sequence[Any], names: Sequence[str], connections: int
    ) -> grpc.aio.Server:
        """A server of services of the table, with health and reflection where there are `names`."""
        server = grpc.aio.server(options=channel_options(self._options, connections))
        for service in services:
            server.add_generic_rpc_handlers((self._dispatcher.handlers_of(service),))
        if names:
            # To read a message apart takes a turn of the event loop more, which is late under load:
            # not where everybody who can connect may call, or has shown a certificate.
            bounded = self._access.strangers_can_connect
            public = PublicServer(server) if bounded else server
            health_pb2_grpc.add_HealthServicer_to_server(self._health, public)
            if self._options.reflection:
                known = (*names, health.SERVICE_NAME, reflection.SERVICE_NAME)
                reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
                    reflection.aio.ReflectionServicer(known, EveryPool()), public
                )
        # The last: it is asked for what none before it has.
        server.add_generic_rpc_handlers((UnknownMethods(self._observers),))
        return server

    def _lane(self) -> Lane | None:
        options = self._options
        if not options.lane_socket:
            return None
        return Lane(
            options.lane_socket,
            options.lane_uids,
            options.max_lane_connections,
            options.max_lane_memories,
        )

    def _memory_limit(self) -> int | None:
        memory = self._backend.host_memory
        room = None if memory is None else memory.room()
        return None if room is None else room.limit

    def _most_variables(self) -> int:
        names = (live.timeline.display_names for live in self._models.sorted)
        return max(map(len, names), default=0)

    async def start(self) -> str:
        """Listen and answer. Returns `HOST:PORT` as clients reach it.

        Raises OSError when the address cannot be had.
        """
        tls, options = self._access.tls, self._options
        self.address = address = listen(self._server, options.host, options.port, tls)
        if options.health_port is not None:
            self._prober = grpc.aio.server(
                options=channel_options(options, options.max_other_connections)
            )
            health_pb2_grpc.add_HealthServicer_to_server(self._health, PublicServer(self._prober))
            self.health_address = listen(
                self._prober, options.health_host, options.health_port, None
            )
            await self._prober.start()
        if self._admin is not None:
            self.admin_address = listen(self._admin, options.admin_host, options.admin_port, tls)
            await self._admin.start()
        if self.lane is not None:
            self.lane.start()
        if options.lane_port is not None:
            self._backend.port = Port(options.lane_host, options.lane_port, tls)
            self._backend.port.start()
        await self._server.start()
        await self._tell_health()
        self._readiness.start()
        return address

    def administer(self, administration: Administration) -> None:
        """Serve AdminService, too, on its own port. To be called before `start`."""
        self._backend.administration = administration
        self._backend.admin_workers = Workers(
            "admin", ADMIN_THREADS, self._options.max_pending_calls
        )
        self._admin = self._make_server([ADMIN_SERVICE], [], self._options.max_other_connections)

    async def serve(self, live: LiveModel, label: str) -> list[LiveModel]:
        """Let a model's label mean this version from now on, for every call that comes.

        Returns the versions that nothing means any more, to be retired. From the event loop.
        """
        self._serving.open(live)
        await self._readiness.wait(live)  # or health would say NOT_SERVING for a moment
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
            self._backend.read_cache.forget(live)
        await self._tell_health()
        return ended

    async def _tell_health(self) -> None:
        """The service as a whole, and all that a model can be called.

        A model that is too far behind is not serving, and then neither is the whole.
        """
        if self._stopping:  # what was still being loaded changes nothing about that
            return
        healthy, late = {""}, set[str]()
        for live in self._models.sorted:
            names = (*self._models.names(live.name), f"{live.name}@{live.version}")
            if self._readiness.is_ready(live):
                healthy.update(names)
            else:
                late.update(names)
        healthy.difference_update(late | ({""} if late else set()))
        self._known |= healthy | late | {""}
        self._healthy = healthy
        if self.ready:
            self._ready.set()
        for name in self._known:
            status = health_pb2.HealthCheckResponse.SERVING
            if name not in healthy:
                status = health_pb2.HealthCheckResponse.NOT_SERVING
            await self._health.set(name, status)

    def _served(self, live: LiveModel) -> Served:
        options = self._options
        name = f"{live.name}@{live.version}"
        return Served(
            live,
            Workers(
                name,
                options.threads_per_model,
                options.max_pending_calls,
                lambda: live.overdue_runs,
            ),
            # Watches begin apart: a thousand of them at once are not too many calls.
            Workers(f"{name}-watch", 1, self._admission.most_calls(Verb.WATCH)),
            options.batching,
        )

    @property
    def ready(self) -> bool:
        """Whether health says SERVING for the service as a whole. From any thread."""
        return "" in self._healthy

    async def wait_until_ready(self) -> None:
        """Until health has said SERVING for the service as a whole."""
        await self._ready.wait()

    @property
    def ports(self) -> Sequence[tuple[str, str, int]]:
        """What it listens on: what that is for, its address, and how many connections it may have.

        From any thread.
        """
        calls, others = self._options.max_connections, self._options.max_other_connections
        port = self._backend.port
        socket = None if self.lane is None else f"{UNIX}{self.lane.path}"
        addresses = (
            ("calls", self.address, calls),
            ("admin", self.admin_address, others),
            ("health", self.health_address, others),
            ("lane_port", None if port is None else port.address, MOST_PEERS),
            ("lane", socket, self._options.max_lane_connections),
        )
        return [(name, address, limit) for name, address, limit in addresses if address is not None]

    @property
    def health_watches(self) -> int:
        """Streams that watch health. From any thread."""
        return self._health.watches

    @property
    def staged(self) -> int:
        """Bytes of bodies that are arriving or in use. From any thread."""
        return self._admission.staged

    @property
    def lent(self) -> tuple[int, Mapping[str, int]] | None:
        """Bytes that clients have mapped, and the lane's refusals by why; None without a lane."""
        found = [each for each in (self.lane, self._backend.port) if each is not None]
        if not found:
            return None
        refusals = sum((Counter(each.refusals) for each in found), Counter[str]())
        return 0 if self.lane is None else self.lane.lent_bytes, refusals

    @property
    def admitted(self) -> Mapping[str, tuple[int, int]]:
        """By verb: calls in progress, and how many there may be. From any thread."""
        admission = self._admission
        return {verb: (admission.calls(verb), admission.most_calls(verb)) for verb in Verb}

    def pending(self, live: LiveModel) -> int:
        """Calls that run or wait on the threads of a model. From any thread."""
        served = self._serving.find(live)
        return 0 if served is None else served.workers.pending

    async def stop(self, grace: float) -> bool:
        """Report not serving at once, finish what is in progress, and close.

        Returns False when, after `grace` seconds, work was still in progress.
        """
        self._stopping = True
        self._readiness.close()
        self._healthy = set()
        # At once: telling watchers may take a second.
        self._dispatcher.refuse()
        await self._health.enter_graceful_shutdown()
        self._backend.end_sessions()
        await self._backend.end_watches()
        left = await self._dispatcher.drain(grace)
        if left:
            log.warning("calls cut off at shutdown", calls=left)
        if self._admin is not None:
            await self._admin.stop(0)
        await self._server.stop(0 if left else CLOSE_GRACE)
        if self._prober is not None:
            await self._prober.stop(0)
        if self.lane is not None:
            await self.lane.close()
        if self._backend.port is not None:
            self._backend.port.close()
        busy = sum(served.workers.pending for served in self._serving.all)
        for served in self._serving.all:
            served.close()
        self._backend.close()
        self._dispatcher.close()
        # Handlers that were cut off end after stop() returns: let them.
        await asyncio.sleep(0)
        return busy == 0
