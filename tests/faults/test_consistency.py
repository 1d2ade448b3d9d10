"""Many clients of the real service at once, also while it is killed: one order explains everything.

What every client was told is recorded and checked against the service's own log by revisions, small
parts of it by search, and what watchers heard against both.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults import seeded_service
from tests.faults.histories import Inconsistent, check, kept_on_failure
from tests.faults.linearizable import order_of
from tests.faults.traffic import Service, Traffic, service
from tests.faults.watched import check_watch

CLIENTS = 8
HISTORIES_TO_CATCH = 4
SMALL_ROUNDS, SMALL = 20, 6
"""Rounds of a history that are searched, and each client's calls in one."""


def record_and_check(running: Service, operations: int, path: Path, kills: int = 0) -> Counter[str]:
    """One history of so many calls; what was done in it."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance, began = random.Random(seed), time.monotonic()

    def kill() -> None:
        time.sleep(chance.uniform(0.05, 1.5))  # any moment will do
        running.kill()

    with (
        closing(Traffic(running, CLIENTS, seed)) as traffic,
        kept_on_failure(path, traffic.calls, seed=seed, watched=traffic.watched),
    ):
        small = SMALL_ROUNDS * SMALL * CLIENTS if operations >= 5000 else SMALL * CLIENTS
        each = (operations - small) // CLIENTS // max(kills, 1)
        for _ in range(kills):
            traffic.round(each, kill)
        if not kills:
            traffic.round(each)
        for _ in range(small // SMALL // CLIENTS):
            start = traffic.know()
            calls = traffic.round(SMALL)
            if order_of(calls, start) is None:
                raise Inconsistent(f"no order explains {calls} after {start}")
        seconds = time.monotonic() - began
        log = traffic.end()
        states = check(traffic.calls, log, traffic.start)
        told = [check_watch(watched, log, states) for watched in traffic.watched]
    done = Counter(call.outcome for call in traffic.calls)
    done["commits"], done["told"] = len(log), sum(told)
    done["resumed"] = sum(watched.resumed for watched in traffic.watched)
    print({**done, "seconds": round(seconds, 1)})
    # Too little of anything would prove nothing.
    assert done.total() >= operations
    assert done["done"] > operations / 2
    assert done["refused"] > operations / 100
    assert done["failed"] > operations / 200
    assert told[0] == len(log) > operations / 4
    assert min(told) > len(log) / 10
    return done


def side_by_side(record: Callable[[str], Counter[str]]) -> Counter[str]:
    """Half of the histories by each of two services, which keep two cores busy; what was done."""
    with ThreadPoolExecutor(2) as pool:
        halves = list(pool.map(record, ("first", "second")))
    return halves[0] + halves[1]


@pytest.fixture
def ledger(model_folder: Callable[[str], Path]) -> Path:
    return model_folder("ledger")


@pytest.mark.slow
def test_a_history_is_linearizable(ledger: Path, tmp_path: Path) -> None:
    """Reads, snapshots, assigns, conditions, transactions and runs of 8 clients, and 3 watchers.

    Twice: the second begins where the first ended.
    """
    with service(ledger, tmp_path / "log") as running:
        for number in range(2):
            record_and_check(running, 500, tmp_path / f"history-{number}.json")


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_fifty_histories_are_linearizable(ledger: Path, tmp_path: Path) -> None:
    """The same, 50 times 5,000 calls."""

    def record(half: str) -> Counter[str]:
        done: Counter[str] = Counter()
        with service(ledger, tmp_path / f"{half}.log") as running:
            for number in range(25):
                path = tmp_path / f"history-{half}-{number}.json"
                done += record_and_check(running, 5_000, path)
        return done

    print(side_by_side(record))


@pytest.mark.slow
def test_a_history_with_a_crash_is_linearizable(ledger: Path, tmp_path: Path) -> None:
    """The same while the service is killed and started again: acknowledged writes are there.

    Writes without an answer may be done or not; those that are asked for again are done once.
    """
    with service(ledger, tmp_path / "log", f"--state-dir={tmp_path / 'state'}") as running:
        done = record_and_check(running, 1_000, tmp_path / "history.json", kills=1)
    assert running.kills == 1
    assert done["unknown"] <= CLIENTS


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_fifty_histories_with_crashes_are_linearizable(ledger: Path, tmp_path: Path) -> None:
    """The same, 50 times 5,000 calls and two kills."""

    def record(half: str) -> Counter[str]:
        done: Counter[str] = Counter()
        state = f"--state-dir={tmp_path / half}"
        with service(ledger, tmp_path / f"{half}.log", state) as running:
            for number in range(25):
                path = tmp_path / f"history-{half}-{number}.json"
                done += record_and_check(running, 5_000, path, kills=2)
        assert running.kills == 50
        return done

    done = side_by_side(record)
    print(done)
    assert done["unknown"] > 50


def test_every_bug_can_be_seeded() -> None:
    """What they replace in the service is there; whether they are caught takes minutes."""
    seed_all = "; ".join(["s.slow_and_failing()", *(f"s.{bug}()" for bug in seeded_service.BUGS)])
    module = seeded_service.__name__
    done = subprocess.run(
        [sys.executable, "-c", f"import {module} as s; {seed_all}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("bug", [*seeded_service.BUGS, seeded_service.NO_BUG])
def test_seeded_bugs_are_caught(ledger: Path, tmp_path: Path, bug: str) -> None:
    """A service with one bug is caught by the same checks; as slow and failing without it, not."""
    options = {"module": seeded_service.__name__, "environment": {seeded_service.VARIABLE: bug}}
    caught = None
    for number in range(HISTORIES_TO_CATCH):
        state = f"--state-dir={tmp_path / f'state-{number}'}"
        with service(ledger, tmp_path / "log", state, **options) as running:
            try:
                record_and_check(running, 1_500, tmp_path / f"history-{number}.json", kills=2)
            except Inconsistent as error:
                caught = error
                break
    print({"histories": number + 1, "caught": str(caught)[:300]})
    assert (caught is None) == (bug == seeded_service.NO_BUG)
