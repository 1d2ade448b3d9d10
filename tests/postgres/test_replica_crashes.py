"""Replicas that are killed or stopped under writers: one order, nothing acknowledged is lost."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import psycopg
import pytest

from tests.core.test_live_model import value_of
from tests.postgres import writers as script
from tests.postgres.conftest import Start
from tests.waiting import until

REPLICAS, WRITERS = 3, 3
KILLS, ALL_KILLS = 4, 100
STOPS = 3
LEAST = 20
"""Commits between two faults."""


class Replica:
    """A replica's process, and what it said."""

    def __init__(self, address: str, name: str) -> None:
        self.name = name
        self.acknowledged: dict[str, int] = {}
        self.ready = threading.Event()
        self.process = subprocess.Popen(
            [sys.executable, "-m", script.__name__, address, name, str(WRITERS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            match line.split():
                case ["ready", _]:
                    self.ready.set()
                case ["ack", identifier, revision] if line.endswith("\n"):
                    self.acknowledged[identifier] = int(revision)

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.wait(60)
        self._listener.join(60)


class Fleet:
    """Replicas of one database, and all that was acknowledged by any that ever was."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._names = count(1)
        self.replicas: list[Replica] = []
        self.everyone: list[Replica] = []

    def start(self) -> Replica:
        replica = Replica(self._address, f"r{next(self._names)}")
        self.replicas.append(replica)
        self.everyone.append(replica)
        return replica

    def acknowledged(self) -> dict[str, int]:
        return {i: r for replica in self.everyone for i, r in dict(replica.acknowledged).items()}

    def more(self, least: int, seconds: float = 60) -> None:
        """Wait for so many more commits."""
        before = len(self.acknowledged())
        until(lambda: len(self.acknowledged()) >= before + least, seconds, 0.02)


@contextmanager
def fleet(address: str) -> Iterator[Fleet]:
    found = Fleet(address)
    try:
        for _ in range(REPLICAS):
            assert found.start().ready.wait(60)
        yield found
    finally:
        for replica in found.replicas:
            replica.kill()


def check(address: str, acknowledged: dict[str, int], replica: Start) -> None:
    """The log has every acknowledged write once, at the revision that was told."""
    with psycopg.connect(address) as connection:
        rows = connection.execute(
            "SELECT revision, record FROM varserve_log ORDER BY revision"
        ).fetchall()
    assert [revision for revision, _ in rows] == list(range(1, len(rows) + 1))
    by_id = {json.loads(record)["request"]["id"]: revision for revision, record in rows}
    assert len(by_id) == len(rows)
    assert {identifier: by_id.get(identifier) for identifier in acknowledged} == acknowledged
    late, _ = replica(address, script.model, history_commits=1_000_000)
    assert value_of(late, "count") == late.header.revision == len(rows)
    assert value_of(late, "table").sum() == 2 * len(rows)


def acknowledged_by(replicas: list[Replica]) -> int:
    return sum(len(replica.acknowledged) for replica in replicas)


def killed(database: str, replica: Start, kills: int) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    with fleet(database) as found:
        for _ in range(kills):
            found.more(LEAST + chance.randrange(LEAST))
            victim = found.replicas.pop(chance.randrange(REPLICAS))
            victim.kill()
            found.start()
        found.more(LEAST)
    acknowledged = found.acknowledged()
    print({"commits": len(acknowledged), "kills": kills})
    assert len(acknowledged) > kills * LEAST
    check(database, acknowledged, replica)


@pytest.mark.slow
def test_replicas_are_killed_under_writers(database: str, replica: Start) -> None:
    """No acknowledged write is lost, no revision is made twice; a new replica has everything."""
    killed(database, replica, KILLS)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_replicas_are_killed_100_times(database: str, replica: Start) -> None:
    """The same, 100 times."""
    killed(database, replica, ALL_KILLS)


@pytest.mark.slow
def test_a_replica_that_is_stopped_does_not_stop_the_others(database: str, replica: Start) -> None:
    """Wherever it was, the others commit within seconds, and nothing is committed twice.

    It goes on where it was when it is continued.
    """
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    with fleet(database) as found:
        for _ in range(STOPS):
            found.more(LEAST)
            stopped = chance.choice(found.replicas)
            stopped.signal(signal.SIGSTOP)
            others = [each for each in found.replicas if each is not stopped]
            before = acknowledged_by(others)
            until(lambda: acknowledged_by(others) > before, 30, 0.01)  # noqa: B023
            stopped.signal(signal.SIGCONT)
            mine = len(stopped.acknowledged)
            until(lambda: len(stopped.acknowledged) > mine, 60, 0.02)  # noqa: B023
    check(database, found.acknowledged(), replica)
