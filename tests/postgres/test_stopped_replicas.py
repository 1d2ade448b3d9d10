"""A replica that is stopped, wherever it is, delays the others by seconds, and commits nothing.

Stopped before and after each statement of a commit, in the middle of a long catch-up, in a queue
of stopped ones, or cut off from the network.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

import varserve
from tests.postgres.fleet import (
    Replica,
    Write,
    Writers,
    ask,
    check,
    log_of,
    replicas,
    writers,
)
from tests.postgres.replica_process import MODEL, VALUE_BYTES
from tests.postgres.server import Server, running
from tests.waiting import join, until

STEPS = [(when, number) for number in range(1, 5) for when in ("before", "after")]
"""A commit is four statements: the lock, the log, the append and the COMMIT."""
SHORT = [("after", 1), ("after", 3)]
STOPS = 30
NEXT_SECONDS = 4.0
IDLE_SECONDS = 1.5
"""After which the server ends a transaction whose replica says nothing."""
LARGE = 52 * 2**20


def stop(
    load: Writers, targets: list[Replica], stopped: Replica, when: str, number: int
) -> tuple[float, dict[str, tuple[int, int]]]:
    """Stop one at a step of its commits, and let it go on.

    How long the others committed nothing, and what they acknowledged.
    """
    load.more(10)
    stopped.ask_to_stop(when, number)
    until(lambda: stopped.is_stopped, 30, 0.001)
    try:
        # Clients of their own: all of the rest may be waiting for the one that is stopped.
        with writers([each for each in targets if each is not stopped], 2) as beside:
            waited = beside.wait_acknowledged(after=time.monotonic())
    finally:
        stopped.signal(signal.SIGCONT)
    return waited, beside.acknowledged


def stops(database: str, folder: Path, steps: list[tuple[str, int]]) -> None:
    chance = random.Random(0)
    waits: dict[tuple[str, int], list[float]] = {}
    acknowledged: dict[str, tuple[int, int]] = {}
    with replicas(database, folder) as targets:
        with writers(targets, 6) as load:
            for when, number in steps:
                waited, told = stop(load, targets, chance.choice(targets), when, number)
                waits.setdefault((when, number), []).append(round(waited, 2))
                acknowledged |= told
            load.more(20)
        commits = check(database, acknowledged | load.acknowledged, targets)
        assert not any(target.endings for target in targets)
    print({"commits": commits, "waits": waits, **load.reasons})
    assert max(map(max, waits.values())) < NEXT_SECONDS


@pytest.mark.slow
def test_a_replica_is_stopped_at_a_step_of_its_commit(database: str, tmp_path: Path) -> None:
    """With the lock, and between the append and the COMMIT."""
    stops(database, tmp_path, SHORT)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_a_replica_is_stopped_30_times(database: str, tmp_path: Path) -> None:
    """Before and after each of them."""
    stops(database, tmp_path, (STEPS * STOPS)[:STOPS])


ALONE = "before-alone", "answered-alone", "after-alone", "told"
"""Steps of a commit of one statement."""
LONG_SECONDS = 4.0
"""More than a commit may take."""


def rows_of(database: str, load: Writers) -> int:
    """How many writes of these clients are in the log."""
    return sum(load.wrote(identifier) for identifier in log_of(database))


def stop_alone(
    database: str, targets: list[Replica], when: str, seconds: float
) -> tuple[float, dict[str, tuple[int, int]]]:
    """Stop a replica that commits alone, and write at the others for so long.

    How long the next commit took, and what was acknowledged.
    """
    one, *others = targets
    with writers([one], 4, pause=0, timeout=60) as load:
        load.more(10)
        one.ask_to_stop(when, 1)
        until(lambda: one.is_stopped, 30, 0.001)
        try:
            with writers(others, 2) as beside:
                waited = beside.wait_acknowledged(after=time.monotonic())
                before = rows_of(database, load)
                beside.more(10)
                time.sleep(seconds)
                beside.more(10)
                assert rows_of(database, load) == before
                one.signal(signal.SIGCONT)
                load.more(10)
                beside.more(10)
        finally:
            one.signal(signal.SIGCONT)
    return waited, load.acknowledged | beside.acknowledged


def stops_alone(database: str, folder: Path, steps: Sequence[tuple[str, float]]) -> None:
    chance = random.Random(0)
    waits: list[float] = []
    acknowledged: dict[str, tuple[int, int]] = {}
    with replicas(database, folder) as targets:
        for when, seconds in steps:
            order = chance.sample(targets, len(targets))
            waited, told = stop_alone(database, order, when, seconds)
            waits.append(round(waited, 2))
            acknowledged |= told
        commits = check(database, acknowledged, targets)
        assert not any(target.endings for target in targets)
    print({"commits": commits, "waits": waits})
    assert max(waits) < NEXT_SECONDS


@pytest.mark.slow
def test_a_replica_that_commits_alone_is_stopped(database: str, tmp_path: Path) -> None:
    """Before its only statement, and with the commit made and nobody told."""
    stops_alone(database, tmp_path, [("before-alone", 0.0), ("answered-alone", 0.0)])


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_a_replica_that_commits_alone_is_stopped_at_each_step(
    database: str, tmp_path: Path
) -> None:
    """For a moment, and for longer than a commit may take."""
    stops_alone(database, tmp_path, [(when, s) for when in ALONE for s in (0.0, LONG_SECONDS)] * 2)


def backends(server: Server, condition: str) -> int:
    query = f"SELECT count(*) FROM pg_stat_activity WHERE {condition}"
    return int(str(server.execute(query)[0][0]))


def wait_for(server: Server, count: int, condition: str) -> None:
    until(lambda: backends(server, condition) == count, 30, 0.001)


@pytest.mark.full
@pytest.mark.timeout(600)
def test_four_replicas_are_stopped_in_the_queue(
    server: Server, database: str, tmp_path: Path
) -> None:
    """Each of them gets the lock, says nothing, and loses it again."""
    with replicas(database, tmp_path, 5) as targets:
        *queue, last = targets
        with last.client() as client:
            first = Write("w-0")
            assert ask(client, first)
        with psycopg.connect(database) as holder:
            holder.execute("SELECT FROM varserve_head FOR NO KEY UPDATE")
            asking = [
                threading.Thread(target=ask_alone, args=(replica, number + 1), daemon=True)
                for number, replica in enumerate(queue)
            ]
            for thread in asking:
                thread.start()
            wait_for(server, len(queue), "wait_event_type = 'Lock'")
            for replica in queue:
                replica.signal(signal.SIGSTOP)
        began = time.monotonic()
        write = Write("w-9")
        with last.client() as client:
            assert ask(client, write, 30)
        waited = time.monotonic() - began
        for replica in queue:
            replica.signal(signal.SIGCONT)
        join(asking)
        assert first.told is not None
        assert write.told is not None
        check(database, {first.id: first.told, write.id: write.told}, targets)
    print({"waited": round(waited, 2)})
    assert waited < len(queue) * IDLE_SECONDS + 1


def ask_alone(replica: Replica, number: int) -> None:
    with replica.client() as client:
        ask(client, Write(f"w-{number}"), 60)


def assign(client: Any, number: int) -> bool:
    """A large value; a disk that is busy may not take it in time."""
    try:
        client.model(MODEL).variables["large"].assign(np.full(LARGE, number, np.uint8), timeout=60)
    except varserve.StateStoreUnavailable:
        return False
    return True


def catch_up_stopped(
    behind: Replica, other: Replica, number: int, told: dict[str, tuple[int, int]]
) -> float:
    """Stop a replica while it is sent 100 MiB, which it asked for to commit.

    How long the next commit took.
    """
    with other.client() as client, behind.client() as late:
        # Every part is of 4 MiB: in the middle of one or the other half, ever later.
        behind.ask_to_stop("reading", 2 + 3 * number)
        for half in range(2):
            until(lambda half=half: assign(client, number * 2 + half), 120, 0.1)  # type: ignore[misc]
        writes = Write(f"late-{number}"), Write(f"w-{number}")
        asking = threading.Thread(target=ask, args=(late, writes[0], 60), daemon=True)
        asking.start()
        until(lambda: behind.is_stopped, 60, 0.001)
        began = time.monotonic()
        until(lambda: ask(client, writes[1], 30), 60)
        waited = time.monotonic() - began
        behind.signal(signal.SIGCONT)
        join([asking])
        told |= {write.id: write.told for write in writes if write.told is not None}
    return waited


@pytest.mark.full
@pytest.mark.timeout(600)
def test_a_replica_is_stopped_in_a_long_catch_up(database: str, tmp_path: Path) -> None:
    """In the middle of 100 MiB that the server sends it: more than is read under the lock."""
    told: dict[str, tuple[int, int]] = {}
    with replicas(database, tmp_path, 2, {VALUE_BYTES: str(LARGE)}) as (behind, other):
        waits = [catch_up_stopped(behind, other, n, told) for n in range(8)]
        until(lambda: behind.state() == other.state(), 60, 0.05)
    print({"waits": [round(waited, 2) for waited in waits], "told": len(told)})
    assert max(waits) < NEXT_SECONDS


HERE, THERE = "10.213.7.1", "10.213.7.2"
"""Addresses of the two ends of a cable between this machine and a replica's."""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)


