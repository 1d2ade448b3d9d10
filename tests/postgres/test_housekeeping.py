"""When a replica looks after the log and the others, how long it may take, and how it ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.postgres.conftest import Start
from tests.postgres.test_journal import make
from tests.waiting import until
from varserve_service.journal import JournalOptions
from varserve_service.journal.postgres import housekeeping
from varserve_service.journal.postgres.connection import Connector
from varserve_service.journal.postgres.housekeeping import Housekeeper

KEY = ("fake", 1)
OPTIONS = JournalOptions(commit_bytes=50_000_000)


class News(threading.Event):
    """Notes how long it is waited for, and does not let anybody wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waits.append(timeout)
        return super().wait(min(timeout, 0.01))


@pytest.fixture
def keeper(database: str, replica: Start) -> Iterator[Housekeeper]:
    replica(database, make)[0].close()
    keeper = Housekeeper(Connector(database), KEY, OPTIONS)
    yield keeper
    keeper.close()
    if keeper._thread.ident is not None:
        keeper._thread.join(20)
    assert not keeper._thread.is_alive()


def test_the_log_is_looked_at_each_period(
    keeper: Housekeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first time at a moment of its own within one: replicas that start together differ."""
    clock = SimpleNamespace(now=1000.0, monotonic=lambda: clock.now)
    news, looks = News(), []
    monkeypatch.setattr(housekeeping, "time", clock)
    monkeypatch.setattr(housekeeping, "_LOOK_SECONDS", 100.0)
    monkeypatch.setattr(housekeeping.random, "random", lambda: 0.4)
    monkeypatch.setattr(housekeeping.compaction, "is_due", lambda *_: looks.append(1))
    keeper._is_due = news
    keeper.start()
    until(lambda: len(news.waits) > 2)
    assert (set(news.waits), looks) == ({40.0}, [])
    clock.now = 1040.0
    until(lambda: news.waits[-1] == 100.0)
    assert len(looks) == 1
    clock.now = 1141.0
    until(lambda: len(looks) == 2)


def test_a_close_ends_the_thread_at_once(
    keeper: Housekeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not wait until it would look at the log again."""
    monkeypatch.setattr(housekeeping, "_LOOK_SECONDS", 1000.0)
    monkeypatch.setattr(housekeeping.random, "random", lambda: 1.0)
    keeper.start()
    keeper.close()
    keeper._thread.join(20)
    assert not keeper._thread.is_alive()


def test_what_was_staged_for_nothing_goes_soon(
    keeper: Housekeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of the names together, and without names nothing is swept."""
    swept: list[tuple[float, list[str]]] = []

    def sweep(connection: Any, key: Any, seconds: float, names: Any = None) -> int:
        swept.append((seconds, names))
        return 0

    monkeypatch.setattr(housekeeping.blobs, "sweep", sweep)
    monkeypatch.setattr(housekeeping, "_LOOK_SECONDS", 1000.0)
    monkeypatch.setattr(housekeeping.random, "random", lambda: 1.0)
    keeper.forget(["a", "b"])
    keeper.start()
    until(lambda: swept)
    assert swept == [(0, ["a", "b"])]
    keeper._is_due.set()
    until(lambda: not keeper._is_due.is_set())
    keeper.forget(["c"])
    until(lambda: len(swept) > 1)
    assert swept[1:] == [(0, ["c"])]


def test_a_compaction_folds_until_nothing_is_left(
    keeper: Housekeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time with the seconds that the largest commit may take."""
    bounds: list[float] = []
    bound = housekeeping.cut_after

    def noted(connection: Any, seconds: float) -> Any:
        bounds.append(seconds)
        return bound(connection, seconds)

    left = [2, 1, 0]
    monkeypatch.setattr(housekeeping, "cut_after", noted)
    monkeypatch.setattr(housekeeping.compaction, "compact", lambda *_: left.pop(0))
    keeper.compact()
    assert (left, bounds) == ([], [65.0] * 3)
