"""Several models with one log: what one commits, the others have, and it happens once."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.core.shared_log import Replica, SharedLog, lost
from tests.core.test_live_model import ADD, SET, refusal, value_of
from tests.fakes import FakeFunction, FakeModel, FakeVariable
from tests.waiting import join, until
from varserve_service.core.arrays.patches import Elements
from varserve_service.core.arrays.regions import Rows, Slice, Slices
from varserve_service.core.change.writes import Write
from varserve_service.core.commit import partwise
from varserve_service.core.commit.following import FollowingThread
from varserve_service.core.errors import JournalError, OutOfMemory, Reason
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.commits import CommitKind, Origin, WriteRequest
from varserve_service.core.ports.journal import KeptChange, KeptCommit, Position
from varserve_service.core.ports.messages import Conditions, Read

REPLICAS, WRITES = 3, 60


MakesFunction = Callable[[FakeVariable], FakeFunction]


def made(in_place: bool = False, functions: Sequence[MakesFunction] = ()) -> FakeModel:
    count = FakeVariable("count", np.zeros((), np.int64))
    return FakeModel(
        [
            count,
            FakeVariable("table", np.zeros((5, 2), np.float32), in_place=in_place),
            FakeVariable("word", np.array([b"a"], object)),
        ],
        [make(count) for make in functions],
    )


@contextmanager
def replicas(
    number: int,
    *,
    follows: bool = True,
    in_place: bool = False,
    functions: Sequence[MakesFunction] = (),
) -> Iterator[tuple[list[LiveModel], list[Replica]]]:
    """Models that share a log; `functions` of their variable `count`."""
    log = SharedLog()
    journals = [Replica(log, follows=follows) for _ in range(number)]
    models = [LiveModel(made(in_place, functions), journal=journal) for journal in journals]  # type: ignore[arg-type]
    try:
        yield models, journals
    finally:
        for live in models:
            live.close()


def add(live: LiveModel, **options: Any) -> Any:
    return live.assign([Write("count", ADD, np.ones((), np.int64))], **options)


def count(live: LiveModel) -> int:
    return int(np.asarray(value_of(live, "count")))


@pytest.mark.parametrize("in_place", [False, True])
def test_what_one_commits_the_others_have(in_place: bool) -> None:
    """Values, revisions, history, what was before, watchers and answers, without being asked."""
    with replicas(2, in_place=in_place) as ((one, two), _):
        watcher = two.timeline.watch(0).watcher
        assert watcher is not None
        rows, column = Rows(np.array([3, 1])), Slices((Slice(), Slice(1, 2)))
        writes = [
            [Write("table", SET, np.full((2, 2), 7, np.float32), rows)],
            [Write("table", ADD, np.ones((5, 1), np.float32), column)],
            [Write("table", SET, np.full((5, 2), 9, np.float32))],
            [Write("word", SET, np.array([b"longer"], object)), Write("count", ADD, np.int64(5))],
        ]
        watcher = two.timeline.watch(None).watcher
        assert watcher is not None
        for number, each in enumerate(writes):
            one.assign(each, origin=Origin("ann", f"number {number}"))
        until(lambda: two.header == one.header)
        assert [v.revision for v in two.describe().variables] == [4, 3, 4]
        for name in ("count", "table", "word"):
            assert value_of(two, name).tolist() == value_of(one, name).tolist()
            for revision in range(5):
                reads = [Read(name)]
                (mine,), (theirs,) = (
                    live.timeline.read(reads, revision).entries for live in (two, one)
                )
                assert mine.value.numpy().tolist() == theirs.value.numpy().tolist()
        assert two.timeline.commits(10) == one.timeline.commits(10)
        assert [event.revision for event in iter(watcher.take, None)] == [1, 2, 3, 4]
        two.revert(0)
        until(lambda: one.header.revision == 5)
        assert count(one) == 0


@pytest.mark.parametrize("rows", [[4, 0], None])
def test_who_reads_a_large_value_sees_no_later_commit_of_others(
    monkeypatch: pytest.MonkeyPatch, rows: list[int] | None
) -> None:
    """It is read part by part, and others write meanwhile: rows of it, or (None) the whole."""
    monkeypatch.setattr(partwise, "PART_BYTES", 8)
    with replicas(2, in_place=True) as ((one, two), _):
        (entry,) = two.read([Read("table")]).entries
        assert isinstance(entry.value, partwise.PartwiseValue)
        value = np.ones((5 if rows is None else len(rows), 2), np.float32)
        one.assign([Write("table", SET, value, None if rows is None else Rows(np.array(rows)))])
        until(lambda: two.header == one.header)
        assert value_of(two, "table").sum() == value.sum()
        assert entry.value.numpy().sum() == 0


def test_how_a_replica_stands_to_the_log() -> None:
    """As its journal says; a model that shares no state does not stand anywhere."""
    with replicas(2, follows=False) as ((one, two), (_, journal)):
        add(one)
        assert two.standing == journal.standing
        assert journal.standing.behind == 1
    assert LiveModel(made()).standing is None


def test_writers_at_all_replicas_make_one_order() -> None:
    """No revision twice, no gap, nothing lost; the last write is everybody's."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    answers: list[int] = []

    def write(live: LiveModel, number: int) -> None:
        chance = random.Random(seed + number)
        for _ in range(WRITES):
            answer = add(live, read_back=Read("count"))
            answers.append(answer.header.revision)
            assert answer.values["count"].numpy() == answer.header.revision
            if chance.random() < 0.2:
                live.read([Read("table")])

    with replicas(REPLICAS) as (models, journals):
        threads = [
            threading.Thread(target=write, args=(live, number))
            for number, live in enumerate([*models, *models])
        ]
        for thread in threads:
            thread.start()
        join(threads)
        total = len(threads) * WRITES
        assert sorted(answers) == list(range(1, total + 1))
        until(lambda: {live.header.revision for live in models} == {total})
        assert {count(live) for live in models} == {total}
        assert [journal.gave_up for journal in journals] == [[]] * REPLICAS


