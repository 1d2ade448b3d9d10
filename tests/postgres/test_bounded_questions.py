"""No question to the database is waited for without a bound, whoever asks it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import psycopg
import pytest

from tests.core.test_live_model import ADD, SET, refusal
from tests.postgres.conftest import Replica, Start
from tests.postgres.large import LARGE, add, made, put
from tests.waiting import until
from varserve_service.core.change.writes import Write
from varserve_service.core.ports.commits import WriteRequest
from varserve_service.core.ports.journal import Position
from varserve_service.core.ports.messages import Conditions
from varserve_service.core.values.host_value import HostValue
from varserve_service.journal.postgres import (
    checks,
    connection,
    housekeeping,
    labels,
    leases,
    probing,
    staging,
)
from varserve_service.journal.postgres.guard import Guard
from varserve_service.journal.postgres.labels import LabelRows

Bound = Callable[..., AbstractContextManager[None]]


class Asked:
    """The statements that were asked within a bound, and those that were not."""

    def __init__(self) -> None:
        self.bounded: list[str] = []
        self.unbounded: list[str] = []
        self._bounds: dict[int, int] = {}

    def within(self, bound: Bound) -> Bound:
        """The same, noted."""

        @contextmanager
        def noted(*arguments: Any) -> Iterator[None]:
            asked = id(arguments[-2])
            with bound(*arguments):
                self._bounds[asked] = self._bounds.get(asked, 0) + 1
                try:
                    yield
                finally:
                    self._bounds[asked] -= 1

        return noted

    def note(self, connection: object, query: object) -> None:
        kind = self.bounded if self._bounds.get(id(connection)) else self.unbounded
        kind.append(" ".join(str(query).split()))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What is asked from now on, by any connection."""
    asked = Asked()
    monkeypatch.setattr(housekeeping, "_LOOK_SECONDS", 0.2)
    execute = psycopg.Cursor.execute

    def noting(cursor: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        asked.note(cursor.connection, query)
        return execute(cursor, query, *arguments, **options)

    monkeypatch.setattr(psycopg.Cursor, "execute", noting)
    monkeypatch.setattr(Guard, "cut_after", asked.within(Guard.cut_after))
    bound = asked.within(connection.cut_after)
    modules: list[ModuleType] = [
        *(checks, connection, housekeeping, labels, leases, probing, staging)
    ]
    for module in modules:
        monkeypatch.setattr(module, "cut_after", bound)
    return asked


@pytest.fixture
def taken_up(database: str, replica: Start, asked: Asked) -> Callable[..., Replica]:
    """What is asked until it is taken up does not count: it may take long, and is killed then."""

    def start(**options: Any) -> Replica:
        one = replica(database, made, **options)
        asked.unbounded.clear()
        return one

    return start


@pytest.fixture
def one(taken_up: Callable[..., Replica]) -> Replica:
    return taken_up()


def test_commits(one: Replica, asked: Asked) -> None:
    """Small and large, with a lease, refused, asked for again, and undecided."""
    live, journal = one
    request = WriteRequest("r", b"")
    for _ in range(2):
        add(live)
        live.assign([Write("count", ADD, np.ones((), np.int64))], request=request)
    lease = put(live, 7, lease_seconds=60.0)
    refusal(add_if, live)
    live.leases.renew(lease)
    live.leases.revoke(lease)
    journal._appender.last_append = ""
    happened, missed = journal.resolve(Position(0, ""))
    assert (happened, len(missed)) == (False, live.header.revision)
    said = " ".join(asked.bounded)
    for part in ("BEGIN", "INSERT INTO varserve_log", "COMMIT", "ROLLBACK", "varserve_lease SET"):
        assert part in said
    assert asked.unbounded == []


def add_if(live: Any) -> Any:
    writes = [Write("count", ADD, np.ones((), np.int64))]
    return live.assign(writes, conditions=Conditions(model_revision=99))


def test_what_others_committed(one: Replica, asked: Asked) -> None:
    """Small and large, found by who follows, who writes, and who asks for the newest."""
    live, journal = one
    position = live._parts.committer.position
    put(live, 7)
    add(live)
    until(lambda: any("LISTEN" in query for query in asked.bounded))
    asked.bounded.clear()
    with journal.turn(position, None, sure=True) as turn:
        assert [each.revision for each in turn.missed] == [1, 2]
    assert journal.newest(position).revision == 2
    assert any("varserve_chunk" in query for query in asked.bounded)
    assert any("pg_logical_emit_message" in query for query in asked.bounded)
    assert asked.unbounded == []


def test_upkeep(taken_up: Callable[..., Replica], asked: Asked) -> None:
    """What was staged for nothing, what is old, and compaction."""
    live, journal = taken_up(history_commits=1)
    for _ in range(3):
        add(live)
    put(live, 7)
    journal.stage({"large": HostValue(np.ones(LARGE, np.float32))}, None).discard()
    journal.stage({"large": HostValue(np.ones(LARGE, np.float32))}, None)
    journal.sweep(0)
    journal.compact()
    parts = ("FROM varserve_blob", "LIMIT 1", "AS sizes", "varserve_base", "horizon = ")
    until(lambda: all(any(part in query for query in asked.bounded) for part in parts))
    assert asked.unbounded == []


def test_leases_rounds_and_labels(one: Replica, asked: Asked) -> None:
    """Whatever one of them is asked."""
    live, journal = one
    lease = live.assign([Write("count", SET, np.int64(3))], lease_seconds=60.0).header.revision
    journal.leases.count()
    journal.leases.due()
    journal.leases.is_due(lease)
    journal.leases.held(lease)
    journal.leases.beside(lease)
    assert journal.check_round() is not None
    journal.report(1, {})
    journal.reports(1)
    labels = LabelRows(journal._connector)
    labels.begin({"fake": {"stable": 1}})
    labels.all()
    labels.want("fake", "stable", 2)
    labels.move()
    labels.leave()
    parts = ("varserve_lease", "varserve_round", "varserve_report", "varserve_label", "DELETE FROM")
    assert all(any(part in query for query in asked.bounded) for part in parts)
    assert asked.unbounded == []
