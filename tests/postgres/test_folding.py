"""How many commits a compaction of the log folds at once, and what it tells of that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psycopg
import pytest

from tests.core.test_live_model import ADD, SET, value_of
from tests.fakes import FakeModel, FakeVariable
from tests.postgres.conftest import Start
from tests.postgres.large import add as add_to
from tests.postgres.large import made, put
from tests.postgres.test_journal import add, count, make
from varserve_service.core.arrays.regions import Rows
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import JournalError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.journal import JournalOptions
from varserve_service.journal.postgres import blobs, compaction
from varserve_service.journal.postgres.schema import Connection

KEY = ("fake", 1)
OPTIONS = JournalOptions(history_commits=2)
HALF = 700 * 2**10 // 4
"""Elements of a value that shares a blob with another one."""


def two_halves() -> FakeModel:
    return FakeModel([FakeVariable(name, np.zeros(HALF, np.float32)) for name in ("one", "other")])


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


LARGE = JournalOptions(history_commits=1, blob_seconds=0.0)


def test_large_rows_are_laid_over_the_base(
    database: str, replica: Start, connection: Connection
) -> None:
    """They have a blob of their own, and are not the whole value."""
    live, _ = replica(database, made)
    live.assign([Write("table", SET, np.full((300, 1024), 5, np.float32))])
    for number in (1, 2):
        assert add_to(live) == 2 * number
        assert compaction.compact(connection, KEY, LARGE) > 0
        rows = Rows(np.arange(299))
        live.assign([Write("table", SET, np.full((299, 1024), number, np.float32), rows)])
    assert add_to(live) == 6
    assert compaction.compact(connection, KEY, LARGE) == 2
    late, journal = replica(database, made)
    assert journal.horizon == 5
    assert value_of(late, "table")[:, 0].tolist() == [2] * 299 + [5]


def test_of_values_written_over_the_last_is_not_written_once_more(
    database: str, replica: Start, connection: Connection
) -> None:
    """Its blob becomes the base's, and those before it go."""
    live, _ = replica(database, made)
    for number in (1, 2):
        put(live, number)
    add_to(live)
    query = "SELECT blob FROM varserve_blob WHERE revision = 2"
    last = connection.execute(query).fetchall()
    options = JournalOptions(history_commits=1, blob_seconds=0.0)
    assert (compaction.compact(connection, KEY, options), horizon(connection)) == (2, 2)
    assert connection.execute("SELECT blob FROM varserve_blob").fetchall() == last
    late, _ = replica(database, made)
    assert value_of(late, "large")[-1] == 2


def test_values_that_share_a_blob_do_not_share_their_end(
    database: str, replica: Start, connection: Connection
) -> None:
    """One of them is replaced, and the other is still there."""
    live, _ = replica(database, two_halves)
    live.assign([Write(name, SET, np.full(HALF, 7, np.float32)) for name in ("one", "other")])
    live.assign([Write("one", SET, np.full(HALF, 8, np.float32))])
    assert compaction.compact(connection, KEY, LARGE) == 1
    live.assign([Write("one", SET, np.full(HALF, 9, np.float32))])
    assert compaction.compact(connection, KEY, LARGE) == 1
    late, journal = replica(database, two_halves)
    assert journal.horizon == 2
    assert (value_of(late, "other") == 7).all()
    assert (value_of(late, "one") == 9).all()


@pytest.fixture
def folded(
    database: str, replica: Start, connection: Connection
) -> Callable[[], list[tuple[Any, ...]]]:
    """Three commits, of which a compaction writes a large value; what is in the database."""
    live, _ = replica(database, made)
    live.assign([Write("table", SET, np.ones((300, 1024), np.float32))])
    live.assign([Write("table", ADD, np.ones((1, 1024), np.float32), Rows(np.array([3])))])
    add_to(live)

    def found() -> list[tuple[Any, ...]]:
        query = "SELECT revision, nbytes FROM varserve_blob ORDER BY revision, nbytes"
        return [
            *connection.execute(query),
            *connection.execute("SELECT horizon FROM varserve_head"),
        ]

    return found


def test_what_was_swept_while_it_was_folded(
    folded: Callable[[], list[tuple[Any, ...]]],
    connection: Connection,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The base does not name it: nothing is changed, and the next time goes through."""
    before, fold = folded(), compaction._fold

    def slowly(*arguments: Any) -> Any:
        base = fold(*arguments)
        with psycopg.connect(database, autocommit=True) as other:
            assert blobs.sweep(other, KEY, 0) == 1
        return base

    with monkeypatch.context() as patched:
        patched.setattr(compaction, "_fold", slowly)
        with pytest.raises(JournalError, match="what it had staged was swept"):
            compaction.compact(connection, KEY, LARGE)
    assert folded() == before
    assert compaction.compact(connection, KEY, LARGE) == 2
    assert folded() == [(0, 300 * 4096), (2,)]


def test_what_was_staged_goes_with_a_compaction_that_fails(
    folded: Callable[[], list[tuple[Any, ...]]],
    connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that went through has nothing to sweep."""
    swept: list[Any] = []
    sweep, fold, before = compaction.sweep, compaction._fold, folded()

    def noted(*arguments: Any) -> int:
        swept.append(arguments[-1])
        return sweep(*arguments)

    def fails(*arguments: Any) -> None:
        fold(*arguments)
        raise JournalError("it ends here")

    monkeypatch.setattr(compaction, "sweep", noted)
    with monkeypatch.context() as patched:
        patched.setattr(compaction, "_fold", fails)
        with pytest.raises(JournalError, match="it ends here"):
            compaction.compact(connection, KEY, LARGE)
    assert ([len(names) for names in swept], folded()) == ([1], before)
    assert compaction.compact(connection, KEY, LARGE) == 2
    assert len(swept) == 1


def test_a_connection_that_goes_while_values_are_folded(
    folded: Callable[[], list[tuple[Any, ...]]],
    connection: Connection,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was the matter is told; what was staged is swept when it is old."""
    fold = compaction._fold

    def ends(given: Connection, *arguments: Any) -> None:
        fold(given, *arguments)
        given.close()
        raise JournalError("it ends here")

    monkeypatch.setattr(compaction, "_fold", ends)
    with (
        psycopg.connect(database, autocommit=True) as other,
        pytest.raises(JournalError, match="it ends here"),
    ):
        compaction.compact(other, KEY, LARGE)
    assert len(folded()) == 3
    assert blobs.sweep(connection, KEY, 0) == 1