def test_a_replica_that_is_behind_catches_up_before_it_commits() -> None:
    """Conditions and answers are those of the present state, not of the one that it had."""
    with replicas(2, follows=False) as ((one, two), _):
        for _ in range(3):
            add(one)
        assert two.header.revision == 0
        stale = Conditions(model_revision=0)
        error = refusal(add, two, conditions=stale)
        assert error.reason is Reason.REVISION_MISMATCH
        answer = add(two, read_back=Read("count"))
        assert (answer.header.revision, int(answer.values["count"].numpy())) == (4, 4)
        assert count(two) == 4


def test_a_request_that_another_replica_did_is_not_done_again() -> None:
    """It gets its first answer, when that is durable; with another content it is refused."""
    with replicas(2, follows=False) as ((one, two), journals):
        request = WriteRequest("r", b"1")
        first = add(one, request=request, read_back=Read("count"))
        add(one)
        again = add(two, request=request, read_back=Read("count"))
        assert again.header == first.header
        assert again.values["count"].numpy() == 1
        assert count(two) == 2
        assert journals[1].confirmed == 1  # it may not have been durable until then
        error = refusal(add, two, request=WriteRequest("r", b"2"))
        assert error.reason is Reason.REQUEST_ID_REUSED


def test_an_append_that_was_undecided_and_happened_is_answered_once() -> None:
    """What the log says is what the caller is told; nobody sees it before, or twice."""
    with replicas(2) as ((one, two), (journal, _)):
        add(one)
        journal.after_append = lost
        answer = add(one, request=WriteRequest("r", b""), read_back=Read("count"))
        journal.after_append = lambda: None
        assert (answer.header.revision, int(answer.values["count"].numpy())) == (2, 2)
        assert journal.resolutions == [True]
        assert count(one) == 2
        assert add(one).header.revision == 3
        until(lambda: count(two) == 3)


def test_an_append_that_was_undecided_and_did_not_happen_is_refused() -> None:
    """Nothing was changed, anywhere, and the next write goes through."""
    with replicas(2) as ((one, two), (journal, _)):
        add(one)
        journal.before_append = lost
        error = refusal(add, one)
        journal.before_append = lambda: None
        assert error.reason is Reason.STATE_STORE_UNAVAILABLE
        assert journal.resolutions == [False]
        assert (count(one), one.header.revision) == (1, 1)
        assert add(one).header.revision == 2
        until(lambda: count(two) == 2)


def test_an_append_that_cannot_be_resolved_says_so_and_is_followed_later() -> None:
    """The caller is told that it may have been done; if it was, this replica follows it, too."""
    with replicas(2, follows=False) as ((one, two), (journal, _)):
        add(one)

        def gone() -> None:
            journal.unreachable = True
            lost()

        journal.after_append = gone
        error = refusal(add, one, request=WriteRequest("r", b""))
        assert error.metadata["done"] == "unknown"
        assert count(one) == 1
        assert refusal(add, one).reason is Reason.STATE_STORE_UNAVAILABLE
        journal.unreachable, journal.after_append = False, lambda: None
        again = add(one, request=WriteRequest("r", b""))
        assert (again.header.revision, count(one)) == (2, 2)
        assert add(two).header.revision == 3


