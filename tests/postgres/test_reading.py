"""What comes after a position in the log of all replicas, and when that cannot be told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from tests.postgres.test_journal import Start, add, make
from tests.postgres.test_large_values import LARGE, made, put
from tests.postgres.test_large_values import add as add_to
from varserve_service.core.errors import JournalError
from varserve_service.core.ports.journal import Position
from varserve_service.journal.postgres import reading
from varserve_service.journal.postgres.blobs import BlobReader
from varserve_service.journal.postgres.head import HEAD
from varserve_service.journal.postgres.reading import rows_after
from varserve_service.journal.postgres.rows import LogRow
from varserve_service.journal.postgres.schema import Connection
from varserve_service.journal.records import Row

KEY = ("fake", 1)
COMMITS, HORIZON = 8, 4


@pytest.fixture
def log(database: str, replica: Start) -> Iterator[tuple[Connection, dict[int, Position]]]:
    """A log of eight commits, the first four of them folded, and the position of each."""
    live, journal = replica(database, make, history_commits=COMMITS - HORIZON)
    positions = {0: Position(0)}
    for number in range(1, COMMITS + 1):
        add(live)
        positions[number] = live._parts.committer.position
    journal.compact()
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection, positions


def revisions(connection: Connection, known: Position, *, headed: bool) -> list[int]:
    head = connection.execute(HEAD, KEY).fetchone() if headed else None
    return [row.revision for row in rows_after(connection, KEY, known, head)]


@pytest.mark.parametrize("headed", [False, True])
def test_the_commits_after_each_position(
    log: tuple[Connection, dict[int, Position]], headed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the horizon on, and in pages."""
    connection, positions = log
    for known in range(HORIZON, COMMITS + 1):
        expected = list(range(known + 1, COMMITS + 1))
        assert revisions(connection, positions[known], headed=headed) == expected
    monkeypatch.setattr(reading, "AT_ONCE", 3)
    assert revisions(connection, positions[5], headed=headed) == [6, 7]


@pytest.mark.parametrize("headed", [False, True])
def test_a_position_that_the_log_does_not_have(
    log: tuple[Connection, dict[int, Position]], headed: bool
) -> None:
    """Of another fork, behind the horizon, or after the end: the replica is told so."""
    connection, positions = log
    for known, said in (
        (replace(positions[6], append="another"), "is not the one in the database"),
        (replace(positions[HORIZON], append="another"), "is not in the database any more"),
        (replace(positions[COMMITS], append="another"), "is not the one in the database"),
        (positions[HORIZON - 1], "is not in the database any more"),
        (positions[0], "is not in the database any more"),
        (Position(COMMITS + 1, "lost"), "is not in the database any more"),
    ):
        with pytest.raises(JournalError, match=said):
            revisions(connection, known, headed=headed)


def test_a_log_with_a_gap(log: tuple[Connection, dict[int, Position]]) -> None:
    """What is missing in between is named."""
    connection, positions = log
    connection.execute("DELETE FROM varserve_log WHERE revision = 6")
    assert revisions(connection, positions[7], headed=False) == [8]
    with pytest.raises(JournalError, match="goes on at 7, expected 6"):
        revisions(connection, positions[5], headed=False)


@pytest.mark.parametrize(
    ("sizes", "more"),
    [((0, 0), False), ((0, 0, 0), True), ((4, 5), False), ((4, 6), True), ((), False)],
)
def test_whether_there_may_be_more(
    sizes: tuple[int, ...], more: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many rows as are read at once, the one at the position too, or as many bytes."""
    monkeypatch.setattr(reading, "AT_ONCE", 4)
    monkeypatch.setattr(reading, "PAGE_BYTES", 10)
    rows: list[Any] = [LogRow(1, "", Row("", {}, bytes(size))) for size in sizes]
    assert reading.may_be_more(rows) is more


def test_large_values_are_read_some_at_a_time(
    database: str, replica: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At least one commit's, at one moment, and in a time by their bytes."""
    live, _ = replica(database, made)
    for number in (1, 2, 3):
        put(live, number)
    bounds: list[float] = []
    levels: list[Any] = []
    read = BlobReader.read

    def reads(reader: BlobReader, record: Any, payload: bytes) -> Any:
        if reader._connection is connection:  # and not the replica's, which follows
            levels.append(connection.execute("SHOW transaction_isolation").fetchone())
        return read(reader, record, payload)

    @contextmanager
    def bound(connection: Connection, seconds: float) -> Iterator[None]:
        bounds.append(seconds)
        yield

    with psycopg.connect(database, autocommit=True) as connection, monkeypatch.context() as noting:
        noting.setattr(BlobReader, "read", reads)
        rows = rows_after(connection, KEY, Position(0))
        for nbytes, expected in ((0, [1]), (8 * LARGE - 1, [1]), (8 * LARGE, [1, 2])):
            monkeypatch.setattr(reading, "_BLOB_BYTES_AT_ONCE", nbytes)
            commits = reading.commits_after(connection, KEY, Position(0), rows, bound)
            assert [commit.revision for commit in commits] == expected
        noting.undo()
        assert set(levels) == {("repeatable read",)}
        add_to(live)
        rows = rows_after(connection, KEY, commits[1].position)[1:]
        assert [row.revision for row in rows] == [4]
        small = reading.commits_after(connection, KEY, Position(0), rows, bound)
    assert [commit.revision for commit in small] == [4]
    assert bounds == [pytest.approx(reading._SECONDS + 12 * LARGE / 10e6)] * 3
