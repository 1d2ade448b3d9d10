"""What callers keep alive is charged to them, and given up before somebody else is refused."""

from __future__ import annotations

import time

import numpy as np
import pytest

from tests.core.test_live_model import ADD, SET, refusal
from tests.fakes import FakeModel, FakeVariable
from tests.waiting import until
from varserve_service.core import holdings
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import OutOfMemory, Reason
from varserve_service.core.memory import MemoryBudget, Room
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.commits import Origin

MIB = 2**20
LONG = 3600.0


class Memory:
    """A memory of 100 MiB in which 10 are free; what is given up gives back what it held."""

    def __init__(self) -> None:
        self.available = 10 * MIB
        self.given_up: list[str] = []
        self.budget = MemoryBudget("host", lambda: Room(self.available, 100 * MIB))

    def hold(self, name: str, nbytes: int, subject: str = "") -> holdings.Holding:
        def give_up() -> None:
            self.given_up.append(name)
            self.available += nbytes
            holding.release()

        holding = self.budget.holdings.hold(subject, nbytes, name, give_up)
        return holding


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Holdings are idle when they have not moved since now."""
    monkeypatch.setattr(holdings, "IDLE_SECONDS", 0.0)


def test_the_longest_idle_is_given_up_before_somebody_is_refused() -> None:
    """As many as it takes and no more; who moves on stays."""
    memory = Memory()
    names = ["first", "second", "third", "moves"]
    held = {name: memory.hold(name, 20 * MIB) for name in names}
    for seconds, name in ((400, "first"), (300, "third"), (200, "second"), (0, "moves")):
        held[name].touched_at = time.monotonic() - seconds
    with memory.budget.reserve(45 * MIB, "the write"):
        assert memory.given_up == ["first", "third"]


def test_without_enough_to_give_up_the_refusal_is_what_it_was() -> None:
    """Nobody waits long, and the numbers are those after what could be freed."""
    memory = Memory()
    memory.hold("one", 20 * MIB)
    began = time.monotonic()
    with pytest.raises(OutOfMemory, match=f"{30 * MIB} are available"):
        memory.budget.reserve(31 * MIB, "the write")
    assert time.monotonic() - began < 30


def test_what_is_touched_is_not_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A holding whose subject shows that it needs it is not given up."""
    monkeypatch.setattr(holdings, "IDLE_SECONDS", 60.0)
    memory = Memory()
    idle, needed = memory.hold("idle", 20 * MIB), memory.hold("needed", 20 * MIB)
    for holding in (idle, needed):
        holding.touched_at -= 100
    needed.touched()
    with memory.budget.reserve(15 * MIB, "the write"):
        assert memory.given_up == ["idle"]


def test_a_subject_holds_its_share_at_most() -> None:
    """Half of the memory: the last byte fits, one more does not, another subject is not in it."""
    memory = Memory()
    first = memory.hold("first", 30 * MIB, "s")
    memory.hold("second", 20 * MIB, "s")
    error = refusal(memory.hold, "third", MIB, "s")
    assert error.reason is Reason.TOO_MANY_REQUESTS
    assert error.metadata["limit"] == str(50 * MIB)
    memory.hold("other", 50 * MIB, "t")
    first.release()
    memory.hold("third", 30 * MIB, "s")
    assert memory.budget.holdings.held_by("s") == 50 * MIB


def test_what_is_not_charged_does_not_count() -> None:
    """Nor does what is small; both may be more than the share."""
    memory = Memory()
    table = memory.budget.holdings
    memory.hold("half", 50 * MIB, "s")
    held = [
        table.hold("s", 60 * MIB, "it", None, charged=False),
        table.hold("s", holdings.SMALL_BYTES - 1, "it", None),
    ]
    assert table.held_by("s") == 50 * MIB
    error = refusal(table.hold, "s", holdings.SMALL_BYTES, "it", None)
    assert error.reason is Reason.TOO_MANY_REQUESTS
    for each in held:
        each.release()
    assert table.held_by("s") == 50 * MIB


# Leases.


def leased(live: LiveModel, subject: str = "s") -> int:
    write = Write("big", SET, np.ones((8, MIB), np.float32))
    answer = live.assign([write], lease_seconds=LONG, origin=Origin(subject))
    return answer.header.revision


def big_model(limit: int, available: list[int]) -> tuple[LiveModel, FakeVariable]:
    big = FakeVariable("big", np.zeros((8, MIB), np.float32))
    other = FakeVariable("other", np.zeros(8, np.float32), in_place=True)
    budget = MemoryBudget("host", lambda: Room(available[0], limit))
    return LiveModel(FakeModel([big, other]), host_memory=budget), big


def test_leases_are_charged_to_their_subject() -> None:
    """One lease too many is refused with nothing changed; there is room again when one ends."""
    live, big = big_model(128 * MIB, [2**40])
    first = leased(live)
    leased(live)
    error = refusal(leased, live)
    assert (error.reason, live.header.revision) == (Reason.TOO_MANY_REQUESTS, 2)
    assert big.array is not None
    assert big.array.sum() == 8 * MIB
    leased(live, "t")
    live.leases.revoke(first)
    leased(live)
    live.close()
    assert live.memory.host.holdings.held_by("s") == 0


def test_a_lease_is_given_up_when_memory_is_short() -> None:
    """Its write is taken back with a word in the history, and whoever renews it is told why."""
    available = [2**40]
    live, big = big_model(2**40, available)
    lease = leased(live)
    available[0] = 0
    with pytest.raises(OutOfMemory):  # what a lease keeps alive is free when the history is
        live.memory.host.reserve(8 * MIB, "the write")
    until(lambda: live.header.revision == 2)
    assert big.array is not None
    assert big.array.sum() == 0
    (commit,) = live.timeline.commits(1).commits
    assert commit.origin.message == f"lease {lease} ended: memory was short"
    error = refusal(live.leases.renew, lease)
    assert error.reason is Reason.LEASE_NOT_FOUND
    assert "memory was short" in error.message


def test_a_lease_that_is_refused_leaves_nothing_behind() -> None:
    """An assign with a lease that fails later is undone, and not charged."""
    live, _ = big_model(2**40, [2**40])
    write = Write("big", ADD, np.ones((8, MIB), np.float32))
    error = refusal(live.assign, [write], lease_seconds=LONG, deadline=time.monotonic() - 1)
    assert error.reason is Reason.DEADLINE_EXCEEDED
    assert live.memory.host.holdings.held_by("") == 0
