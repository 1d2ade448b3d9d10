"""What comes after a position in the log of all replicas, and when that cannot be told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest

from tests.postgres.test_journal import Start, add, make
from varserve_service.core.errors import JournalError
from varserve_service.core.ports.journal import Position
from varserve_service.journal.postgres import reading
from varserve_service.journal.postgres.head import HEAD
from varserve_service.journal.postgres.reading import rows_after
from varserve_service.journal.postgres.schema import Connection

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
