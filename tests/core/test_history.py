"""What a model was: reading an earlier revision, listing commits, taking them back."""

from __future__ import annotations

import math
import os
import random
import time
from typing import Any
from unittest import mock

import numpy as np
import pytest

from tests.core.test_live_model import ADD, SET, array, refusal, two, value_of, writing_function
from tests.fakes import FakeModel, FakePart, FakeVariable
from varserve_service.core.arrays.regions import Region, Rows, Slice, Slices, index_of
from varserve_service.core.change import changes
from varserve_service.core.change.plan import Plan
from varserve_service.core.change.writes import Write
from varserve_service.core.commit.history import History
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.commits import (
    Commit,
    CommitKind,
    CommitRecord,
    Origin,
    WriteRequest,
)
from varserve_service.core.ports.loaded_model import Value
from varserve_service.core.ports.messages import Conditions, Read
from varserve_service.core.values.host_value import HostValue
from varserve_service.core.values.summaries import HistogramSpec, summarize

IN_PLACE = pytest.mark.parametrize("in_place", [False, True])
ROWS = [Rows(np.array([2, 0])), Rows(np.array([1])), Rows(np.array([0, 1]))]


def with_values(live: LiveModel) -> list[Commit]:
    """The commits whose values are kept, the newest first."""
    history = live.timeline._history
    return list(history.after(history.oldest))[::-1]


def at(live: LiveModel, name: str, revision: int, region: Any = None) -> list[float]:
    (entry,) = live.timeline.read([Read(name, region)], revision).entries
    assert entry.value is not None
    return entry.value.numpy().tolist()


def written_often(in_place: bool) -> tuple[LiveModel, list[list[float]]]:
    """A model of which `a` was written in every way, and what it was at each revision."""
    live, *_ = two(in_place)
    states = [value_of(live, "a").tolist()]
    for operation, region, value in [
        (ADD, ROWS[0], array(10, 20)),
        (SET, Slices((Slice(0, 3, 2),)), array(7, 8)),
        (SET, None, array(4, 5, 6)),
        (ADD, ROWS[1], array(100)),
        (SET, ROWS[2], array(-1, -2)),
    ]:
        live.assign([Write("a", operation, value, region)])
        states.append(value_of(live, "a").tolist())
    return live, states


@IN_PLACE
def test_what_is_kept_of_a_region_does_not_hold_the_whole(in_place: bool) -> None:
    """What it replaced, in a write, a revert and a lease's end, and what was read back of it."""
    live, *_ = two(in_place)
    kept: list[Any] = []
    for operation in (SET, ADD):
        for region in (ROWS[1], Slices((Slice(0, 1),))):
            write = Write("a", operation, array(7), region)
            answer = live.assign([write], read_back=Read("a", region), lease_seconds=600)
            kept += [*answer.values.values()]
    live.leases.revoke(4)
    live.revert(4)
    commits = with_values(live)
    kept += [each.previous for commit in commits for each in commit.changed]
    assert (len(commits), len(kept)) == (6, 10)
    assert [each for each in kept if isinstance(each, FakePart)] == []


@IN_PLACE
def test_a_change_that_was_overtaken_tells_what_it_replaced(in_place: bool) -> None:
    """Not what was there when it was worked out."""
    live, *_ = two(in_place)
    worked_out = Plan.work_out
    overtaking = [Write("a", SET, array(5), ROWS[1])]

    def overtaken(self: Plan) -> None:
        worked_out(self)
        if overtaking:
            live.assign([overtaking.pop()])

    with mock.patch.object(Plan, "work_out", overtaken):
        live.assign([Write("a", ADD, array(1), ROWS[1])])
    (last, _) = with_values(live)
    assert last.changed[0].previous is not None
    assert last.changed[0].previous.numpy().tolist() == [5]
    assert last.changed[0].value.numpy().tolist() == [6]


def random_region(rng: random.Random) -> Region:
    if rng.random() < 0.5:
        return Rows(np.array(rng.sample(range(5), rng.randint(0, 5)), np.int64))
    dimensions = []
    for size in (5, 4)[: rng.randint(0, 2)]:
        start = rng.randint(0, size)
        dimensions.append(
            Slice(start, rng.choice([None, rng.randint(start, size)]), 1 + (start % 2))
        )
    return Slices(tuple(dimensions))


