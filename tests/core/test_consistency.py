"""Histories: compare-and-set at full tilt, any program against a dict, and what watchers saw."""

from __future__ import annotations

import os
import random
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.core.test_live_model import ADD, SET, SUB, refusal
from tests.core.test_watchers import watch
from tests.fakes import FakeModel, FakeVariable
from tests.waiting import join
from varserve_service.core.arrays.regions import Region, Rows, Slice, Slices, index_of
from varserve_service.core.change.writes import Write
from varserve_service.core.commit.history import History
from varserve_service.core.commit.watchers import Event, Watcher
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.commits import CommitKind
from varserve_service.core.ports.messages import Conditions, Read

SEED = int(os.environ.get("VARSERVE_TEST_SEED", random.SystemRandom().randrange(2**32)))
THREADS, ATTEMPTS = 16, 20_000


def test_a_storm_of_compare_and_set_has_one_winner_a_revision() -> None:
    """16 threads, 20,000 attempts: one winner a revision, and each loser is told the revision."""
    print(f"seed {SEED}")
    live = LiveModel(FakeModel([FakeVariable("v", np.zeros((), np.int64))]))
    won: list[list[int]] = [[] for _ in range(THREADS)]
    lost = [0] * THREADS

    def newer(error: RequestError, known: int) -> int:
        assert error.reason is Reason.REVISION_MISMATCH
        current = int(error.metadata["current_revision"])
        assert current > known
        return current

    def storm(number: int) -> None:
        rng = random.Random(SEED + number)
        known = 0
        for _ in range(ATTEMPTS // THREADS):
            write = Write("v", ADD, np.ones((), np.int64), if_revision_match=known)
            of_model = rng.random() < 0.5
            if of_model:
                write = Write("v", ADD, np.ones((), np.int64))
            try:
                answer = live.assign([write], conditions=Conditions(known if of_model else None))
                won[number].append(answer.header.revision)
                assert answer.header.revision == known + 1
                known = answer.header.revision
            except RequestError as error:
                known = newer(error, known)
                lost[number] += 1

    _, watcher = watch(live)
    threads = [threading.Thread(target=storm, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    join(threads)
    winners = sorted(revision for revisions in won for revision in revisions)
    assert len(winners) + sum(lost) == ATTEMPTS
    assert winners == list(range(1, len(winners) + 1))
    (entry,) = live.read([Read("v")]).entries
    assert entry.value is not None
    assert int(entry.value.numpy()) == len(winners)
    assert len(winners) > 100
    assert sum(lost) > 100, "nobody ever lost: there was no storm"
    told = list(iter(watcher.take, None))
    assert [event.revision for event in told] == winners
    assert [_value(event, "v") for event in told] == winners


def _value(event: Event, name: str) -> Any:
    (change,) = [each for each in event.changes if each.variable.name == name]
    assert change.value.value is not None
    return change.value.value.numpy().tolist()


NAMES = ("plain", "table")
ROWS = st.lists(st.integers(0, 3), max_size=4, unique=True).map(lambda r: Rows(np.array(r, int)))
SLICES = st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(1, 3)).map(
    lambda t: Slices((Slice(min(t[:2]), max(t[:2]), t[2]),))
)
REGIONS = st.none() | ROWS | SLICES
WRITES = st.lists(
    st.tuples(
        st.sampled_from(NAMES), st.sampled_from([SET, ADD, SUB]), REGIONS, st.integers(-9, 9)
    ),
    min_size=1,
    max_size=3,
)


def _index(region: Region | None) -> Any:
    return slice(None) if region is None else index_of(region)


class AgainstADict(RuleBasedStateMachine):
    """A model with a short history, beside a dict of every state that it was ever in."""

    @initialize(kept=st.integers(1, 8))
    def begin(self, kept: int) -> None:
        start = np.arange(4)
        variables = [FakeVariable(n, start.copy(), in_place=n == "table") for n in NAMES]
        self.kept = kept
        self.live = LiveModel(FakeModel(variables), history=History(max_commits=kept))
        self.states = [{name: start.copy() for name in NAMES}]
        self.written: list[dict[str, int]] = [dict.fromkeys(NAMES, 0)]
        self.leases: dict[int, dict[str, np.ndarray[Any, Any]]] = {}
        self.watching: list[tuple[int, list[Event], Watcher]] = []

    @property
    def revision(self) -> int:
        return len(self.states) - 1

    def _commit(self, state: dict[str, Any], changed: set[str]) -> None:
        self.states.append(state)
        last = self.written[-1] | dict.fromkeys(changed, self.revision)
        self.written.append(last)

    def _after(self, writes: list[Any]) -> dict[str, Any]:
        state = {name: value.copy() for name, value in self.states[-1].items()}
        for write in writes:
            index = _index(write.region)
            sign = {SET: 0, ADD: 1, SUB: -1}[write.operation]
            state[write.variable][index] = (
                write.value if sign == 0 else state[write.variable][index] + sign * write.value
            )
        return state

    def _writes(self, drawn: Any) -> list[Write]:
        writes = []
        for name, operation, region, number in drawn:
            value = np.arange(len(np.zeros(4)[_index(region)])) + number
            writes.append(Write(name, operation, value, region))
        return writes

    @rule(drawn=WRITES)
    def assign(self, drawn: Any) -> None:
        writes = self._writes(drawn)
        state = self._after(writes)
        self.live.assign(writes)
        self._commit(state, {write.variable for write in writes})

    @rule(drawn=WRITES, by=st.integers(1, 3))
    def assign_conditionally_and_lose(self, drawn: Any, by: int) -> None:
        conditions = Conditions(self.revision + by)
        error = refusal(self.live.assign, self._writes(drawn), conditions=conditions)
        assert error.metadata["current_revision"] == str(self.revision)

    @rule(back=st.integers(0, 10), one=st.sampled_from([(), ("plain",), ("table",)]))
    def revert(self, back: int, one: tuple[str, ...]) -> None:
        to = self.revision - back
        if to < max(0, self.revision - self.kept):
            assert refusal(self.live.revert, to, one).reason is Reason.REVISION_COMPACTED
            return
        changed = {n for n in one or NAMES if self.written[-1][n] > to}
        self.live.revert(to, one)
        if changed:
            state = {n: self.states[to if n in changed else -1][n].copy() for n in NAMES}
            self._commit(state, changed)

    @rule(name=st.sampled_from(NAMES), back=st.integers(0, 10), region=REGIONS)
    def read(self, name: str, back: int, region: Any) -> None:
        at = self.revision - back
        if at < max(0, self.revision - self.kept):
            error = refusal(self.live.timeline.read, [Read(name)], at)
            assert error.reason is Reason.REVISION_COMPACTED
            return
        (entry,) = self.live.timeline.read([Read(name, region)], at).entries
        assert entry.value is not None
        assert entry.value.numpy().tolist() == self.states[at][name][_index(region)].tolist()
        assert entry.revision == self.written[at][name]

    @precondition(lambda self: not self.leases)
    @rule(drawn=WRITES)
    def lease(self, drawn: Any) -> None:
        writes = self._writes(drawn)
        before = self.states[-1]
        state = self._after(writes)
        lease = self.live.assign(writes, lease_seconds=3600).header.revision
        self._commit(state, {write.variable for write in writes})
        self.leases = {lease: {write.variable: before[write.variable] for write in writes}}

    @precondition(lambda self: self.leases)
    @rule(keep=st.booleans())
    def revoke(self, keep: bool) -> None:
        (lease, before), self.leases = self.leases.popitem(), {}
        back = {n: v for n, v in before.items() if self.written[-1][n] == lease and not keep}
        self.live.leases.revoke(lease, keep=keep)
        if back:
            self._commit(self.states[-1] | back, set(back))

    @rule(back=st.integers(0, 8))
    def watch(self, back: int) -> None:
        after = max(0, self.revision - min(back, self.kept))
        self.watching.append((after, *watch(self.live, after)))

    @invariant()
    def it_is_what_the_dict_says(self) -> None:
        snapshot = self.live.read([Read(name) for name in NAMES])
        assert snapshot.header.revision == self.revision
        for entry in snapshot.entries:
            assert entry.value is not None
            assert entry.value.numpy().tolist() == self.states[-1][entry.variable].tolist()
            assert entry.revision == self.written[-1][entry.variable]

    def teardown(self) -> None:
        if not hasattr(self, "watching"):
            return
        for after, events, watcher in self.watching:
            self._check_watch(after, [*events, *iter(watcher.take, None)])
        for lease in self.leases:
            self.live.leases.revoke(lease)

    def _check_watch(self, after: int, events: list[Event]) -> None:
        # Ordered, unique, reliable: each revision once; atomic: with all that it changed.
        assert [event.revision for event in events] == list(range(after + 1, self.revision + 1))
        state = {name: value.copy() for name, value in self.states[after].items()}
        for event in events:
            changed = {n for n in NAMES if self.written[event.revision][n] == event.revision}
            assert {change.variable.name for change in event.changes} == changed
            for change in event.changes:
                assert change.value.value is not None
                assert change.previous is not None
                assert change.previous.value is not None
                name, region = change.variable.name, change.region
                index = _index(region)
                assert change.previous.value.numpy().tolist() == state[name][index].tolist()
                state[name][index] = change.value.value.numpy()
            for name in NAMES:
                assert state[name].tolist() == self.states[event.revision][name].tolist()
        assert all(isinstance(event.kind, CommitKind) for event in events)


SOME = settings(
    max_examples=100, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
ALL = settings(SOME, max_examples=2000)

TestAgainstADict = AgainstADict.TestCase
TestAgainstADict.settings = SOME


@pytest.mark.full
class TestAgainstADictAtLength(AgainstADict.TestCase):  # type: ignore[misc, name-defined]
    """2,000 programs of 50 steps."""

    settings = ALL
