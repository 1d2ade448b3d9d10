"""Many who write one variable under a condition: one wins each revision, the others are told."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import varserve
from tests.faults.traffic import service

THREADS = 16
ATTEMPTS = 20_000

Attempt = Callable[[int, int], tuple[bool, int]]
"""By a thread's number and the expected revision: whether it won, and the present revision."""


def storm(attempt: Attempt, attempts: int) -> Counter[int]:
    """How often each revision was won. Each thread goes on from the revision that it was told."""
    won: list[list[int]] = [[] for _ in range(THREADS)]
    wrong: list[str] = []
    begin = threading.Barrier(THREADS)

    def write(number: int) -> None:
        expected = 0
        begin.wait(60)
        for _ in range(attempts // THREADS):
            winner, revision = attempt(number, expected)
            if winner:
                won[number].append(revision)
                if revision <= expected:
                    wrong.append(f"won {revision} expecting {expected}")
            elif revision <= expected:
                wrong.append(f"refused expecting {expected}, and told {revision}")
            expected = revision

    threads = [threading.Thread(target=write, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
        assert not thread.is_alive()
    assert wrong == []
    counts = Counter(revision for each in won for revision in each)
    print({"attempts": attempts, "won": counts.total()})
    assert sorted(counts) == list(range(1, len(counts) + 1))
    assert set(counts.values()) == {1}
    assert attempts / THREADS <= counts.total() < attempts, "nobody lost, or hardly anybody won"
    return counts


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_one_wins_each_revision_over_the_wire(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """16 clients of the real service, 20,000 attempts: one winner for each, losers hear which."""
    with service(model_folder("ledger"), tmp_path / "log") as running:
        clients = [varserve.connect(running.address) for _ in range(THREADS)]

        def attempt(number: int, expected: int) -> tuple[bool, int]:
            try:
                commit = clients[number].assign_variable(
                    "ledger", "a", np.int64(number), if_revision_match=expected
                )
            except varserve.RevisionMismatch as error:
                return False, int(error.metadata["current_revision"])
            return True, commit.revision

        won = storm(attempt, ATTEMPTS)
        reading = clients[0].read_variable("ledger", "a")
        assert (reading.revision, reading.variable_revision) == (won.total(), won.total())
        for client in clients:
            client.close()