@IN_PLACE
def test_every_region_of_every_earlier_revision(in_place: bool) -> None:
    """Whatever was written in whatever parts, alone or several at once: it is what it was then."""
    seed = int(os.environ.get("VARSERVE_TEST_SEED", random.SystemRandom().randrange(2**32)))
    print(f"seed {seed}")
    rng, compared = random.Random(seed), 0
    for _ in range(40):
        variable = FakeVariable("a", np.zeros((5, 4), np.int64), in_place=in_place)
        live = LiveModel(FakeModel([variable]))
        state, states = np.zeros((5, 4), np.int64), []
        for _ in range(8):
            writes = []
            states.append(state.copy())
            for _ in range(rng.choice([1, 1, 2, 3])):
                region = random_region(rng) if rng.random() < 0.9 else None
                index = slice(None) if region is None else index_of(region)
                shape = state[index].shape
                value = np.array(rng.choices(range(99), k=math.prod(shape)), np.int64)
                value = value.reshape(shape)
                add = rng.random() < 0.5
                writes.append(Write("a", ADD if add else SET, value.copy(), region))
                state[index] = state[index] + value if add else value
            live.assign(writes)
            np.testing.assert_array_equal(value_of(live, "a"), state)
        for revision, expected in enumerate(states):
            region = random_region(rng)
            found = at(live, "a", revision, region)
            assert found == expected[index_of(region)].tolist()
            compared += 1
        to = rng.randrange(8)
        live.revert(to)
        np.testing.assert_array_equal(value_of(live, "a"), states[to])
        assert at(live, "a", 8) == state.tolist()
    assert compared == 320


def test_of_an_embedding_rows_are_taken_and_not_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """By writes, alone or several at once, by reads of what they were, and by reverts."""
    table = FakeVariable("a", np.zeros((1000, 2), np.float32), in_place=True)
    live = LiveModel(FakeModel([table]))
    read = FakeVariable.read
    taken: list[int] = []

    def reading(self: FakeVariable, region: Region | None = None) -> Value:
        value = read(self, region)
        taken.append(value.shape[0])
        return value

    monkeypatch.setattr(FakeVariable, "read", reading)
    one, two_rows = Slices((Slice(7, 8),)), Rows(np.array([900, 7]))
    live.assign([Write("a", SET, np.ones((1, 2), np.float32), one)])
    live.assign([Write("a", ADD, np.ones((2, 2), np.float32), two_rows)])
    answer = live.assign(
        [
            Write("a", SET, np.full((1, 2), 5, np.float32), one),
            Write("a", ADD, np.ones((2, 2), np.float32), two_rows),
        ]
    )
    assert table.array is not None
    assert table.array[[7, 900]].tolist() == [[6, 6], [2, 2]]
    ((told,),) = [commit.changed for commit in with_values(live)[:1]]
    assert isinstance(told.region, Rows)
    assert told.region.indices.tolist() == [7, 900]
    assert at(live, "a", 1, two_rows) == [[0, 0], [1, 1]]
    assert at(live, "a", 2, Rows(np.array([7, 900, 7]))) == [[2, 2], [1, 1], [2, 2]]
    live.revert(0)
    assert table.array.sum() == 0
    assert (answer.header.revision, max(taken)) == (3, 2)


def test_what_was_is_not_worked_out_past_the_deadline() -> None:
    """A thousand parts, each of ten thousand writes, would keep a thread for an hour."""
    live, _ = written_often(in_place=False)
    with pytest.raises(RequestError, match="before all was worked out") as caught:
        live.timeline.read([Read("a")], 0, deadline=time.monotonic())
    assert caught.value.reason is Reason.DEADLINE_EXCEEDED


@IN_PLACE
def test_every_earlier_revision_can_be_read(in_place: bool) -> None:
    """A variable, and any region of it, reads as it was at each revision, with that revision."""
    live, states = written_often(in_place)
    for revision, state in enumerate(states):
        assert at(live, "a", revision) == state
        assert at(live, "a", revision, ROWS[0]) == [state[2], state[0]]
        snapshot = live.timeline.read([Read("a"), Read("b")], revision)
        assert snapshot.header.revision == revision
        assert [entry.revision for entry in snapshot.entries] == [revision, 0]
    assert value_of(live, "a").tolist() == states[-1]


@IN_PLACE
@pytest.mark.parametrize("to", range(6))
def test_a_revert_is_a_new_commit_with_the_old_values(in_place: bool, to: int) -> None:
    """After a revert each variable is what it was, and the revert can be taken back itself."""
    live, states = written_often(in_place)
    live.assign([Write("b", SET, array(0, 0))])
    answer = live.revert(to, origin=Origin(message="oops"))
    assert answer.header.revision == 7
    assert (value_of(live, "a").tolist(), value_of(live, "b").tolist()) == (states[to], [10, 20])
    live.revert(6)
    assert (value_of(live, "a").tolist(), value_of(live, "b").tolist()) == (states[-1], [0, 0])
    kinds = [(c.kind, c.origin.message) for c in live.timeline.commits(2).commits]
    assert kinds == [(CommitKind.REVERT, ""), (CommitKind.REVERT, "oops")]


