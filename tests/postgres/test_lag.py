"""How far behind the log a replica says that it is."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.postgres.test_journal import Start, add, make
from varserve_service.core.ports.journal import Position
from varserve_service.journal.postgres import reading
from varserve_service.journal.postgres.connection import Connector
from varserve_service.journal.postgres.following import Listener

KEY = ("fake", 1)
COMMITS = 5
PAUSE = 0.05


@pytest.fixture
def listener(database: str, replica: Start, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    """Of a log of five commits, two of which are read at a time."""
    live, _ = replica(database, make)
    for _ in range(COMMITS):
        add(live)
    monkeypatch.setattr(reading, "AT_ONCE", 2)
    listener = Listener(Connector(database), KEY)
    yield listener
    listener.close()


def test_a_replica_is_behind_until_it_has_taken_all(listener: Listener) -> None:
    """Infinitely until it had all once; then by its age when the log was read last."""
    known = Position(0)
    while known.revision < COMMITS:
        assert listener.standing.behind_seconds == float("inf")
        known = listener.news(known)[-1].position
    assert listener.standing.behind_seconds == float("inf")  # the last are not taken yet
    assert not listener.news(known)
    assert listener.standing.behind_seconds < PAUSE
    time.sleep(PAUSE)
    # While it is silent nothing is known of how far behind it is.
    standing = listener.standing
    assert standing.silent_seconds > PAUSE > standing.behind_seconds


def test_commits_that_are_not_taken_keep_a_replica_behind(listener: Listener) -> None:
    """By more and more, whether it reads or not, until they are taken."""
    first = Position(0)
    known = first
    while commits := listener.news(known):
        known = commits[-1].position
    handed = listener.news(first)
    time.sleep(PAUSE)
    before = listener.standing.behind_seconds
    assert before > PAUSE
    assert [c.revision for c in listener.news(first)] == [c.revision for c in handed]
    assert listener.standing.behind_seconds > before
    listener.news(known)
    assert listener.standing.behind_seconds < PAUSE
