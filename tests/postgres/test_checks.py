"""Rounds in which replicas compare their values, through the port."""

from __future__ import annotations

import psycopg
import pytest

from tests.postgres.conftest import Replica, Start
from tests.postgres.test_journal import add, make
from varserve_service.core.errors import JournalClosed, StateStoreUnavailable
from varserve_service.journal.postgres.checks import Checks
from varserve_service.journal.postgres.connection import Connector

KEY = ("fake", 1)


@pytest.fixture
def one(database: str, replica: Start) -> Replica:
    live, journal = replica(database, make)
    add(live)
    return live, journal


def checks(database: str, seconds: float = 600.0) -> Checks:
    return Checks(Connector(database), KEY, seconds)


def test_a_round_is_of_one_revision_for_all(one: Replica, database: str) -> None:
    """Whoever looks first begins it; who has reported has nothing to do until the next one."""
    first, second = checks(database), checks(database)
    assert first.round() == (1, 1)
    add(one[0])
    assert second.round() == (1, 1)
    first.report(1, {"count": "aa"})
    assert first.round() is None
    assert second.round() == (1, 1)
    second.report(1, {"count": "bb"})
    second.report(1, {"count": "cc"})  # once for each replica
    assert sorted(report["count"] for report in first.reports(1)) == ["aa", "bb"]
    assert first.reports(2) == []


def test_the_next_round_begins_when_it_is_due(one: Replica, database: str) -> None:
    """Of the revision of then; the reports of the last one are forgotten."""
    first = checks(database, 60.0)
    assert first.round() == (1, 1)
    first.report(1, {"count": "aa"})
    add(one[0])
    with psycopg.connect(database, autocommit=True) as connection:
        move = "UPDATE varserve_round SET began = clock_timestamp() - interval '%s seconds'"
        connection.execute(move % 59)
        assert first.round() is None
        connection.execute(move % 61)
        assert first.round() == (2, 2)
        assert len(first.reports(1)) == 1
        first.report(2, {"count": "bb"})
        assert first.reports(1) == []
        assert [dict(report) for report in first.reports(2)] == [{"count": "bb"}]
        began = "SELECT began > clock_timestamp() - interval '30 seconds' FROM varserve_round"
        assert connection.execute(began).fetchone() == (True,)


def test_a_database_that_cannot_be_asked(
    one: Replica, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller is told, no connection is left open, and after a close it is the end."""
    first = checks(database)
    opened: list[psycopg.Connection] = []
    connect = first._connector.connect

    def noted() -> object:
        opened.append(connect())  # type: ignore[arg-type]
        return opened[-1]

    monkeypatch.setattr(first._connector, "connect", noted)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DROP TABLE varserve_round")
    with pytest.raises(StateStoreUnavailable, match="cannot be asked"):
        first.round()
    assert [each.closed for each in opened] == [True]

    def away() -> object:
        raise psycopg.OperationalError("away")

    monkeypatch.setattr(first._connector, "connect", away)
    with pytest.raises(StateStoreUnavailable, match="cannot be reached"):
        first.round()
    first.close()
    with pytest.raises(JournalClosed):
        first.round()
