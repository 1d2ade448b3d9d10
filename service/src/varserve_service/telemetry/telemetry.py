"""Metrics, traces and sent logs of one service, put together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import structlog

from varserve_service.core.ports.observer import UNOBSERVED, Observer

from .environment import wanted
from .exporter import Exporter
from .metrics import Metrics
from .state import Sources, StateCollector
from .words import Method

if TYPE_CHECKING:
    from .tracing import Pipeline, Tracing

log = structlog.get_logger("varserve.telemetry")


class Telemetry:
    """The telemetry of one service. What is not turned on costs nothing."""

    def __init__(self, methods: Iterable[Method]) -> None:
        """`methods`: those of the contract."""
        self._methods = tuple(methods)
        self._metrics: Metrics | None = None
        self._state: StateCollector | None = None
        self._exporter: Exporter | None = None
        self._pipeline: Pipeline | None = None
        self._tracing: Tracing | None = None

    def export(self, host: str, port: int, **options: Any) -> str:
        """Count from now on, and serve the counts to Prometheus. Returns `HOST:PORT`.

        `options` are those of Exporter. Raises OSError when the address cannot be had.
        """
        self._state = StateCollector(self._methods)
        self._metrics = self._state.metrics
        self._exporter = Exporter(self._state.registry, host, port, **options)
        return self._exporter.address

    def send(self, environment: Mapping[str, str]) -> None:
        """Send traces and logs from now on, where OpenTelemetry's variables ask for it."""
        asked = wanted(environment)
        if not asked:
            return
        protocol = environment.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "grpc"
        if protocol != "grpc":
            log.warning("nothing is sent: OTLP goes by grpc alone here", protocol=protocol)
            return
        try:
            from .tracing import Pipeline
        except ModuleNotFoundError as error:
            # The variables are often set for a whole cluster: no reason not to serve.
            log.warning(
                "OTEL_ variables ask for traces or logs, and OpenTelemetry is not installed: "
                'pip install "varserve-service[otel]"',
                missing=error.name,
            )
            return
        self._pipeline = Pipeline(asked)
        self.trace(self._pipeline.tracing)
        log.info("telemetry is sent", traces=asked.traces, logs=asked.logs)

    def trace(self, tracing: Tracing | None) -> None:
        """Have spans made of calls from now on."""
        self._tracing = tracing

    @property
    def call_observers(self) -> Sequence[Any]:
        """The observers of calls."""
        return [observer for observer in (self._tracing, self._metrics) if observer is not None]

    def model(self, name: str, version: int) -> Observer:
        """The observer of a version of a model."""
        observers = [made.model(name, version) for made in (self._tracing, self._metrics) if made]
        if not observers:
            return UNOBSERVED
        return observers[0] if len(observers) == 1 else _All(observers)

    def watch(self, sources: Sources) -> None:
        """Read the state of a running service from these sources."""
        if self._state is not None:
            self._state.sources = sources

    async def measure_delay(self) -> None:
        """Measure how late the event loop is, if metrics are on. Never ends by itself."""
        if self._metrics is not None:
            await self._metrics.measure_delay()

    def close(self) -> None:
        """Send what is still unsent and stop serving metrics. Takes a few seconds at most."""
        if self._pipeline is not None:
            self._pipeline.close()
        if self._exporter is not None:
            self._exporter.close()


class _All:
    """Several observers of a model as one."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers

    def lock_waited(self, seconds: float, *, exclusive: bool, ago: float = 0.0) -> None:
        for observer in self._observers:
            observer.lock_waited(seconds, exclusive=exclusive, ago=ago)

    def lock_held(self, seconds: float) -> None:
        for observer in self._observers:
            observer.lock_held(seconds)

    def committed(self, nbytes: int) -> None:
        for observer in self._observers:
            observer.committed(nbytes)

    def ran(self, seconds: float) -> None:
        for observer in self._observers:
            observer.ran(seconds)

    def synced(self, seconds: float, commits: int) -> None:
        for observer in self._observers:
            observer.synced(seconds, commits)
