"""Calls whose turn would come too late are refused as soon as they come, and no others are."""

from __future__ import annotations

import time

import pytest

from varserve_service.core.errors import Reason, RequestError
from varserve_service.rpc.calls.load_shedding import LoadShedder


def paced(seconds: float) -> LoadShedder:
    pace = LoadShedder()
    for _ in range(200):
        pace.took(seconds)
    assert pace.seconds == pytest.approx(seconds)
    return pace


def refused(pace: LoadShedder, turns: float, left: float | None) -> RequestError | None:
    try:
        pace.check(turns, None if left is None else time.monotonic() + left, lambda: "here")
    except RequestError as error:
        return error
    return None


def test_a_turn_that_comes_too_late() -> None:
    """A call is told when there will be room; one with time enough, or without end, waits."""
    pace = paced(10.0)
    error = refused(pace, 3, 45)
    assert error is not None
    assert (error.reason, error.metadata) == (Reason.TOO_MANY_REQUESTS, {"retry_after": "30.000"})
    assert refused(pace, 3, 70) is None
    assert refused(pace, 3, None) is None


def test_who_need_not_wait_is_let_in() -> None:
    """However long turns took: only those that come now tell how long they take now."""
    assert refused(paced(1000.0), 0, 0.001) is None
    assert refused(LoadShedder(), 100, 0.001) is None


def test_the_mean_follows_the_last_turns() -> None:
    """After some tens of quick turns, slow ones from before count no more."""
    pace = paced(10.0)
    for _ in range(60):
        pace.took(0.01)
    assert pace.seconds < 0.05
