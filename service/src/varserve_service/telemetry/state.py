"""Gauges that are read from the service at each scrape.

Read on the scrape's thread, which never waits long for a model. Knows the core.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from varserve import tensors
from varserve_service.core.errors import RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.registry import Models
from varserve_service.core.ports.loaded_model import ModelState, VariableSpec
from varserve_service.reloading import ReloadStatus

from .call_counts import METHOD
from .metrics import MODEL, Metrics
from .words import Method

_PATIENCE = 0.05
"""Seconds to wait for a model to describe the shapes of its variables."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the state is read. Each function may be called from any thread and never blocks."""

    models: Models
    ready: Callable[[], bool]
    """Whether the service as a whole answers SERVING to a health check."""
    pending: Callable[[LiveModel], int]
    """Calls that run or wait on the model's threads."""
    staged: Callable[[], int]
    """Bytes of bodies that are arriving or in use."""
    staged_limit: int
    admitted: Callable[[], Mapping[str, tuple[int, int]]]
    """By verb: calls in progress, and how many there may be."""
    connections: Callable[[], Mapping[str, tuple[int, int]]]
    """By the port's purpose: connections that are open, and how many there may be."""
    health_watches: Callable[[], int]
    """Streams that watch health."""
    reloads: Callable[[], Sequence[ReloadStatus]]
    """How the reloads of files and addresses went so far."""
    expiries: Callable[[], Mapping[str, float]]
    """By certificate: when what is in use of it expires, in seconds since 1970."""
    state_dir: Path | None
    graph_functions: Callable[[], int]
    """Functions that TensorFlow's runtime has: grows by what is loaded and by what is traced."""
    lent: Callable[[], tuple[int, Mapping[str, int]] | None] = lambda: None
    """Bytes that clients have mapped by the lane, and its refusals by why; None without a lane."""