def test_a_revert_writes_no_more_rows_than_were_written() -> None:
    """Rows of a table that is written in place are taken back alone: the table may be large."""
    table = FakeVariable("table", np.zeros((1000, 4), np.float32), in_place=True)
    live = LiveModel(FakeModel([table]))
    for rows in ([5, 900], [900], [3]):
        value = np.ones((len(rows), 4), np.float32)
        live.assign([Write("table", ADD, value, Rows(np.array(rows)))])
    live.revert(0)
    assert not value_of(live, "table").any()
    commit = with_values(live)[0]
    (changed,) = commit.changed
    assert isinstance(changed.region, Rows)
    assert changed.region.indices.tolist() == [3, 5, 900]


def test_a_revert_of_some_variables_leaves_the_others() -> None:
    """Named variables alone are taken back; where nothing was written since, nothing is made."""
    live, *_ = two()
    live.assign([Write("a", SET, array(0, 0, 0)), Write("b", SET, array(0, 0))])
    assert live.revert(0, ["b"]).header.revision == 2
    assert (value_of(live, "a").tolist(), value_of(live, "b").tolist()) == ([0, 0, 0], [10, 20])
    assert live.revert(2).header.revision == 2
    assert refusal(live.revert, 0, ["c"]).reason is Reason.VARIABLE_NOT_FOUND


def test_what_a_function_wrote_is_taken_back() -> None:
    """A run is in the history as any commit is."""
    _, a, b = two()
    live = LiveModel(FakeModel([a, b], [writing_function(a, b)]))
    live.run("shift", {"x": np.ones((), np.float32)}, {}, origin=Origin(message="why not"))
    assert at(live, "a", 0) == [1, 2, 3]
    live.revert(0)
    assert value_of(live, "a").tolist() == [1, 2, 3]
    run = live.timeline.commits(5).commits[1]
    assert (run.kind, run.origin.message) == (CommitKind.RUN, "why not")


def test_a_revert_has_conditions_and_is_done_once() -> None:
    """A revert is refused where the model has moved, and its request is remembered."""
    _, a, b = two()
    live = LiveModel(FakeModel([a, b]), history=History(max_commits=3))
    live.assign([Write("a", SET, array(0, 0, 0))])
    error = refusal(live.revert, 0, conditions=Conditions(model_revision=0))
    assert error.reason is Reason.REVISION_MISMATCH
    assert refusal(live.revert, 0, conditions=Conditions(epoch="x")).reason is Reason.EPOCH_MISMATCH
    request = WriteRequest("r", b"")
    answer = live.revert(0, request=request)
    assert live.revert(0, request=request) is answer
    live.assign([Write("a", SET, array(*[9] * 3))])
    live.assign([Write("b", SET, array(9, 9))])
    assert refusal(live.revert, 0).reason is Reason.REVISION_COMPACTED
    assert live.revert(0, request=request) is answer
    assert live.header.revision == 4


def test_a_variable_cannot_lose_its_only_value() -> None:
    """What had no value then is refused, and nothing is reverted."""
    live = LiveModel(FakeModel([FakeVariable("a", array(1)), FakeVariable("u", None, shape=(1,))]))
    live.assign([Write("u", SET, array(1)), Write("a", SET, array(2))])
    assert refusal(live.revert, 0).reason is Reason.VARIABLE_UNINITIALIZED
    assert refusal(at, live, "u", 0).reason is Reason.VARIABLE_UNINITIALIZED
    assert (value_of(live, "a").tolist(), live.header.revision) == ([2], 1)


@pytest.mark.parametrize("bound", [{"max_commits": 3}, {"max_bytes": 3 * 12}])
def test_beyond_the_history_is_a_refusal_that_says_where_it_begins(bound: dict[str, int]) -> None:
    """What is not kept is REVISION_COMPACTED with the oldest revision, what is to come its own."""
    live = LiveModel(FakeModel([FakeVariable("a", array(0, 0, 0))]), history=History(**bound))
    for n in range(1, 6):
        live.assign([Write("a", SET, array(n, n, n))])
    assert [at(live, "a", revision) for revision in (2, 5)] == [[2] * 3, [5] * 3]
    assert live.timeline.read([Read("a")], 2).entries[0].revision == 2
    for call in (lambda r: at(live, "a", r), live.revert, live.timeline.watch):
        error = refusal(call, 1)
        assert (error.reason, error.metadata["oldest_revision"]) == (
            Reason.REVISION_COMPACTED,
            "2",
        )
        error = refusal(call, 6)
        assert (error.reason, error.metadata["current_revision"]) == (
            Reason.REVISION_IN_FUTURE,
            "5",
        )


def test_a_commit_too_large_to_be_kept_leaves_no_gap() -> None:
    """When the one commit since cannot be kept, the revision before it is compacted."""
    live = LiveModel(FakeModel([FakeVariable("a", array(0, 0, 0))]), history=History(max_bytes=11))
    live.assign([Write("a", SET, array(1, 1, 1))])
    assert refusal(at, live, "a", 0).reason is Reason.REVISION_COMPACTED
    assert at(live, "a", 1) == [1, 1, 1]


