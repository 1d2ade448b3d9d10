"""Counts and times of calls and of models, for Prometheus.

Label values come from the contract and from the served models, never from what a client sends, so
no client can raise the number of series.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.process_collector import ProcessCollector

from .call_counts import CALL_SECONDS, CallCounts
from .words import Call, Method

MODEL = ("model", "version")
SHARED, EXCLUSIVE = "shared", "exclusive"

_SHORT_SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0),
)
_DELAY_EVERY = 0.25
# One such call is worth an alert. The first would go unseen if its series began with it: Prometheus
# finds an increase between two values alone.
ALERTED = (
    "AUDIT_LOG_UNAVAILABLE",
    "INTERNAL",
    "OUT_OF_MEMORY",
    "STATE_STORE_FULL",
    "STATE_STORE_UNAVAILABLE",
    "TOO_MANY_REQUESTS",
)

ModelKey = tuple[str, str]


class Metrics:
    """Everything that is counted as it happens. An observer of calls; makes observers of models."""

    def __init__(self, methods: Iterable[Method], registry: CollectorRegistry) -> None:
        """`methods` start with counts of 0."""
        # Another series for each counter's start: it doubles the number of series for no use.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry
        ProcessCollector(registry=registry)
        counter, histogram = self._counter, self._histogram
        self._calls = CallCounts()
        registry.register(self._calls)
        self.loop_delay = histogram(
            "varserve_event_loop_delay_seconds",
            "Seconds by which the event loop runs late.",
            (),
            _SHORT_SECONDS,
        )
        self.refused_calls = counter(
            "varserve_refused_calls",
            "Calls that failed with a reason of the contract.",
            ("grpc_method", "reason"),
        )
        self.read_bytes = counter(
            "varserve_read_bytes", "Bytes of variables' values that reads returned.", MODEL
        )
        self.written_bytes = counter(
            "varserve_written_bytes", "Bytes of values that commits wrote.", MODEL
        )
        self.commits = counter("varserve_commits", "Commits.", MODEL)
        self.commit_pause = histogram(
            "varserve_commit_pause_seconds",
            "Seconds that the model's lock was held exclusively: the pause that a commit causes.",
            MODEL,
            _SHORT_SECONDS,
        )
        self.lock_wait = histogram(
            "varserve_lock_wait_seconds",
            "Seconds that a caller waited for the model's lock, shared or exclusive.",
            (*MODEL, "kind"),
            _SHORT_SECONDS,
        )
        self.function_seconds = histogram(
            "varserve_function_seconds",
            "Seconds that a run of one of the model's functions took in TensorFlow.",
            MODEL,
            CALL_SECONDS,
        )
        self.journal_sync = histogram(
            "varserve_journal_sync_seconds",
            "Seconds that a sync of commits took, while the lock was held.",
            MODEL,
            _SHORT_SECONDS,
        )
        self._models: weakref.WeakValueDictionary[ModelKey, ModelMetrics] = (
            weakref.WeakValueDictionary()
        )
        self._served: set[ModelKey] = set()
        self._changing = threading.Lock()
        for method in methods:
            self._calls.of(method)
            for reason in ALERTED:
                self.refused_calls.labels(method.name, reason)

    # Calls: on the event loop alone.

    async def measure_delay(self) -> None:
        """Sample how late the event loop is. Never ends by itself."""
        while True:
            due = time.monotonic() + _DELAY_EVERY
            await asyncio.sleep(_DELAY_EVERY)
            self.loop_delay.observe(max(0.0, time.monotonic() - due))

    def started(self, call: Call) -> None:
        """A call has arrived."""
        self._calls.of(call.method).started += 1

    def received(self, call: Call) -> None:
        """A message has arrived."""
        self._calls.of(call.method).received += 1

    def sent(self, call: Call) -> None:
        """A message was sent."""
        self._calls.of(call.method).sent += 1

    def ended(self, call: Call) -> None:
        """A call has ended."""
        self._calls.of(call.method).ended(call.code.name, call.seconds)
        if call.reason:
            self.refused_calls.labels(call.method.name, call.reason).inc()
        if call.read_bytes:
            model = self._models.get((call.model, str(call.version)))
            if model is not None:
                model.read(call.read_bytes)

    @property
    def in_progress(self) -> list[tuple[Method, int]]:
        """Calls that are in progress now, by method."""
        return self._calls.in_progress

    # Models: from any thread.

    def model(self, name: str, version: int) -> ModelMetrics:
        """The observer of one version of a model. Its series exist as long as the observer."""
        key = (name, str(version))
        with self._changing:
            # An earlier observer of this name may be about to go: it must not remove these series.
            self._served = self._served - {key}
            self._remove(key)
            model = ModelMetrics(self, key)
        weakref.finalize(model, self._ended, key)
        return model

    def _ended(self, key: ModelKey) -> None:
        if key not in self._models:
            self._remove(key)

    def keep(self, served: set[ModelKey]) -> None:
        """Only these are served now: remove the series of versions that were served before."""
        with self._changing:
            gone, self._served = self._served - served, served
            for key in gone:
                self._remove(key)

    def _remove(self, key: ModelKey) -> None:
        for metric, *more in (
            (self.read_bytes,),
            (self.written_bytes,),
            (self.commits,),
            (self.commit_pause,),
            (self.lock_wait, SHARED),
            (self.lock_wait, EXCLUSIVE),
            (self.function_seconds,),
            (self.journal_sync,),
        ):
            with suppress(KeyError):
                metric.remove(*key, *more)

    def _counter(self, name: str, about: str, labels: Iterable[str]) -> Counter:
        return Counter(name, about, labels, registry=self.registry)

    def _histogram(
        self, name: str, about: str, labels: Iterable[str], buckets: tuple[float, ...]
    ) -> Histogram:
        return Histogram(name, about, labels, registry=self.registry, buckets=buckets)


class ModelMetrics:
    """The series of one version of a model: the core's Observer."""

    def __init__(self, metrics: Metrics, key: ModelKey) -> None:
        # First: an observer of the same name that is collected now must not remove these series.
        metrics._models[key] = self

        def child(metric: MetricWrapperBase, *more: str) -> Any:
            return metric.labels(*key, *more)

        self.read = child(metrics.read_bytes).inc
        self._written = child(metrics.written_bytes).inc
        self._commits = child(metrics.commits).inc
        self.lock_held = child(metrics.commit_pause).observe
        self._waited_shared = child(metrics.lock_wait, SHARED).observe
        self._waited_exclusive = child(metrics.lock_wait, EXCLUSIVE).observe
        self.ran = child(metrics.function_seconds).observe
        self._synced = child(metrics.journal_sync).observe

    def lock_waited(self, seconds: float, *, exclusive: bool, ago: float = 0.0) -> None:
        """Observe."""
        (self._waited_exclusive if exclusive else self._waited_shared)(seconds)

    def committed(self, nbytes: int) -> None:
        """Count."""
        self._commits()
        self._written(nbytes)

    def synced(self, seconds: float, commits: int) -> None:
        """Observe."""
        self._synced(seconds)
