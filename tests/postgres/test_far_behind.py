"""A replica that missed more than is read at once, and how long each of its steps may take."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import psycopg
import pytest

from tests.core.test_live_model import SET
from tests.postgres.conftest import Replica, Start
from tests.postgres.large import LARGE, put
from tests.postgres.large import made as large
from tests.postgres.test_journal import add, count, make
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import JournalError
from varserve_service.core.ports.journal import Position
from varserve_service.journal.postgres import appending, committing, reading
from varserve_service.journal.postgres.following import Listener

COMMITS = 8


@pytest.fixture
def pair(database: str, replica: Start, monkeypatch: pytest.MonkeyPatch) -> tuple[Replica, Replica]:
    """One with eight commits that the other has not heard of: nobody follows."""
    monkeypatch.setattr(Listener, "news", lambda *_: threading.Event().wait(0.05) and [])
    monkeypatch.setattr(reading, "AT_ONCE", 3)
    one, two = replica(database, make), replica(database, make)
    for _ in range(COMMITS):
        add(one[0])
    return one, two


def test_a_writer_commits_on_top_of_all_of_it(pair: tuple[Replica, Replica]) -> None:
    """However often it has to read."""
    _, (live, _) = pair
    assert add(live).header.revision == COMMITS + 1
    assert count(live) == COMMITS + 1


def test_an_undecided_commit_is_found_behind_all_of_it(pair: tuple[Replica, Replica]) -> None:
    """By its name, and wherever in the log it is."""
    (one, journal), (_, other) = pair
    known = Position(0)
    other._appender.last_append = journal._appender.last_append
    happened, missed = other.resolve(known)
    assert (happened, [commit.revision for commit in missed]) == (True, [*range(1, COMMITS + 1)])
    other._appender.last_append = "another"
    assert other.resolve(one._parts.committer.position) == (False, [])
    happened, missed = other.resolve(missed[-3].position)
    assert (happened, len(missed)) == (False, 2)


def test_an_undecided_commit_of_a_fork(pair: tuple[Replica, Replica]) -> None:
    """What this replica has is not in the log: it cannot go on from there."""
    _, (_, journal) = pair
    with pytest.raises(JournalError, match="not the one in the database"):
        journal.resolve(Position(3, "another"))


def test_an_undecided_commit_waits_for_the_lock_for_a_while(
    pair: tuple[Replica, Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it looks again."""
    (one, journal), _ = pair
    waits: list[float] = []
    lock_head = journal._appender._lock_head

    def noted(connection: Any, until: float) -> Any:
        waits.append(until - time.monotonic())
        return lock_head(connection, until)

    monkeypatch.setattr(journal._appender, "_lock_head", noted)
    assert journal.resolve(one._parts.committer.position)[1] == []
    assert len(waits) == 1
    assert 0 < waits[0] <= appending._LOCK_SECONDS


def test_what_a_lease_holds_has_time_to_be_written(
    database: str, replica: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its bytes, as the commit with it; nothing that the commit keeps is forgotten."""
    live, journal = replica(database, large)
    bounds: list[float] = []
    forgotten: list[object] = []
    guard = journal._appender._guard
    bound = guard.cut_after

    def noted(connection: psycopg.Connection[Any], seconds: float) -> Any:
        bounds.append(seconds)
        return bound(connection, seconds)

    monkeypatch.setattr(guard, "cut_after", noted)
    monkeypatch.setattr(journal._stager, "_forget", forgotten.append)
    value = np.ones(LARGE, np.float32)
    live.assign([Write("large", SET, value)], lease_seconds=60.0)
    more = committing.COMMIT_SECONDS + 4 * LARGE / appending._BYTES_PER_SECOND
    # The turn; the lease; the values, the rows and the commit.
    assert bounds[2:5] == pytest.approx([more, more, more])
    assert bounds[5] == committing.COMMIT_SECONDS
    assert forgotten == []
    assert put(live, 2) == 2
