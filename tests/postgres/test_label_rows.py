"""Labels as rows, by the port: what each question changes, and what a lost connection means."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from tests.locks import times_taken
from tests.waiting import until
from varserve_service.core.errors import StateStoreUnavailable
from varserve_service.core.ports.shared_labels import SharedLabel
from varserve_service.journal.postgres import PostgresState
from varserve_service.journal.postgres import labels as module
from varserve_service.journal.postgres.labels import LabelRows

MODEL = "m"


@pytest.fixture
def join(database: str) -> Iterator[Callable[[], LabelRows]]:
    """More replicas; all leave at the end."""
    joined: list[LabelRows] = []

    def start() -> LabelRows:
        joined.append(PostgresState(database).labels)
        joined[-1].begin({MODEL: {"stable": 1}})
        return joined[-1]

    yield start
    for labels in joined:
        labels.leave()
        labels._beating.join(20)
        assert not labels._beating.is_alive()


@pytest.fixture
def labels(join: Callable[[], LabelRows]) -> LabelRows:
    return join()


def replicas(database: str) -> list[Any]:
    with psycopg.connect(database) as connection:
        query = "SELECT replica, seen, models FROM varserve_replica ORDER BY models"
        return connection.execute(query).fetchall()


def test_the_first_replica_says_what_labels_mean(labels: LabelRows, database: str) -> None:
    """One that comes later finds them as they are, and both are known from their start on."""
    assert labels.all() == [SharedLabel(MODEL, "stable", 1, 1, 0)]
    late = PostgresState(database).labels
    late.begin({MODEL: {"stable": 2, "canary": 2}, "other": {"stable": 5}})
    assert labels.all() == [
        SharedLabel(MODEL, "stable", 1, 1, 0),
        SharedLabel("other", "stable", 5, 5, 0),
    ]
    assert [models for *_, models in replicas(database)] == [[MODEL], [MODEL, "other"]]
    assert not labels.is_alone(MODEL)
    assert not labels.is_alone("other")  # of the others
    late.leave()
    assert [each[0] for each in replicas(database)] == [labels._replica]
    assert labels.is_alone(MODEL)
    assert labels.is_alone("absent")


def test_a_label_moves_when_all_have_what_is_wanted(
    labels: LabelRows, join: Callable[[], LabelRows]
) -> None:
    """Those that serve the model; each attempt has a number."""
    other = join()
    assert [labels.want(MODEL, "stable", 2), labels.want(MODEL, "canary", 3)] == [1, 1]
    labels.say([(MODEL, 2), (MODEL, 3), ("more", 1)], {})
    other.say([(MODEL, 1)], {})
    labels.move()
    assert [label.current for label in labels.all()] == [None, 1]
    other.say([(MODEL, 2)], {})
    labels.move()
    assert labels.all() == [
        SharedLabel(MODEL, "canary", 3, None, 1),
        SharedLabel(MODEL, "stable", 2, 2, 1),
    ]
    assert labels.want(MODEL, "stable", 4) == 2
    assert not other.is_alone("more")


def test_a_label_that_moves_nowhere_is_what_it_was(labels: LabelRows) -> None:
    """A new one goes; another version that is wanted meanwhile stays."""
    labels.want(MODEL, "stable", 2)
    labels.want(MODEL, "canary", 2)
    for name in ("stable", "canary"):
        labels.give_up(MODEL, name, 7)
    assert [label.wanted for label in labels.all()] == [2, 2]
    for name in ("stable", "canary"):
        labels.give_up(MODEL, name, 2)
    assert labels.all() == [SharedLabel(MODEL, "stable", 1, 1, 1)]


def test_labels_are_taken_away_and_replaced(labels: LabelRows) -> None:
    """One of a model, or all of them; those of other models stay."""
    labels.replace("other", {"stable": 9})
    labels.replace(MODEL, {"stable": 3, "canary": 4})
    labels.remove(MODEL, "canary")
    meanings = [(label.model, label.label, label.current) for label in labels.all()]
    assert meanings == [(MODEL, "stable", 3), ("other", "stable", 9)]
    labels.remove(MODEL, None)
    assert [label.model for label in labels.all()] == ["other"]


def test_why_a_version_could_not_be_loaded(
    labels: LabelRows, join: Callable[[], LabelRows]
) -> None:
    """At whichever replica, of this attempt alone."""
    join().say([], {(MODEL, 2, 1): "it is bad"})
    assert labels.failures((MODEL, 2, 1)) == ["it is bad"]
    assert labels.failures((MODEL, 2, 2)) == []
    assert labels.failures((MODEL, 3, 1)) == []


def test_a_replica_says_that_it_lives(
    join: Callable[[], LabelRows], database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself, and again when the database was away; not after it has left."""
    monkeypatch.setattr(module, "_BEAT_SECONDS", 0.02)
    labels = join()

    def seen() -> Any:
        return replicas(database)[0][1]

    first = seen()
    until(lambda: seen() > first)
    connect, failed = labels._connector.connect, []

    def away() -> Any:
        failed.append(1)
        raise psycopg.OperationalError("away")

    monkeypatch.setattr(labels._connector, "connect", away)
    with labels._one_at_a_time:
        labels._drop()
    until(lambda: len(failed) > 1)
    monkeypatch.setattr(labels._connector, "connect", connect)
    again = seen()
    until(lambda: seen() > again)
    labels.leave()
    assert (replicas(database), labels._open) == ([], None)
    assert labels._beating.join(20) is None
    assert labels._open is None