class StateCollector(Collector):
    """Gauges of one service. Without `sources`, the service is not ready yet.

    Collected first in a scrape, so that series of unloaded models are removed before the others.
    """

    def __init__(self, methods: Iterable[Method]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self.metrics = Metrics(methods, self.registry)
        self.sources: Sources | None = None
        # Weak: a model that is unloaded must not be kept by its figures.
        self._fixed: WeakKeyDictionary[LiveModel, Mapping[str, int]] = WeakKeyDictionary()

    def describe(self) -> Iterable[Metric]:
        """Nothing: no other collector has these names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All gauges as they are now."""
        sources = self.sources
        yield _Gauge("varserve_ready", "1 when health says SERVING, else 0.").value(
            sources is not None and sources.ready()
        )
        yield self._calls()
        if sources is not None:
            yield from self._service(sources)
            yield from self._models(sources)

    def _calls(self) -> Metric:
        gauge = _Gauge("varserve_calls_in_progress", "Calls and streams that are open.", METHOD)
        for method, count in self.metrics.in_progress:
            gauge.add_metric((method.kind, method.service, method.name), count)
        return gauge

    def _service(self, sources: Sources) -> Iterator[Metric]:
        calls = _Gauge("varserve_admitted_calls", "Calls of a verb in progress.", ("verb",))
        limits = _Gauge("varserve_admitted_calls_limit", "How many there may be.", ("verb",))
        for verb, (count, limit) in sources.admitted().items():
            calls.add_metric((verb,), count)
            limits.add_metric((verb,), limit)
        yield calls
        yield limits
        yield from _connections(sources.connections())
        yield _Gauge("varserve_health_watches", "Streams that watch health.").value(
            sources.health_watches()
        )
        yield from _reloads(sources.reloads())
        yield from _expiries(sources.expiries())
        yield _Gauge("varserve_staged_bytes", "Bytes of bodies that arrive or are in use.").value(
            sources.staged()
        )
        yield _Gauge("varserve_staged_bytes_limit", "How many there may be.").value(
            sources.staged_limit
        )
        yield _Gauge(
            "varserve_graph_functions",
            "Functions that TensorFlow's runtime has; grows with what is loaded or traced.",
        ).value(sources.graph_functions())
        lent = sources.lent()
        if lent is not None:
            yield from _lane(*lent)
        yield from _memory_budgets(sources.models)
        if sources.state_dir is not None:
            yield from _disk(sources.state_dir)

    def _models(self, sources: Sources) -> Iterator[Metric]:
        statuses = [status for status in sources.models.statuses if status.live is not None]
        live = {(s.name, str(s.version)): s.live for s in statuses if s.live is not None}
        self.metrics.keep(set(live))

        info = _Gauge(
            "varserve_model_info", "1 for each version in memory.", (*MODEL, "device", "labels")
        )
        for status in statuses:
            if status.live is not None:
                labels = ",".join(status.labels)
                info.add_metric((status.name, str(status.version), status.live.device, labels), 1)
        yield info
        versions = _Gauge(
            "varserve_model_versions", "Versions of a model by state.", ("model", "state")
        )
        count = Counter((status.name, status.state) for status in sources.models.statuses)
        for name in sorted({status.name for status in sources.models.statuses}):
            for state in ModelState:
                versions.add_metric((name, state.value), count[name, state])
        yield versions

        revision = _Gauge("varserve_model_revision", "The model's revision.", MODEL)
        written = _Gauge(
            "varserve_last_write_timestamp_seconds",
            "When the last commit was made, in seconds since 1970; nothing without one.",
            MODEL,
        )
        pending = _Gauge("varserve_pending_calls", "Calls that run or wait for a thread.", MODEL)
        overdue = _Gauge(
            "varserve_overdue_runs",
            "Runs that nobody waits for any more and that cannot be ended.",
            (*MODEL, "function"),
        )
        watches = _Gauge("varserve_watches", "Watchers of a model.", MODEL)
        memory = _Gauge(
            "varserve_variable_bytes", "Bytes of the model's variables.", (*MODEL, "device")
        )
        journal = _Gauge("varserve_journal_bytes", "Bytes of the model's journal.", MODEL)
        silent = _Gauge(
            "varserve_replica_silent_seconds",
            "Seconds since the log of a shared state was read last.",
            MODEL,
        )
        behind = _Gauge(
            "varserve_replica_behind_commits",
            "Commits of other replicas that this one has not taken yet.",
            MODEL,
        )
        age = _Gauge(
            "varserve_replica_behind_seconds",
            "How old the state here was when the log of a shared state was read last.",
            MODEL,
        )
        synchronous = _Gauge(
            "varserve_replica_state_synchronous",
            "1 if a commit to a shared state is on a standby before it is acknowledged.",
            MODEL,
        )
        for key, model in live.items():
            revision.add_metric(key, model.header.revision)
            last = model.timeline.last_write
            if last is not None:
                written.add_metric(key, last / 1e9)
            pending.add_metric(key, sources.pending(model))
            for function, runs in model.overdue_runs.items():
                overdue.add_metric((*key, function), runs)
            watches.add_metric(key, len(model.timeline.watchers))
            for device, nbytes in self._memory(model).items():
                memory.add_metric((*key, device), nbytes)
            size = model.journal_bytes
            if size is not None:
                journal.add_metric(key, size)
            standing = model.standing
            if standing is not None:
                silent.add_metric(key, standing.silent_seconds)
                behind.add_metric(key, standing.behind)
                age.add_metric(key, standing.behind_seconds)
                synchronous.add_metric(key, standing.synchronous)
        yield from (revision, written, pending, overdue, watches, memory, journal)
        yield from (silent, behind, age, synchronous)

    def _memory(self, model: LiveModel) -> Mapping[str, int]:
        """Bytes of a model's numeric variables by device."""
        known = self._fixed.get(model)
        if known is not None:
            return known
        specs = [spec for spec in model.specs if spec.dtype != tensors.STRING]
        if all(spec.shape is not None and None not in spec.shape for spec in specs):
            self._fixed[model] = known = _sum((spec, spec.shape) for spec in specs)
            return known
        try:
            states = model.describe(time.monotonic() + _PATIENCE).variables
        except RequestError:
            return {}  # A writer holds the lock; the next scrape has the figures.
        return _sum((s.spec, s.shape) for s in states if s.spec.dtype != tensors.STRING)


def _sum(variables: Iterable[tuple[VariableSpec, object]]) -> Mapping[str, int]:
    totals: Counter[str] = Counter()
    for spec, shape in variables:
        if isinstance(shape, tuple):
            nbytes = tensors.numpy_dtype(spec.dtype).itemsize
            for size in shape:
                nbytes *= size
            totals[spec.device] += nbytes
    return totals


def _connections(counts: Mapping[str, tuple[int, int]]) -> Iterator[Metric]:
    connections = _Gauge(
        "varserve_connections", "Connections of clients that are open, by port.", ("port",)
    )
    limits = _Gauge(
        "varserve_connections_limit", "How many there may be; further ones are closed.", ("port",)
    )
    for port, (count, limit) in counts.items():
        connections.add_metric((port,), count)
        limits.add_metric((port,), limit)
    yield from (connections, limits)


def _lane(nbytes: int, refusals: Mapping[str, int]) -> Iterator[Metric]:
    yield _Gauge(
        "varserve_lane_lent_bytes", "Bytes of memory that clients of the lane have mapped."
    ).value(nbytes)
    refused = CounterMetricFamily(
        "varserve_lane_refusals", "Connections to the lane that got nothing.", labels=("why",)
    )
    for why, count in refusals.items():
        refused.add_metric((why,), count)
    yield refused


def _reloads(statuses: Iterable[ReloadStatus]) -> Iterator[Metric]:
    taken = CounterMetricFamily(
        "varserve_reloads", "Changes of files and token keys that were taken.", labels=("what",)
    )
    refused = CounterMetricFamily(
        "varserve_refused_reloads",
        "Changes of files and token keys that were not taken.",
        labels=("what",),
    )
    failing = _Gauge(
        "varserve_reload_failing",
        "1 while what is there now cannot be taken, so that older content is in use.",
        ("what",),
    )
    for status in statuses:
        taken.add_metric((status.name,), status.taken)
        refused.add_metric((status.name,), status.refused)
        failing.add_metric((status.name,), status.failing)
    yield from (taken, refused, failing)


def _expiries(expiries: Mapping[str, float]) -> Iterator[Metric]:
    gauge = _Gauge(
        "varserve_certificate_expiry_timestamp_seconds",
        "When the certificate that is in use expires, in seconds since 1970.",
        ("certificate",),
    )
    for certificate, expiry in expiries.items():
        gauge.add_metric((certificate,), expiry)
    yield gauge


def _memory_budgets(models: Models) -> Iterator[Metric]:
    available = _Gauge(
        "varserve_memory_available_bytes",
        "Bytes of a memory that a call may still take; requests beyond it are refused.",
        ("place",),
    )
    limit = _Gauge("varserve_memory_limit_bytes", "Bytes that there may be in all.", ("place",))
    budgets = {
        budget.place: budget
        for model in models.sorted
        for budget in (model.memory.host, model.memory.device)
    }
    for place, budget in budgets.items():
        room = budget.room()
        if room is not None:
            available.add_metric((place,), room.available)
            limit.add_metric((place,), room.limit)
    yield from (available, limit)


def _disk(folder: Path) -> Iterator[Metric]:
    try:
        stats = os.statvfs(folder)
    except OSError:
        return
    yield _Gauge("varserve_state_dir_free_bytes", "Bytes free where the state is kept.").value(
        stats.f_bavail * stats.f_frsize
    )
    yield _Gauge("varserve_state_dir_size_bytes", "Bytes of that disk.").value(
        stats.f_blocks * stats.f_frsize
    )
    if stats.f_files:  # some file systems have no fixed number
        yield _Gauge(
            "varserve_state_dir_free_inodes",
            "Files that can still be made where the state is kept.",
        ).value(stats.f_favail)
        yield _Gauge("varserve_state_dir_inodes", "Files that there can be on that disk.").value(
            stats.f_files
        )


class _Gauge(GaugeMetricFamily):
    """A gauge family that is filled by its user."""

    def __init__(self, name: str, about: str, labels: Iterable[str] = ()) -> None:
        super().__init__(name, about, labels=tuple(labels))

    def value(self, value: float) -> Metric:
        """Set the only sample of a gauge without labels."""
        self.add_metric((), value)
        return self
