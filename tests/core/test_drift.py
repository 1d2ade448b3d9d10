"""A replica whose values are not those of most others ends, and one that is in doubt does not."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import pytest

from tests.core.shared_log import Replica, SharedLog
from tests.core.test_live_model import SET, array, value_of
from tests.fakes import FakeModel, FakeVariable
from tests.waiting import until
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import JournalClosed, JournalError, StateStoreUnavailable
from varserve_service.core.model import drift
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.values.host_value import HostValue
from varserve_service.core.values.summaries import hash_of

Hashes = Mapping[str, str]
NAMES = [f"v{number}" for number in range(7)]


class Comparing(Replica):
    """A journal of which a test says who reported what."""

    check_seconds = 0.04

    def __init__(self, others: Sequence[Hashes] = ()) -> None:
        super().__init__(SharedLog())
        self.others = others
        self.present: tuple[int, int] | None = None
        self.mine: list[tuple[int, Hashes]] = []
        self.fails: list[Exception] = []
        self.looks = 0

    def check_round(self) -> tuple[int, int] | None:
        self.looks += 1
        if self.fails:
            raise self.fails.pop(0)
        return self.present

    def report(self, number: int, hashes: Hashes) -> None:
        self.mine.append((number, dict(hashes)))
        self.present = None

    def reports(self, number: int) -> Sequence[Hashes]:
        return [*self.others, *(hashes for of, hashes in self.mine if of == number)]


def model() -> FakeModel:
    variables = [FakeVariable(name, array(1, 2)) for name in NAMES]
    return FakeModel([*variables, FakeVariable("unset", None, shape=(2,))])


def hashes(*different: str) -> Hashes:
    same, other = (hash_of(HostValue(array(*each))).hex() for each in ((1, 2), (3, 4)))
    return {name: other if name in different else same for name in NAMES}


@contextmanager
def comparing(journal: Comparing) -> Iterator[LiveModel]:
    live = LiveModel(model(), journal=journal)  # type: ignore[arg-type]
    try:
        yield live
    finally:
        live.close()
        until(lambda: "varserve-drift" not in {thread.name for thread in threading.enumerate()})


def looked(journal: Comparing) -> None:
    """It has compared: a whole look after this one."""
    seen = journal.looks
    until(lambda: journal.looks >= seen + 2)


def test_the_values_at_the_round_s_revision_are_told() -> None:
    """When this replica has it, and as they were then, of every variable that has a value."""
    journal = Comparing()
    with comparing(journal) as live:
        journal.present = (5, 1)
        until(lambda: journal.looks)
        assert journal.mine == []
        live.assign([Write("v0", SET, array(3, 4))])
        until(lambda: journal.mine)
        live.assign([Write("v1", SET, array(3, 4))])
        journal.present = (6, 1)
        until(lambda: len(journal.mine) == 2)
        looked(journal)
    assert journal.mine == [(5, hashes("v0")), (6, hashes("v0"))]
    assert journal.gave_up == []


@pytest.mark.parametrize(
    ("others", "ends"),
    [
        ([], False),
        ([hashes("v0")], False),  # one against one
        ([hashes("v0"), hashes("v0")], True),  # two of three
        ([hashes("v0"), hashes("v0"), hashes()], False),  # two of four
        ([hashes("v0"), hashes("v1")], False),
        ([hashes("v0"), hashes(), hashes()], False),  # it is with most
    ],
)
def test_only_a_majority_of_others_counts(others: list[Hashes], ends: bool) -> None:
    """Of all that reported, this one included; where there is none, nobody is known to be right."""
    journal = Comparing(others)
    with comparing(journal) as live:
        journal.present = (1, 0)
        until(lambda: journal.mine)
        if ends:
            until(lambda: journal.gave_up)
            assert str(journal.gave_up[0]) == (
                "at revision 0 the values of v0 are not those of 2 of 3 replicas: this replica "
                "builds its state anew"
            )
            assert len(journal.gave_up) == 1
        else:
            looked(journal)
            assert journal.gave_up == []
        assert value_of(live, "v0").tolist() == [1, 2]


@pytest.mark.parametrize(("count", "named"), [(5, "v3, v4 are"), (7, "v3, v4 and 2 more are")])
def test_variables_that_differ_are_named_up_to_a_bound(count: int, named: str) -> None:
    """The first ones, and how many more there are."""
    journal = Comparing([hashes(*NAMES[:count])] * 2)
    with comparing(journal):
        journal.present = (1, 0)
        until(lambda: journal.gave_up)
    assert f"v0, v1, v2, {named} not those" in str(journal.gave_up[0])


def test_what_keeps_it_from_looking() -> None:
    """A database that is away: until the next time. A state that is damaged: for good."""
    journal = Comparing()
    journal.fails = [StateStoreUnavailable("away"), StateStoreUnavailable("away")]
    with comparing(journal):
        journal.present = (1, 0)
        until(lambda: journal.mine)
        assert journal.gave_up == []
        error = JournalError("damaged")
        journal.fails = [error]
        until(lambda: journal.gave_up == [error])
        seen = journal.looks
    assert journal.looks == seen


def test_it_ends_with_the_journal() -> None:
    """Nobody gives up because a model is closed."""
    journal = Comparing()
    journal.fails = [JournalClosed()]
    with comparing(journal):
        until(lambda: journal.looks)
        until(lambda: "varserve-drift" not in {thread.name for thread in threading.enumerate()})
    assert (journal.looks, journal.gave_up) == (1, [])


def test_a_revision_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a bound: there is another round later, and nobody is left waiting."""
    monkeypatch.setattr(drift, "_WAIT_SECONDS", 0.02)
    journal = Comparing()
    with comparing(journal) as live:
        journal.present = (1, 9)
        looked(journal)
        assert journal.mine == []
        assert len(live.freshness._waiting) <= 1
        journal.present = (2, 0)
        until(lambda: journal.mine)
    assert [number for number, _ in journal.mine] == [2]


def test_no_looks_where_they_are_turned_off() -> None:
    """Then there is no thread."""
    journal = Comparing()
    journal.check_seconds = 0.0
    with comparing(journal):
        assert "varserve-drift" not in {thread.name for thread in threading.enumerate()}
