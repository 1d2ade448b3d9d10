"""Large values that no commit keeps are swept, and none that one keeps."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.core.test_live_model import ADD, SET, refusal, value_of
from tests.postgres import stager as script
from tests.postgres.conftest import Start
from tests.postgres.large import LARGE, add, chunks, kept, made, put, same
from tests.waiting import join, until
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import JournalError, Reason, RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.commits import WriteRequest
from varserve_service.core.values.host_value import HostValue
from varserve_service.journal.postgres import PostgresState, blobs


def test_a_crash_between_staging_and_commit_leaves_no_value(database: str, replica: Start) -> None:
    """The chunks of a process that was killed there are there, name nothing, and are swept."""
    died = subprocess.run(
        [sys.executable, "-m", script.__name__, database], timeout=120, check=False
    )
    assert died.returncode == -9
    assert (kept(database), chunks(database)) == ([None], 3)
    one, journal = replica(database, made)
    assert (one.header.revision, value_of(one, "large").sum()) == (0, 0)
    assert journal.sweep(3600) == 0
    assert chunks(database) == 3
    assert journal.sweep(0) == 1
    assert (kept(database), chunks(database)) == ([], 0)
    assert put(one, 7) == 1


def test_housekeeping_sweeps_what_is_old(
    database: str, replica: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself, after the seconds that a value may be staged."""
    monkeypatch.setattr("varserve_service.journal.postgres.housekeeping._LOOK_SECONDS", 0.1)
    _, journal = replica(database, made)
    journal.stage({"large": HostValue(np.ones(LARGE, np.float32))}, None)
    assert (kept(database), chunks(database)) == ([None], 3)
    replica(database, made, blob_seconds=0.0)
    until(lambda: chunks(database) == 0)


def seeded_sweep(connection: Any, key: Any, seconds: float, staged: Any = None) -> int:
    """Looks which blobs nobody keeps, and removes them, without the lock."""
    rows = connection.execute(
        "SELECT blob FROM varserve_blob WHERE revision IS NULL AND model = %s AND version = %s", key
    ).fetchall()
    blobs.drop(connection, key, [row[0] for row in rows])
    blobs.remove_chunks(connection, key)
    return len(rows)


def lost_by(
    sweep: Callable[..., int], database: str, replica: Start, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, int, str]:
    """Commits beside a sweep of all that is staged: acknowledged, refused, and what was lost."""
    monkeypatch.setattr(blobs, "sweep", sweep)
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    one, journal = replica(database, made)
    done, chance = threading.Event(), random.Random(seed)

    def sweeping() -> None:
        while not done.wait(chance.random() / 500):
            journal.sweep(0)

    sweeper = threading.Thread(target=sweeping)
    sweeper.start()
    acknowledged, refused, lost = 0, 0, ""
    try:
        while acknowledged < (8 if refused else 100) and refused < 1000 and not lost:
            try:
                put(one, acknowledged)
            except RequestError as error:
                if "swept; nothing was changed; retry" not in error.message:
                    raise
                refused += 1
                continue
            acknowledged += 1
            try:
                late = PostgresState(database).take_up(made, LiveModel)[0]
            except JournalError as error:
                lost = str(error)
            else:
                assert (value_of(late, "large") == acknowledged - 1).all()
                late.close()
    finally:
        done.set()
        join([sweeper])
    return acknowledged, refused, lost


@pytest.mark.slow
def test_a_sweep_takes_nothing_of_a_commit_that_comes_through(
    database: str, replica: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the moment: either the commit is refused, or all of its chunks stay."""
    acknowledged, refused, lost = lost_by(blobs.sweep, database, replica, monkeypatch)
    assert lost == ""
    assert acknowledged >= 8
    assert refused > 0


def test_a_sweep_without_the_lock_is_found(
    database: str, replica: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above finds it when chunks of a commit are gone."""
    *_, lost = lost_by(seeded_sweep, database, replica, monkeypatch)
    assert "is not in the database" in lost


def test_what_was_staged_for_nothing_is_removed(database: str, replica: Start) -> None:
    """At once, of a commit that was refused; a repeated request stages nothing."""
    one, _ = replica(database, made)
    two, _ = replica(database, made)
    add(one)
    writes = [Write("large", SET, np.ones(LARGE, np.float32), if_revision_match=7)]
    assert refusal(one.assign, writes).reason is Reason.REVISION_MISMATCH
    until(lambda: chunks(database) == 0)
    assert kept(database) == []
    request = WriteRequest("r", b"")
    assert put(one, 7, request=request) == 2
    same(one, two)
    assert (put(one, 7, request=request), put(two, 7, request=request)) == (2, 2)
    assert kept(database) == [2]
    assert value_of(two, "large")[0] == 7


def test_values_that_were_overtaken_go_with_their_commit(database: str, replica: Start) -> None:
    """Adding at two replicas at once: what was staged is not the result, which is kept instead."""
    models = [replica(database, made)[0] for _ in range(2)]

    def adding(live: LiveModel) -> None:
        for _ in range(5):
            live.assign([Write("large", ADD, np.ones(LARGE, np.float32))])

    threads = [threading.Thread(target=adding, args=(live,)) for live in models]
    for thread in threads:
        thread.start()
    join(threads)
    late, _ = replica(database, made)
    same(*models, late)
    assert (value_of(late, "large") == 10).all()
    until(lambda: kept(database) == list(range(1, 11)))
    until(lambda: chunks(database) == 30)
