"""The database is away, or its standbys are: reads go on, writes are refused, and it heals."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.postgres.cluster import Cluster
from tests.postgres.fleet import READ_SECONDS, Replica, check, replicas, writers
from tests.postgres.replica_process import MODEL
from tests.waiting import join

NOTIFY_SECONDS = 0.1
AWAY, ALL_AWAY = 4.0, 60.0
"""Seconds. Longer than a commit may hang."""


class Readers:
    """One client for each replica that reads without a pause, locally."""

    def __init__(self, targets: list[Replica]) -> None:
        self._done = threading.Event()
        self.slowest = 0.0
        self.reads = 0
        self.failed: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._read, args=(target,), daemon=True) for target in targets
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, target: Replica) -> None:
        with target.client(timeout=60) as client:
            while not self._done.is_set():
                began = time.monotonic()
                try:
                    client.read_variable(MODEL, "count")
                    assert target.is_healthy, target.log.read_text()[-2000:]
                except BaseException as error:
                    self.failed.append(error)
                    return
                self.slowest = max(self.slowest, time.monotonic() - began)
                self.reads += 1
                time.sleep(0.01)

    def end(self) -> None:
        self._done.set()
        join(self._threads)
        assert not self.failed, self.failed[0]


class Notified:
    """Another application of the same cluster, and how long its notifications take."""

    def __init__(self, address: str) -> None:
        self._done = threading.Event()
        self.times: list[float] = []
        self._address = address
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        # Its own commits do not wait for a standby: what is measured is what we do to it.
        options = {"autocommit": True, "options": "-c synchronous_commit=local"}
        with (
            psycopg.connect(self._address, **options) as here,  # type: ignore[arg-type]
            psycopg.connect(self._address, **options) as there,  # type: ignore[arg-type]
        ):
            there.execute("LISTEN other")
            while not self._done.is_set():
                began = time.monotonic()
                here.execute("NOTIFY other")
                for _ in there.notifies(timeout=30, stop_after=1):
                    pass
                self.times.append(time.monotonic() - began)
                time.sleep(0.01)

    def end(self) -> None:
        self._done.set()
        join([self._thread])


@contextmanager
def readers(targets: list[Replica]) -> Iterator[Readers]:
    found = Readers(targets)
    yield found
    found.end()


def database_killed(cluster: Cluster) -> Callable[[], None]:
    cluster.primary.kill()
    return cluster.primary.start


def database_paused(cluster: Cluster) -> Callable[[], None]:
    """Its connections stay open, and nothing comes from it."""
    cluster.primary.pause()
    return cluster.primary.resume


def standbys_killed(cluster: Cluster) -> Callable[[], None]:
    """Commits wait for them."""
    for standby in cluster.standbys:
        standby.kill()

    def start() -> None:
        for standby in cluster.standbys:
            standby.start()

    return start


WAYS = {way.__name__: way for way in (database_killed, database_paused, standbys_killed)}


def away(cluster: Cluster, folder: Path, way: str, seconds: float) -> Counter[str]:
    """What the writes that were refused were told."""
    database = cluster.fresh(f"away-{way}-{seconds:.0f}")
    with ExitStack() as stack:
        targets = stack.enter_context(replicas(database, folder))
        load = stack.enter_context(writers(targets, 6, timeout=60))
        load.more(20)
        reading = stack.enter_context(readers(targets))
        notified = None
        if way == "standbys_killed":
            notified = Notified(cluster.primary.address)
        come_back = WAYS[way](cluster)
        began = time.monotonic()
        time.sleep(seconds)
        ended = time.monotonic()
        if notified is not None:
            notified.end()
        come_back()
        waited = load.wait_acknowledged(after=time.monotonic())
        load.more(20)
        # One that was on its way when it happened may have been acknowledged a moment later.
        meanwhile = [end for asked, end in load.times if began < asked and end < ended]
        load.end()
        commits = check(database, load.acknowledged, targets)
    print({"commits": commits, "went on after": round(waited, 2), "refused": dict(load.reasons)})
    print({"reads": reading.reads, "slowest": round(reading.slowest, 2)})
    assert not meanwhile
    assert reading.slowest < READ_SECONDS
    assert set(load.reasons) <= {"StateStoreUnavailable"}
    if notified is not None:
        print({"notified": len(notified.times), "slowest": round(max(notified.times), 3)})
        assert len(notified.times) > seconds
        # On a machine that is busy one may be late; none waits for a standby.
        assert sorted(notified.times)[int(0.99 * len(notified.times))] < NOTIFY_SECONDS
        assert max(notified.times) < 10 * NOTIFY_SECONDS
    return load.reasons


@pytest.mark.slow
@pytest.mark.parametrize(
    "way", [pytest.param("database_paused", marks=pytest.mark.full), "standbys_killed"]
)
def test_reads_go_on_while_the_database_is_away(cluster: Cluster, tmp_path: Path, way: str) -> None:
    """For some seconds, longer than a commit may wait."""
    away(cluster, tmp_path, way, AWAY)


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", WAYS)
def test_the_database_is_away_for_a_minute(cluster: Cluster, tmp_path: Path, way: str) -> None:
    """Every write is refused, with the reason."""
    assert away(cluster, tmp_path, way, ALL_AWAY)
