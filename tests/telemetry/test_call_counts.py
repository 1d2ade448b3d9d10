"""Counts of calls without locks are what Prometheus' own counters would be."""

from __future__ import annotations

import random

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from varserve_service.rpc.methods import methods
from varserve_service.telemetry.call_counts import CALL_SECONDS, METHOD, CallCounts


def lines(registry: CollectorRegistry) -> list[str]:
    """All samples, without those of when a series began."""
    text = generate_latest(registry).decode()
    return sorted(line for line in text.splitlines() if "_created" not in line)


@pytest.mark.parametrize("seed", range(3))
def test_the_samples_are_those_of_prometheus(seed: int) -> None:
    """Names, labels, buckets and sums, for any calls; bounds belong to the bucket below."""
    print(f"seed {seed}")
    chosen = random.Random(seed)
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    counts = CallCounts()
    ours.register(counts)
    started = Counter("grpc_server_started", "Calls that have arrived.", METHOD, registry=theirs)
    handled = Counter(
        "grpc_server_handled",
        "Calls that have ended, by their code.",
        (*METHOD, "grpc_code"),
        registry=theirs,
    )
    received = Counter(
        "grpc_server_msg_received", "Messages that have arrived.", METHOD, registry=theirs
    )
    sent = Counter("grpc_server_msg_sent", "Messages that were sent.", METHOD, registry=theirs)
    seconds = Histogram(
        "grpc_server_handling_seconds",
        "Seconds from the arrival of a call to the end of its handler.",
        METHOD,
        buckets=CALL_SECONDS,
        registry=theirs,
    )
    known = methods()[:4]
    for method in known:
        labels = (method.kind, method.service, method.name)
        counts.of(method)
        handled.labels(*labels, "OK")
        for series in (started, received, sent, seconds):
            series.labels(*labels)
    for _ in range(500):
        method = chosen.choice(known)
        labels = (method.kind, method.service, method.name)
        code, shown = chosen.choice([("OK", "OK"), ("NOT_FOUND", "NotFound")])
        took = chosen.choice([chosen.expovariate(10), *CALL_SECONDS, 0.0, 100.0])
        of = counts.of(method)
        of.started += 1
        started.labels(*labels).inc()
        of.received += 1
        received.labels(*labels).inc()
        of.sent += 1
        sent.labels(*labels).inc()
        of.ended(code, took)
        handled.labels(*labels, shown).inc()
        seconds.labels(*labels).observe(took)
    assert lines(ours) == lines(theirs)
    assert {count for _, count in counts.in_progress} == {0}


def test_what_has_not_ended_is_in_progress() -> None:
    """Whatever it ends with."""
    counts, (method, *_) = CallCounts(), methods()
    counts.of(method).started += 3
    counts.of(method).ended("CANCELLED", 1.0)
    assert counts.in_progress == [(method, 2)]