@contextmanager
def another_machine() -> Iterator[tuple[Sequence[str], Callable[[bool], None]]]:
    """What runs a process there, and what plugs its cable in or pulls it out."""
    if os.geteuid() or shutil.which("ip") is None:
        pytest.skip("needs root, and ip of iproute2")
    name = f"varserve-{os.getpid()}"
    ends = f"vs{os.getpid()}a", f"vs{os.getpid()}b"
    ip("netns", "add", name)
    try:
        ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        ip("link", "set", ends[1], "netns", name)
        ip("address", "add", f"{HERE}/24", "dev", ends[0])
        ip("link", "set", ends[0], "up")
        for arguments in (
            ("address", "add", f"{THERE}/24", "dev", ends[1]),
            ("link", "set", ends[1], "up"),
            ("link", "set", "lo", "up"),
        ):
            ip("-n", name, *arguments)
        within = ("ip", "netns", "exec", name)
        yield within, lambda up: ip("-n", name, "link", "set", ends[1], "up" if up else "down")
    finally:
        ip("netns", "delete", name)  # and the cable with it


@pytest.mark.full
@pytest.mark.timeout(900)
def test_a_replica_is_cut_off_from_the_network(tmp_path: Path) -> None:
    """At any moment of its commits; it goes on when it is back."""
    waits = []
    with another_machine() as (within, plug), running(listen=f"127.0.0.1,{HERE}") as server:
        with (server.data / "pg_hba.conf").open("a") as access:
            access.write(f"host all all {THERE}/32 trust\n")
        server.execute("SELECT pg_reload_conf()")
        database = server.fresh("cut")
        away = database.replace("127.0.0.1", HERE)
        far = Replica(away, tmp_path, "far", host=THERE, within=within)
        try:
            far.wait_ready()
            with replicas(database, tmp_path, 2) as near:
                targets = [*near, far]
                with writers(near, 4) as load, writers([far], 4) as beside:
                    for number in range(STOPS // 3):
                        load.more(10)
                        beside.more(10)
                        if number % 2:  # while it has the lock
                            far.ask_to_stop("after", 1)
                            until(lambda: far.is_stopped, 30, 0.001)
                        plug(False)
                        far.signal(signal.SIGCONT)
                        waits.append(round(load.wait_acknowledged(after=time.monotonic()), 2))
                        time.sleep(1)
                        plug(True)
                    beside.more(10)
                acknowledged = load.acknowledged | beside.acknowledged
                commits = check(database, acknowledged, targets)
                assert not any(target.endings for target in targets)
        finally:
            far.close()
    print({"commits": commits, "waits": waits})
    assert max(waits) < NEXT_SECONDS