def test_readers_go_on_while_a_turn_is_waited_for() -> None:
    """The model's lock is taken when the turn is there, and no earlier."""
    with replicas(2) as ((one, _), (journal, _)):
        assert journal._log.row.acquire(timeout=30)
        try:
            writer = threading.Thread(target=add, args=(one,))
            writer.start()
            until(lambda: one._parts.committer._queue)
            assert count(one) == 0
            assert one.header.revision == 0
        finally:
            journal._log.row.release()
        join([writer])
        assert count(one) == 1


def test_a_commit_that_does_not_fit_into_memory_is_followed_later() -> None:
    """Nothing of it is seen; when there is memory it is made."""
    with replicas(2) as ((one, two), (_, journal)):
        table = two._parts.by_path["table"]
        table.fail_after = 0  # type: ignore[attr-defined]
        one.assign(
            [Write("count", ADD, np.int64(1)), Write("table", SET, np.ones((5, 2), np.float32))]
        )
        until(lambda: two.header.revision == 1)
        assert value_of(two, "table").tolist() == [[1, 1]] * 5
        assert count(two) == 1
        assert journal.gave_up == []
        assert not isinstance(refusal(two.revert, 9), OutOfMemory)


def test_a_replica_on_a_fork_gives_up() -> None:
    """Its last commit is not the log's: it follows nothing, and its writes are refused."""
    with replicas(2) as ((one, two), (journal, _)):
        add(one)
        until(lambda: two.header.revision == 1)
        log = journal._log
        with log.changed:
            log.commits[0] = _other(log.commits[0])
            log.commits.append(_other(log.commits[0], revision=2))
            log.changed.notify_all()
        until(lambda: journal.gave_up)
        assert refusal(add, one).reason is Reason.STATE_STORE_UNAVAILABLE
        assert (count(one), len(journal.gave_up)) == (1, 2)


def test_a_replica_does_not_follow_a_fork_that_it_read_before_its_own_commit() -> None:
    """What was read after an earlier position does not go on from a commit made meanwhile."""
    with replicas(1, follows=False) as ((live,), (journal,)):
        add(live)
        (own,) = journal._log.commits
        read_before = [_other(own), _other(own, revision=2)]
        with pytest.raises(JournalError, match="commit 1 of this replica is not the one"):
            live._parts.committer.follow(read_before)
        assert live.header.revision == 1


def _other(commit: Any, revision: int = 1) -> Any:
    return replace(commit, revision=revision, append="another")


def test_a_commit_of_another_model_is_refused() -> None:
    """A variable that this replica does not have, or elements of which it has no base."""
    with replicas(1) as ((live,), _):
        follower = live._parts.committer._follower
        value = np.zeros((), np.int64)
        kept = KeptCommit(1, 0, CommitKind.ASSIGN, Origin(), None, (KeptChange("no", None, value),))
        with pytest.raises(JournalError, match="changes 'no', which this replica's model"):
            follower.stage(kept)
        elements = KeptChange("table", Elements(np.array([1])), np.zeros(1, np.float32))
        with pytest.raises(JournalError, match="changes 'table'"):
            follower.stage(replace(kept, changes=(elements,)))


def test_commits_come_in_their_order() -> None:
    """One that is known is passed over; one that is missing in between is named."""
    with replicas(1) as ((live,), _):
        follower, one = live._parts.committer._follower, np.ones((), np.int64)

        def staged(revision: int) -> Any:
            change = KeptChange("count", None, revision * one)
            return follower.stage(
                KeptCommit(revision, 0, CommitKind.ASSIGN, Origin(), None, (change,))
            )

        with live._parts.lock.exclusive():
            follower.apply([staged(1), staged(2)])
            follower.apply([staged(1), staged(2), staged(3)])
            with pytest.raises(JournalError, match="expected commit 4, found 5"):
                follower.apply([staged(5)])
        assert (live.header.revision, count(live)) == (3, 3)


def test_a_log_that_is_gone_from_where_a_replica_was_long_ago() -> None:
    """Its own commits went on while it asked: it asks from there, and ends if that is gone, too."""

    class Journal:
        def __init__(self) -> None:
            self.position = Position(1, "one")
            self.asked: list[Position] = []
            self.given_up: list[str] = []

        def news(self, known: Position) -> list[KeptCommit]:
            self.asked.append(known)
            self.position = Position(2, "two")
            raise JournalError(f"commit {known.revision} is not in the database any more")

        def give_up(self, error: Exception) -> None:
            self.given_up.append(str(error))

    journal = Journal()
    thread = FollowingThread(journal, lambda: journal.position, lambda commits: None)  # type: ignore[arg-type]
    thread.start()
    until(lambda: journal.given_up)
    thread.close()
    assert [known.revision for known in journal.asked] == [1, 2]
    assert journal.given_up == ["commit 2 is not in the database any more"]
