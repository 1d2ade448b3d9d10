"""The primary goes, a standby is promoted, and the old primary comes back and takes writes.

Nothing that was acknowledged is lost or done twice, the old one acknowledges nothing, and no
replica begins anew without a fork.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.postgres.cluster import Cluster, acknowledge_alone
from tests.postgres.fleet import Replica, Writers, check, log_of, replicas, writers
from tests.postgres.server import Server

ROUNDS = 20
LEAST = 20
"""Commits between two faults."""
AGAIN_SECONDS = 5.0
"""From the promotion until a write is acknowledged, on a machine that has nothing else to do."""


def fail_over(cluster: Cluster, load: Writers, *, paused: bool) -> tuple[Server, float]:
    """The old primary, killed or paused, and how long no write was acknowledged after it."""
    load.more(LEAST)
    old = cluster.primary
    if paused:
        old.pause()
    else:
        old.kill()
    cluster.fail_over()
    return old, load.wait_acknowledged(after=time.monotonic())


def come_back(old: Server, *, paused: bool, alone: bool) -> None:
    """As a server that takes writes; `alone`: it acknowledges them without a standby."""
    if paused:
        old.resume()
        return
    if alone:
        acknowledge_alone(old)
    old.start()


def rows_of(server: Server, database: str) -> set[str]:
    """The ids of the requests in the log of one server."""
    name = database.rpartition("/")[2]
    return set(log_of(f"{server.address.removesuffix('postgres')}{name}"))


def failovers(
    cluster: Cluster, database: str, targets: list[Replica], rounds: int, *, paused: bool
) -> None:
    chance = random.Random(0)
    waits = []
    with writers(targets) as load:
        for number in range(rounds):
            alone = bool(number % 2)
            old, waited = fail_over(cluster, load, paused=paused)
            waits.append(waited)
            come_back(old, paused=paused, alone=alone)
            # One that begins while both are there takes the right one, whichever is listed first.
            restarted = chance.choice(targets)
            restarted.kill()
            restarted.start()
            restarted.wait_ready()
            load.more(LEAST)
            there, new = rows_of(old, database), rows_of(cluster.primary, database)
            told = dict(load.acknowledged)  # a copy: writers go on
            acknowledged = {i for i, (revision, _) in told.items() if revision > len(new) - LEAST}
            assert acknowledged
            assert not acknowledged & there, "the old primary was written to"
            cluster.mend()
        load.more(LEAST)
    commits = check(database, load.acknowledged, targets)
    again = [code for replica in targets for code in replica.endings]
    print({"commits": commits, "waits": [round(w, 2) for w in waits], **load.reasons})
    assert not again, "a replica began anew, and there was no fork"
    assert sorted(waits)[len(waits) // 2] < AGAIN_SECONDS
    assert max(waits) < 4 * AGAIN_SECONDS


@pytest.mark.slow
@pytest.mark.parametrize("paused", [pytest.param(False, marks=pytest.mark.full), True])
def test_a_failover_and_the_old_primary_comes_back(
    cluster: Cluster, tmp_path: Path, paused: bool
) -> None:
    """Killed, or paused and continued when the standby has been promoted."""
    database = cluster.fresh(f"failover-{paused}")
    with replicas(database, tmp_path) as targets:
        failovers(cluster, database, targets, 1, paused=paused)


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("paused", [False, True])
def test_20_failovers(cluster: Cluster, tmp_path: Path, paused: bool) -> None:
    """The same, 20 times, the old primary acknowledging alone every second time."""
    database = cluster.fresh(f"failovers-{paused}")
    with replicas(database, tmp_path) as targets:
        failovers(cluster, database, targets, ROUNDS, paused=paused)
