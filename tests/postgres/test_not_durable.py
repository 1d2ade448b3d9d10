"""A commit that can be seen and is on no standby: nobody acknowledges it, and a failover takes it.

The standbys are killed, a COMMIT waits for them, and its wait ends in one of four ways. Every
replica is asked for the same write then.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.postgres.cluster import Cluster
from tests.postgres.fleet import START_SECONDS, Replica, Write, ask, check, replicas
from tests.waiting import join, until
from varserve_service.command_line import EXIT_CANNOT_SERVE
from varserve_service.journal.disk import EXIT_DISK_FAILED

ROUNDS = 20
RETRY_SECONDS = 2.5
_PATIENCE_SECONDS = 5.0


def restart(cluster: Cluster) -> None:
    cluster.primary.kill()
    cluster.primary.start()


def terminate(cluster: Cluster) -> None:
    for process in cluster.waiting():
        cluster.primary.execute(f"SELECT pg_terminate_backend({process})")


def cancel(cluster: Cluster) -> None:
    for process in cluster.waiting():
        cluster.primary.execute(f"SELECT pg_cancel_backend({process})")


def leave(cluster: Cluster) -> None:
    """The caller's task is cancelled: its call has ended already, see `lose`."""


WAYS: dict[str, Callable[[Cluster], None]] = {
    way.__name__: way for way in (restart, terminate, cancel, leave)
}


class Scenario:
    """One state, its replicas, and what was acknowledged."""

    def __init__(self, cluster: Cluster, database: str, targets: list[Replica]) -> None:
        self.cluster = cluster
        self.database = database
        self.targets = targets
        self.acknowledged: dict[str, tuple[int, int]] = {}
        self._number = 0
        self.waits: list[float] = []

    def write(self) -> Write:
        self._number += 1
        return Write(f"w-{self._number}")

    def done(self, write: Write) -> None:
        assert write.told is not None
        self.acknowledged[write.id] = write.told

    def ask_until_done(self, target: Replica, write: Write, seconds: float = START_SECONDS) -> None:
        with target.client() as client:
            until(lambda: ask(client, write, 10), seconds, 0.05)
        self.done(write)

    def lose(self, way: str, first: Replica, write: Write) -> None:
        """Kill the standbys, have a commit wait for them, and end its wait."""
        for standby in self.cluster.standbys:
            standby.kill()
        patience = 0.5 if way == "leave" else _PATIENCE_SECONDS

        def begin() -> None:
            with first.client() as client:
                assert not ask(client, write, patience)

        writer = threading.Thread(target=begin, daemon=True)
        writer.start()
        until(self.cluster.waiting, 20, 0.01)
        if way == "leave":
            join([writer])
        WAYS[way](self.cluster)
        retries = [
            threading.Thread(target=self._refused, args=(target, write), daemon=True)
            for target in self.targets
        ]
        for thread in retries:
            thread.start()
        join(retries)
        join([writer])

    def _refused(self, target: Replica, write: Write) -> None:
        """A retry, of which nothing may be acknowledged."""
        again = Write(write.id)
        with target.client() as client:
            if ask(client, again, RETRY_SECONDS):
                self.early.append(again)

    def round(self, way: str, chance: random.Random, *, fails_over: bool) -> None:
        """One loss, and its end: the standbys come back, or one of them is promoted."""
        self.early: list[Write] = []
        self.ask_until_done(chance.choice(self.targets), self.write())
        write = self.write()
        self.lose(way, chance.choice(self.targets), write)
        assert not self.early, "acknowledged, and no standby has it"
        if fails_over:
            self.cluster.primary.kill()
        for standby in self.cluster.standbys:
            standby.start()
        if fails_over:
            self.cluster.fail_over()
        began = time.monotonic()
        order = chance.sample(self.targets, len(self.targets))
        for target in order:  # each tells the same
            self.ask_until_done(target, write)
        check(self.database, self.acknowledged, self.targets)
        self.waits.append(time.monotonic() - began)
        self.cluster.mend()


def lose_commits(
    cluster: Cluster, name: str, folder: Path, ways: list[str], *, over: list[bool]
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    database = cluster.fresh(name)
    with replicas(database, folder) as targets:
        scenario = Scenario(cluster, database, targets)
        for way, fails_over in zip(ways, over, strict=True):
            scenario.round(way, chance, fails_over=fails_over)
        endings = [code for target in targets for code in target.endings]
    print({"endings": endings, "equal after": [round(wait, 1) for wait in scenario.waits]})
    # One that begins anew while no server takes writes ends, and is started again.
    assert set(endings) <= {EXIT_DISK_FAILED, EXIT_CANNOT_SERVE}


@pytest.mark.slow
def test_a_commit_on_no_standby_is_acknowledged_by_no_replica(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Its backend is terminated, and a standby that lacks it is promoted."""
    lose_commits(cluster, "lost", tmp_path, ["terminate"], over=[True])


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("way", WAYS)
def test_20_commits_on_no_standby(cluster: Cluster, tmp_path: Path, way: str) -> None:
    """In each way, and every second time the standbys come back instead."""
    over = [number % 2 == 0 for number in range(ROUNDS)]
    lose_commits(cluster, f"lost-{way}", tmp_path, [way] * ROUNDS, over=over)
