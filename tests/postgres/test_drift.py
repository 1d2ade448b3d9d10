"""A replica whose values are not those of the others finds out, names them, and ends."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from tests.core.test_live_model import SET, array, value_of
from tests.fakes import FakeModel, FakeVariable
from tests.postgres.conftest import Start
from tests.waiting import until
from varserve_service.core.change.writes import Write

EVERY = 0.4


def made() -> FakeModel:
    return FakeModel(
        [
            FakeVariable("a", array(1, 2, 3)),
            FakeVariable("b", array(10, 20)),
            FakeVariable("unset", None, shape=(1,)),
        ]
    )


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Why replicas ended."""
    found: list[str] = []
    monkeypatch.setattr(
        "varserve_service.journal.postgres.journal.end_process",
        lambda what, error, why: found.append(str(error)),
    )
    return found


def test_a_drifted_replica_ends_and_has_the_values_again(
    database: str, replica: Start, ended: list[str]
) -> None:
    """One bit of one variable of one of three: only that one ends; its next start is right."""
    models = [made() for _ in range(3)]
    lives = [
        replica(database, lambda model=model: model, check_seconds=EVERY)[0] for model in models
    ]
    lives[0].assign([Write("a", SET, array(4, 5, 6))])
    until(lambda: all(live.header.revision == 1 for live in lives))
    time.sleep(3 * EVERY)  # rounds in which all agree
    assert not ended
    drifted = next(v for v in models[1].variables if v.spec.name == "b")
    broken = np.array(drifted.array)
    broken.view(np.uint32)[0] ^= 1
    drifted.array = broken
    until(lambda: ended)
    assert len(ended) == 1
    assert "the values of b are not those of 2 of 3 replicas" in ended[0]
    lives[1].close()
    again, _ = replica(database, made, check_seconds=EVERY)
    until(lambda: again.header.revision == 1)
    time.sleep(3 * EVERY)
    assert len(ended) == 1
    assert value_of(again, "b").tolist() == [10, 20]


def test_commits_meanwhile_are_no_drift(database: str, replica: Start, ended: list[str]) -> None:
    """Replicas hash at one revision, however far each is."""
    lives: list[Any] = [replica(database, made, check_seconds=EVERY)[0] for _ in range(3)]
    until_then = time.monotonic() + 8 * EVERY
    number = 0
    while time.monotonic() < until_then or number <= 20:
        number += 1
        lives[number % 3].assign([Write("a", SET, array(number, 0, 1))])
    assert not ended
