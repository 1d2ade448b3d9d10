"""The primary is cut off from its standbys and replaced, and goes on alone.

It answers whatever needs no standby. A replica cannot begin at it, none is told that
anything is durable, and whoever can reach the new primary finds it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import varserve
from tests.postgres.cluster import Cluster
from tests.postgres.fleet import START_SECONDS, Replica, Write, ask, check, log_of, replicas
from tests.postgres.replica_process import MODEL
from tests.postgres.server import Server
from tests.waiting import until

FOUND_SECONDS = 120
"""Some, on a machine that has nothing else to do."""


def alone(server: Server, database: str) -> str:
    """The address of a database at one server, for who reaches no other."""
    return f"{server.address.removesuffix('postgres')}{database.rpartition('/')[2]}"


def acknowledged(target: Replica, number: int) -> Write:
    """A write that is done."""
    write = Write(f"done-{number}")
    with target.client() as client:
        until(lambda: ask(client, write), 60)
    return write


def refuses(target: Replica, write: Write) -> None:
    """A write and a linearizable read; what is here can be read."""
    with target.client(timeout=30) as client:
        assert not ask(client, write)
        with pytest.raises(varserve.StateStoreUnavailable):
            client.read_variable(MODEL, "count", linearizable=True)
        client.read_variable(MODEL, "count")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_primary_that_was_replaced_and_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    """Replicas that reach it alone, and one that reaches all and has nothing to write."""
    database, old = cluster.fresh("isolated"), cluster.primary
    near = alone(old, database)
    with replicas(database, tmp_path, 2) as targets:
        writes = [acknowledged(targets[0], 0)]
        far = Replica(near, tmp_path, "far")
        late = None
        try:
            far.wait_ready()
            until(lambda: targets[1].state() == (1, 1), 30)
            cluster.fail_over()
            late = Replica(near, tmp_path, "late")
            until(lambda: late.endings, START_SECONDS, 0.1)
            lost = Write("lost")
            refuses(far, lost)
            assert not late.is_healthy
            writes += [acknowledged(targets[0], number) for number in range(1, 4)]
            until(lambda: targets[1].state() == (4, 4), FOUND_SECONDS, 0.05)
        finally:
            for replica in (far, late):
                if replica is not None:
                    replica.close()
        there = set(log_of(near))
        old.kill()
        told = {write.id: write.told for write in writes if write.told is not None}
        assert check(database, told, targets) == len(writes)
        assert lost.id not in log_of(database)
        assert there <= {writes[0].id, lost.id}
        assert not any(target.endings for target in targets)
