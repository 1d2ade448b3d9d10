"""All that watches one service, put together: where counts, gauges and traces come from and go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from varserve_service.core.observer import UNOBSERVED, Observer

from .exporter import Exporter
from .metrics import Metrics
from .state import Sources, StateCollector
from .words import Method


class Telemetry:
    """What is seen of one service. Nothing is kept that nobody asks for."""

    def __init__(self, methods: Iterable[Method]) -> None:
        """`methods`: those of the contract."""
        self._methods = tuple(methods)
        self._metrics: Metrics | None = None
        self._state: StateCollector | None = None
        self._exporter: Exporter | None = None

    def export(self, host: str, port: int, **options: Any) -> str:
        """Count from now on, and serve the counts to Prometheus. Returns `HOST:PORT`.

        `options` are those of Exporter. Raises OSError when the address cannot be had.
        """
        self._state = StateCollector(self._methods)
        self._metrics = self._state.metrics
        self._exporter = Exporter(self._state.registry, host, port, **options)
        return self._exporter.address

    @property
    def call_observers(self) -> Sequence[Any]:
        """Who wants to be told of calls."""
        return [] if self._metrics is None else [self._metrics]

    def model(self, name: str, version: int) -> Observer:
        """Who wants to be told of what a version of a model does."""
        return UNOBSERVED if self._metrics is None else self._metrics.model(name, version)

    def watch(self, sources: Sources) -> None:
        """The service is there: this is where its state is read."""
        if self._state is not None:
            self._state.sources = sources

    def close(self) -> None:
        """Send what was not sent yet, and serve nothing more. Takes no more than some seconds."""
        if self._exporter is not None:
            self._exporter.close()
