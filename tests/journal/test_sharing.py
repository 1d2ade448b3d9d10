"""Commits on a real disk by many threads."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.fakes import FakeModel, FakeVariable
from tests.journal.kept import kept, value_of
from varserve_service.core.change.writes import Write
from varserve_service.core.ports.journal import Entry
from varserve_service.core.ports.loaded_model import Operation

THREADS = 8
COMMITS = 40


def test_commits_under_load_share_syncs(tmp_path: Path) -> None:
    """Eight writers need fewer syncs than they make commits, and each has its own revision."""

    def make() -> FakeModel:
        return FakeModel([FakeVariable(f"v{n}", np.zeros((), np.int64)) for n in range(THREADS)])

    together: list[int] = []
    revisions: list[int] = []
    with kept(tmp_path, make) as (live, journal):
        append, barrier = journal.append, threading.Barrier(THREADS)

        def counting(entries: Sequence[Entry]) -> None:
            together.append(len(entries))
            append(entries)

        journal.append = counting  # type: ignore[method-assign]

        def write(thread: int) -> None:
            barrier.wait(30)
            for number in range(1, COMMITS + 1):
                one = Write(f"v{thread}", Operation.SET, np.array(number))
                revisions.append(live.assign([one]).header.revision)

        threads = [threading.Thread(target=write, args=(n,)) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    print({"commits": sum(together), "syncs": len(together)})
    assert sorted(revisions) == list(range(1, THREADS * COMMITS + 1))
    assert sum(together) == THREADS * COMMITS
    assert len(together) < THREADS * COMMITS * 0.75
    with kept(tmp_path, make) as (live, _):
        assert [value_of(live, f"v{n}").item() for n in range(THREADS)] == [COMMITS] * THREADS
