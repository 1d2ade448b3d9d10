"""Leases that several processes look after: the first ends them, and no failure holds up others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from tests.core.shared_log import Leases
from tests.waiting import until
from varserve_service.core.commit import shared_leases as module
from varserve_service.core.commit.leases import lease_not_found
from varserve_service.core.commit.shared_leases import SharedLeases
from varserve_service.core.errors import JournalClosed, OutOfMemory, StateStoreUnavailable
from varserve_service.core.ports.shared_journal import KeptHeld, LeaseChange

HELD = (KeptHeld("a", 1, 0, None, np.zeros(3, np.float32)),)


def granted(kept: Leases, *leases: int, seconds: float = 0.001) -> None:
    kept.change([LeaseChange(lease, HELD, seconds) for lease in leases])


@contextmanager
def looked_after(kept: Any, expire: Callable[[int], object]) -> Iterator[SharedLeases]:
    """Leases with their thread, which ends with the block."""
    before = set(threading.enumerate())
    shared = SharedLeases(kept, {}, expire, "fake")
    (thread,) = set(threading.enumerate()) - before
    try:
        yield shared
    finally:
        shared.clear()
        thread.join(10)
        assert not thread.is_alive()


def test_a_lease_that_cannot_be_ended_holds_up_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """The log has the reason once; that another process was faster is no failure."""
    kept, ended = Leases(), []
    granted(kept, 1, 2, 3)

    def expire(lease: int) -> None:
        ended.append(lease)
        if lease == 1:
            raise OutOfMemory("no room")
        kept.change([LeaseChange(lease, None)])
        if lease == 2:
            raise lease_not_found(lease)

    time.sleep(0.01)
    with looked_after(kept, expire) as shared:
        until(lambda: len(ended) == 3)
        for number in range(3):
            shared.grant(9, 0.0, (), {})  # has it look again
            until(lambda number=number: len(ended) >= 4 + number)
    assert ended[:4] == [1, 2, 3, 1]
    said = "model 'fake': lease 1 could not be ended; tried again: OutOfMemory: no room"
    assert caplog.messages == [said]


def test_leases_that_cannot_be_looked_at_are_looked_at_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the failure; the log has it once for as long as it lasts."""
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.0)
    away = [StateStoreUnavailable("away")] * 2 + [ValueError("a defect")]
    looks: list[int] = []

    class Failing(Leases):
        def due(self) -> tuple[Sequence[int], float | None]:
            looks.append(1)
            if away:
                raise away.pop(0)
            if len(looks) < 9:
                return [], None
            raise JournalClosed

    with looked_after(Failing(), lambda lease: None):
        until(lambda: len(looks) == 9)
    start = "model 'fake': its leases could not be looked after; tried again:"
    assert caplog.messages == [
        f"{start} StateStoreUnavailable: away",
        f"{start} ValueError: a defect",
    ]


def test_the_store_of_leases_that_goes_is_not_asked_for_each() -> None:
    """What cannot be written for one lease cannot be written for the next."""
    kept, ended = Leases(), []
    granted(kept, 1, 2)

    def expire(lease: int) -> None:
        ended.append(lease)
        raise StateStoreUnavailable("away")

    time.sleep(0.01)
    with looked_after(kept, expire):
        until(lambda: ended)
    assert ended == [1]


def test_the_end_of_a_lease_is_not_missed() -> None:
    """Known to another process alone, it ends within a second; known here, when its time comes."""
    kept, ended = Leases(), []

    def expire(lease: int) -> None:
        kept.change([LeaseChange(lease, None)])
        ended.append((lease, time.monotonic()))

    with looked_after(kept, expire) as shared:
        time.sleep(0.05)  # it has looked, and found nothing
        granted(kept, 1)
        until(lambda: len(ended) == 1, seconds=5)
        granted(kept, 2, seconds=0.1)
        began = time.monotonic()
        shared.grant(2, 0.1, (), {})
        until(lambda: len(ended) == 2)
    assert 0.1 <= ended[1][1] - began < 0.9


def test_a_lease_on_what_the_model_does_not_have_is_told_so() -> None:
    """It cannot be put back; one that is not there is not found."""
    kept = Leases()
    granted(kept, 1, seconds=60)
    with looked_after(kept, lambda lease: None) as shared:
        with pytest.raises(Exception, match="a lease holds 'a', which this model does not have"):
            shared.held(1)
        for call in (shared.held, shared.renew):
            with pytest.raises(Exception, match="no lease 7"):
                call(7)
        assert (shared.renew(1), shared.why(1), shared.is_due(1)) == (60, "expired", False)
        shared.give_up(1, "memory")
        assert shared.renew(1) == 60
