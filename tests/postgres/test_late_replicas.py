"""Replicas that come late or fall behind while the log is compacted: all of it, or a new start."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.postgres.conftest import Start
from tests.postgres.fleet import START_SECONDS, Replica, check_equal, replicas, writers
from tests.postgres.replica_process import model
from tests.postgres.test_journal import add, count
from tests.waiting import join, until
from varserve_service.core.model.live_model import LiveModel
from varserve_service.journal.postgres.journal import PostgresJournal

KEPT = 100
"""Commits that the log keeps."""
PAGE = 1_000
"""Commits that a follower reads at a time."""
ROUNDS = 5


@contextmanager
def compacted(journal: PostgresJournal) -> Iterator[list[int]]:
    """The log is compacted all the time, until the end of the block."""
    done, times = threading.Event(), [0]

    def compact() -> None:
        while not done.wait(0.05):
            journal.compact()
            times[0] += 1

    thread = threading.Thread(target=compact, daemon=True)
    thread.start()
    try:
        yield times
    finally:
        done.set()
        join([thread])


def start_late(database: str, folder: Path, replica: Start, rounds: int) -> None:
    live, journal = replica(database, model, history_commits=KEPT)
    with replicas(database, folder, 2) as targets:
        with compacted(journal) as times, writers(targets, 4) as load:
            load.more(3 * KEPT)
            for number in range(rounds):
                before = live.header.revision
                late = Replica(database, folder, f"late-{number}")
                try:
                    until(lambda late=late: late.is_healthy, START_SECONDS, 0.005)  # type: ignore[misc]
                    revision, counted = late.state()
                    assert revision == counted >= before
                    load.more(KEPT)
                    check_equal([*targets, late], beside=load)
                    assert not late.endings
                finally:
                    late.close()
        check_equal(targets)
        assert times[0] > rounds
        assert live.timeline.commits(1).commits
        print({"commits": live.header.revision, "compactions": times[0]})


@pytest.mark.slow
def test_a_replica_comes_late(database: str, tmp_path: Path, replica: Start) -> None:
    """Behind the horizon, while others write and the log is compacted."""
    start_late(database, tmp_path, replica, 1)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_replicas_come_late(database: str, tmp_path: Path, replica: Start) -> None:
    """The same, several times."""
    start_late(database, tmp_path, replica, 4 * ROUNDS)


def write_many(live: LiveModel, number: int) -> None:
    threads = [
        threading.Thread(target=lambda: [add(live) for _ in range(number // 8)], daemon=True)
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    join(threads, 120)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_the_log_is_compacted_under_a_replica_that_reads_pages_of_it(
    database: str, tmp_path: Path, replica: Start
) -> None:
    """It follows all of it or begins anew; whenever it is read, it is a state that there was."""
    live, journal = replica(database, model, history_commits=KEPT)
    endings = []
    with replicas(database, tmp_path, 1) as (behind,):
        for _ in range(ROUNDS):
            behind.signal(signal.SIGSTOP)
            write_many(live, 4 * PAGE)
            behind.signal(signal.SIGCONT)
            with compacted(journal):

                def equal() -> bool:
                    revision, counted = behind.state_or_none() or (-1, -1)
                    assert revision == counted
                    return revision == live.header.revision

                until(equal, START_SECONDS, 0.01)
        endings = behind.endings
        assert count(live) == live.header.revision
    print({"commits": live.header.revision, "began anew": len(endings)})
    assert set(endings) <= {3}