def test_who_leaves_need_not_reach_the_database(
    labels: LabelRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not waited for after some seconds."""

    def away() -> Any:
        raise psycopg.OperationalError("away")

    monkeypatch.setattr(labels._connector, "connect", away)
    with labels._one_at_a_time:
        labels._drop()
    labels.leave()
    assert labels._left.is_set()


def test_a_connection_that_ended_is_made_again_once(
    labels: LabelRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question comes twice at most: then its caller is told that the database is away."""
    labels._left.set()
    labels._beating.join(20)
    assert len(labels.all()) == 1
    assert labels._open is not None
    labels._open.close()
    assert len(labels.all()) == 1
    connect, tries = labels._connector.connect, []

    def away() -> Any:
        tries.append(1)
        assert len(tries) < 9, "it goes on and on"
        raise psycopg.OperationalError("away")

    monkeypatch.setattr(labels._connector, "connect", away)
    labels._open.close()
    for expected in (1, 2):
        with pytest.raises(StateStoreUnavailable, match="cannot be reached"):
            labels.all()
        assert len(tries) == expected
    monkeypatch.setattr(labels._connector, "connect", connect)
    assert len(labels.all()) == 1


def test_a_replica_that_leaves_while_it_says_that_it_lives(
    labels: LabelRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection that is made for it then is closed, too."""
    ask, says, connected = labels._ask, threading.Event(), []
    connect = labels._connector.connect

    def asking(*arguments: Any) -> Any:
        says.set()
        return ask(*arguments)

    def connecting() -> Any:
        connected.append(connect())
        return connected[-1]

    monkeypatch.setattr(labels, "_ask", asking)
    monkeypatch.setattr(labels._connector, "connect", connecting)
    with labels._one_at_a_time:
        assert says.wait(20)
        labels._left.set()
        labels._drop()
    labels._beating.join(20)
    assert (labels._open, [each.closed for each in connected]) == (None, [True])


def test_one_question_at_a_time(labels: LabelRows) -> None:
    """Of all threads, by one connection; the last who leaves closes it under the lock."""
    assert times_taken(labels, "_one_at_a_time", labels.all) == 1
    assert times_taken(labels, "_one_at_a_time", labels.leave) == 2
