"""Reads at replicas behind one address: a client never reads what is older than it has seen."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest

import varserve
from tests.fakes import FakeModel, FakeVariable
from tests.postgres.conftest import Start
from tests.serving import serve_here
from tests.waiting import join
from varserve._client.values.seen import Seen

REPLICAS, CLIENTS = 3, 4
CALLS, ALL_CALLS = 600, 10_000


def made() -> FakeModel:
    return FakeModel(
        [FakeVariable(f"v{number}", np.zeros((), np.int64)) for number in range(CLIENTS)]
    )


@contextmanager
def service(database: str, replica: Start) -> Iterator[str]:
    """One target for all replicas: gRPC takes another one for each call."""
    with ExitStack() as stack:
        ports = []
        for _ in range(REPLICAS):
            live, _ = replica(database, made)
            ports.append(stack.enter_context(serve_here(live)).rpartition(":")[2])
        yield "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)


def stale_reads(target: str, calls: int, after: int = 0) -> tuple[int, int]:
    """How many of the reads by clients of their own writes were stale, and how many there were.

    They write numbers after `after`.
    """
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    counts: list[tuple[int, int]] = []

    def write_and_read(number: int) -> None:
        chance = random.Random(seed + number)
        stale = reads = 0
        last = after
        with varserve.connect(target, round_robin=True) as client:
            model = client.model(made().name)
            variable = model.variables[f"v{number}"]
            while reads < calls // CLIENTS:
                last += 1
                variable.assign(last)
                # Of any number of calls, so that the turns of the replicas do not fall in with it.
                for _ in range(chance.randrange(1, 5)):
                    kind = chance.randrange(3)
                    if kind == 0:
                        found = int(variable.numpy())
                    elif kind == 1:
                        found = int(model.read([f"v{number}"])[f"v{number}"])
                    else:
                        found = int(client.read_variable(model.name, f"v{number}").value)
                    stale += found < last
                    assert found <= last
                    reads += 1
        counts.append((stale, reads))

    threads = [
        threading.Thread(target=write_and_read, args=(number,), daemon=True)
        for number in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    join(threads, 1200)
    assert len(counts) == CLIENTS
    stale, reads = (sum(column) for column in zip(*counts, strict=True))
    print({"reads": reads, "stale": stale})
    return stale, reads


@pytest.mark.slow
def test_a_client_reads_its_own_writes_through_any_replica(
    database: str, replica: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of its reads is older than its last write; of a client that forgets, some are."""
    with service(database, replica) as target:
        stale, reads = stale_reads(target, CALLS)
        assert (stale, reads >= CALLS) == (0, True)
        monkeypatch.setattr(Seen, "consistency", lambda *_, **__: None)
        assert stale_reads(target, CALLS, after=CALLS)[0] > 0


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_a_client_reads_its_own_writes_10000_times(database: str, replica: Start) -> None:
    """The same, 10,000 times."""
    with service(database, replica) as target:
        stale, reads = stale_reads(target, ALL_CALLS)
        assert (stale, reads >= ALL_CALLS) == (0, True)
