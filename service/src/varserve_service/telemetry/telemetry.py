"""All that watches one service, put together: where counts, gauges and traces come from and go."""

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
    """What is seen of one service. Nothing is kept that nobody asks for."""

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
            # They are often set for everything in a cluster: no reason not to serve.
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
        """Who wants to be told of calls."""
        return [each for each in (self._tracing, self._metrics) if each is not None]

    def model(self, name: str, version: int) -> Observer:
        """Who wants to be told of what a version of a model does."""
        found = [each.model(name, version) for each in (self._tracing, self._metrics) if each]
        if not found:
            return UNOBSERVED
        return found[0] if len(found) == 1 else _All(found)

    def watch(self, sources: Sources) -> None:
        """The service is there: this is where its state is read."""
        if self._state is not None:
            self._state.sources = sources

    async def measure_delay(self) -> None:
        """Measure how late the event loop is, where somebody may ask. For the service's life."""
        if self._metrics is not None:
            await self._metrics.measure_delay()

    def close(self) -> None:
        """Send what was not sent yet, and serve nothing more. Takes no more than some seconds."""
        if self._pipeline is not None:
            self._pipeline.close()
        if self._exporter is not None:
            self._exporter.close()


class _All:
    """Tells several observers of a model."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers

    def lock_waited(self, seconds: float, *, exclusive: bool, ago: float = 0.0) -> None:
        for each in self._observers:
            each.lock_waited(seconds, exclusive=exclusive, ago=ago)

    def lock_held(self, seconds: float) -> None:
        for each in self._observers:
            each.lock_held(seconds)

    def committed(self, nbytes: int) -> None:
        for each in self._observers:
            each.committed(nbytes)

    def ran(self, seconds: float) -> None:
        for each in self._observers:
            each.ran(seconds)

    def synced(self, seconds: float, commits: int) -> None:
        for each in self._observers:
            each.synced(seconds, commits)