def test_the_record_of_a_commit_outlives_its_values() -> None:
    """Who, when, why and what are kept by count; only values are bounded by bytes."""
    history = History(max_commits=3, max_bytes=11)
    live = LiveModel(FakeModel([FakeVariable("a", array(0, 0, 0))]), history=history)
    for n in range(1, 5):
        live.assign([Write("a", SET, array(n, n, n))], origin=Origin("ann", f"number {n}"))
    page = live.timeline.commits(10)
    told = [(c.revision, c.origin.subject, c.origin.message) for c in page.commits]
    assert told == [(n, "ann", f"number {n}") for n in (4, 3, 2)]
    assert [[(w.path, w.nbytes) for w in c.writes] for c in page.commits] == [[("a", 12)]] * 3
    assert (page.oldest, page.max_bytes) == (4, 11)
    assert len(history) == 0
    assert refusal(live.revert, 3).reason is Reason.REVISION_COMPACTED


def test_records_of_before_the_start_count_with_those_since() -> None:
    """They are listed after the new ones, and the oldest go first."""
    history = History(max_commits=3)
    before = [CommitRecord(n, n, CommitKind.ASSIGN, Origin(), "", ()) for n in (1, 2)]
    history.begin(2, {"a": 1}, before)
    assert [record.revision for record in history.newest_first] == [2, 1]
    assert [history.last_write(path, 2) for path in ("a", "b")] == [1, 0]
    for n in (3, 4):
        history.add(Commit(n, n, CommitKind.ASSIGN, Origin(), None, ()))
    assert [record.revision for record in history.newest_first] == [4, 3, 2]
    assert (history.oldest, history.last_time, len(history)) == (2, 4, 2)


def test_commits_are_listed_by_page_and_pattern() -> None:
    """The newest first, before a revision, and those alone that changed what a pattern selects."""
    live, *_ = two()
    for n in range(4):
        live.assign([Write("a" if n % 2 else "b", ADD, array(*[1] * (3 if n % 2 else 2)))])

    def revisions(*args: Any, **more: Any) -> list[int]:
        return [commit.revision for commit in live.timeline.commits(*args, **more).commits]

    assert revisions(10) == [4, 3, 2, 1]
    assert revisions(2) == [4, 3]
    assert revisions(2, before=3) == [2, 1]
    assert revisions(10, paths=live.timeline.select(["[a]*"])) == [4, 2]
    assert refusal(live.timeline.select, ["a", "z*"]).reason is Reason.VARIABLE_NOT_FOUND
    elsewhere = LiveModel(FakeModel([FakeVariable("a", array(1), path="layer/kernel")]))
    for pattern in ("a", "layer/*"):
        assert elsewhere.timeline.select([pattern]) == {"layer/kernel"}
    assert live.timeline.select([]) is None
    assert live.timeline.select([], {"a"}) == {"a"}
    assert live.timeline.select(["*"], {"a"}) == {"a"}
    assert live.timeline.select(["b", "?"]) == {"a", "b"}
    assert refusal(live.timeline.select, ["b"], {"a"}).reason is Reason.VARIABLE_NOT_FOUND


def test_a_large_value_is_swapped_in_and_read_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """What watchers and the history have of it is that value, whatever is written to it later."""
    monkeypatch.setattr(changes, "_SWAPPED_BYTES", 10)
    variable = FakeVariable("a", np.zeros((4, 2), np.float32), in_place=True)
    live = LiveModel(FakeModel([variable]))
    watcher = live.timeline.watch(0).watcher
    assert watcher is not None
    new = np.arange(8, dtype=np.float32).reshape(4, 2)
    live.assign([Write("a", SET, new)])
    event = watcher.take()
    assert event is not None
    (change,) = event.changes
    live.assign([Write("a", SET, np.full((1, 2), 9, np.float32), Rows(np.array([1])))])
    assert value_of(live, "a").tolist() == [[0, 1], [9, 9], [4, 5], [6, 7]]
    value = change.value.value
    assert value is not None
    assert (value.dtype, value.shape, value.nbytes) == ("float32", (4, 2), 32)
    assert value.numpy().tolist() == new.tolist()
    assert bytes(value.buffer(8, 16)) == new.tobytes()[8:16]
    summary = summarize(value, histogram=HistogramSpec(2))
    assert summary.moments == summarize(HostValue(new)).moments
    assert summary.histogram is not None
    assert summary.histogram.counts.tolist() == [4, 4]
    assert at(live, "a", 1) == new.tolist()
    assert at(live, "a", 0) == [[0, 0]] * 4
