"""Counts of calls by method, as gRPC's own dashboards have them.

Used from the event loop alone, and read by whoever scrapes: whole numbers, which Prometheus is
given when it asks. Its own counters take a lock for each increment, and a call has five of them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from .words import Method

METHOD = ("grpc_type", "grpc_service", "grpc_method")
CALL_SECONDS = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0),
)
_BOUNDS = (*map(floatToGoString, CALL_SECONDS), "+Inf")


class MethodCounts:
    """What is counted of one method's calls. `handled`: those that have ended, by their code."""

    __slots__ = ("buckets", "handled", "labels", "received", "seconds", "sent", "started")

    def __init__(self, method: Method) -> None:
        self.labels = (method.kind, method.service, method.name)
        self.started = self.received = self.sent = 0
        self.handled = {"OK": 0}
        self.seconds = 0.0
        self.buckets = [0] * len(_BOUNDS)

    def ended(self, code: str, seconds: float) -> None:
        """A call has ended, after so many seconds."""
        self.handled[code] = self.handled.get(code, 0) + 1
        self.seconds += seconds
        self.buckets[bisect_left(CALL_SECONDS, seconds)] += 1

    @property
    def in_progress(self) -> int:
        """Calls that have not ended."""
        return self.started - sum(self.handled.values())


class CallCounts(Collector):
    """The counts of all methods. Its metrics are those of the gRPC libraries."""

    def __init__(self) -> None:
        self._methods: dict[Method, MethodCounts] = {}

    def of(self, method: Method) -> MethodCounts:
        """The counts of a method, which begin at 0."""
        counts = self._methods.get(method)
        if counts is None:
            self._methods[method] = counts = MethodCounts(method)
        return counts

    @property
    def in_progress(self) -> list[tuple[Method, int]]:
        """Calls that are in progress now, by method."""
        return [(method, counts.in_progress) for method, counts in list(self._methods.items())]

    def collect(self) -> Iterator[Metric]:
        """What Prometheus is given."""
        started = CounterMetricFamily(
            "grpc_server_started", "Calls that have arrived.", None, METHOD
        )
        handled = CounterMetricFamily(
            "grpc_server_handled",
            "Calls that have ended, by their code.",
            None,
            (*METHOD, "grpc_code"),
        )
        received = CounterMetricFamily(
            "grpc_server_msg_received", "Messages that have arrived.", None, METHOD
        )
        sent = CounterMetricFamily("grpc_server_msg_sent", "Messages that were sent.", None, METHOD)
        seconds = HistogramMetricFamily(
            "grpc_server_handling_seconds",
            "Seconds from the arrival of a call to the end of its handler.",
            labels=METHOD,
        )
        for counts in list(self._methods.values()):
            labels = counts.labels
            started.add_metric(labels, counts.started)
            for code, count in list(counts.handled.items()):
                handled.add_metric((*labels, _shown(code)), count)
            received.add_metric(labels, counts.received)
            sent.add_metric(labels, counts.sent)
            below = zip(_BOUNDS, accumulate(counts.buckets), strict=True)
            seconds.add_metric(labels, list(below), counts.seconds)
        yield from (started, handled, received, sent, seconds)


def _shown(code: str) -> str:
    """As gRPC's own dashboards write it: OK, NotFound, ..."""
    return code if code == "OK" else code.title().replace("_", "")
