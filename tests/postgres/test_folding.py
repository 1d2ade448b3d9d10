"""How many commits a compaction of the log folds at once, and what it tells of that."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.postgres.conftest import Start
from tests.postgres.test_journal import add, count, make
from varserve_service.core.model.live_model import LiveModel
from varserve_service.journal import JournalOptions
from varserve_service.journal.postgres import compaction
from varserve_service.journal.postgres.schema import Connection

KEY = ("fake", 1)
OPTIONS = JournalOptions(history_commits=2)


@pytest.fixture
def live(database: str, replica: Start) -> LiveModel:
    live, _ = replica(database, make)
    for _ in range(6):
        add(live)
    return live


@pytest.fixture
def connection(database: str) -> Iterator[Connection]:
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


def horizon(connection: Connection) -> int:
    row = connection.execute("SELECT horizon FROM varserve_head").fetchone()
    assert row is not None
    return int(row[0])


def test_the_commits_that_are_folded_are_counted(live: LiveModel, connection: Connection) -> None:
    """All that are beyond the bound; the next time those that have come since, or none."""
    assert (compaction.compact(connection, KEY, OPTIONS), horizon(connection)) == (4, 4)
    assert compaction.compact(connection, KEY, OPTIONS) == 0
    for _ in range(3):
        add(live)
    assert (compaction.compact(connection, KEY, OPTIONS), horizon(connection)) == (3, 7)


def test_large_commits_are_folded_a_few_at_a_time(
    live: LiveModel, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their bytes, and one at least: writers wait no longer than for so many."""
    monkeypatch.setattr(compaction, "_BYTES_AT_ONCE", 0)
    assert [compaction.compact(connection, KEY, OPTIONS) for _ in range(5)] == [1, 1, 1, 1, 0]
    for _ in range(4):
        add(live)
    sizes = connection.execute("SELECT octet_length(payload) FROM varserve_log").fetchall()
    monkeypatch.setattr(compaction, "_BYTES_AT_ONCE", 2 * sizes[0][0])
    assert [compaction.compact(connection, KEY, OPTIONS) for _ in range(3)] == [2, 2, 0]


def test_a_replica_that_starts_behind_the_fold_has_everything(
    live: LiveModel, connection: Connection, database: str, replica: Start
) -> None:
    """However many folds there were."""
    while compaction.compact(connection, KEY, OPTIONS):
        add(live)
        if live.header.revision > 9:
            break
    late, journal = replica(database, make)
    assert journal.horizon > 4
    assert count(late) == live.header.revision
