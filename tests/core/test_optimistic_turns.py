"""Commits on the guess that nobody else has committed, and what becomes of a wrong one."""

from __future__ import annotations

import random
import threading
from typing import Any

import numpy as np
import pytest

from tests.core.shared_log import Replica, lost
from tests.core.test_following import REPLICAS, WRITES, add, count, replicas
from tests.core.test_live_model import SET, refusal, value_of
from tests.fakes import FakeFunction, FakeVariable
from tests.waiting import join, until
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import Reason, StateStoreFull
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.commits import WriteRequest
from varserve_service.core.ports.messages import Conditions, Read


def guess(journals: list[Replica]) -> None:
    for journal in journals:
        journal.optimistic = True


def once(action: Any) -> Any:
    """An action for the first call alone."""
    calls: list[int] = []

    def act() -> None:
        calls.append(1)
        if len(calls) == 1:
            action()

    return act


def together(live: LiveModel, *writers: Any) -> list[Any]:
    """What each of them returns or raises; they are made as one group, in this order."""
    results: list[Any] = [None] * len(writers)
    queue, turn = live._parts.committer._queue, live._parts.committer._turn

    def run(number: int) -> None:
        try:
            results[number] = writers[number]()
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(n,), daemon=True) for n in range(len(writers))]
    with turn:  # whoever leads waits here
        for number, thread in enumerate(threads):
            thread.start()
            until(lambda number=number: len(queue) == number + 1)
    join(threads)
    return results


def test_a_right_guess_asks_for_no_turn() -> None:
    """And what it commits is everybody's."""
    with replicas(2) as ((one, two), journals):
        guess(journals)
        for number in range(1, 4):
            assert add(one, read_back=Read("count")).header.revision == number
        until(lambda: two.header == one.header)
        assert journals[0].given == [True] * 3
        assert count(two) == 3


def test_a_wrong_guess_is_made_anew_on_the_present_state() -> None:
    """The answer is that of the second time, and nothing is left of the first."""
    with replicas(2, follows=False) as ((one, two), journals):
        guess(journals)
        watcher = one.timeline.watch(0).watcher
        assert watcher is not None
        add(two)
        answer = add(one, read_back=Read("count"))
        assert (answer.header.revision, int(answer.values["count"].numpy())) == (2, 2)
        assert journals[0].given == [True, False]
        assert [event.revision for event in iter(watcher.take, None)] == [1, 2]
        assert len(one.timeline.commits(10).commits) == 2


def test_what_was_worked_out_from_an_undone_commit_is_worked_out_anew() -> None:
    """A sum on top of a commit that is refused the second time, at the revision that it had."""
    with replicas(2, follows=False) as ((one, two), journals):
        guess(journals)
        two.assign([Write("count", SET, np.int64(100))])
        first, second = together(
            one,
            lambda: add(one, conditions=Conditions(model_revision=0)),
            lambda: add(one, read_back=Read("count")),
        )
        assert first.reason is Reason.REVISION_MISMATCH
        assert (second.header.revision, int(second.values["count"].numpy())) == (2, 101)
        assert journals[0].given == [True, False]


def test_a_refusal_for_a_state_that_is_not_the_present_one_does_not_count() -> None:
    """The caller has seen a commit that this replica has not."""
    with replicas(2, follows=False) as ((one, two), journals):
        guess(journals)
        seen = add(two).header.revision
        answer = add(one, conditions=Conditions(model_revision=seen))
        assert answer.header.revision == 2
        assert refusal(add, one, conditions=Conditions(model_revision=seen)).reason is (
            Reason.REVISION_MISMATCH
        )


def test_a_refusal_stands_with_a_commit_of_the_same_group() -> None:
    """That was kept, so the state was the present one."""
    with replicas(1) as ((one,), journals):
        guess(journals)
        done, refused = together(
            one, lambda: add(one), lambda: add(one, conditions=Conditions(model_revision=0))
        )
        assert done.header.revision == 1
        assert refused.reason is Reason.REVISION_MISMATCH
        assert journals[0].given == [True]


def test_a_repeated_request_is_confirmed_in_a_sure_turn() -> None:
    """Also where another replica did it."""
    with replicas(2, follows=False) as ((one, two), journals):
        guess(journals)
        request = WriteRequest("r", b"")
        add(two, request=request)
        for _ in range(2):
            assert add(one, request=request).header.revision == 1
        assert journals[0].given == [True, False] * 2
        assert journals[0].confirmed == 2
        assert count(one) == 1


@pytest.mark.parametrize("failure", ["full", "undecided"])
def test_a_failed_append_decides_nothing_but_its_own_commits(failure: str) -> None:
    """Who was refused beside them, for a state that may not be the present one, is asked again."""
    with replicas(2, follows=False) as ((one, two), journals):
        guess(journals)
        for _ in range(2):
            add(two)

        def fail() -> None:
            if failure == "undecided":
                lost()
            raise StateStoreFull("full")

        journals[0].before_optimistic = once(fail)
        made, refused = together(
            one, lambda: add(one), lambda: add(one, conditions=Conditions(model_revision=2))
        )
        if failure == "full":
            assert made.reason is Reason.STATE_STORE_FULL
        else:
            assert "did not happen" in made.message
        assert refused.header.revision == 3
        assert count(one) == 3


def test_a_function_that_writes_waits_for_its_turn() -> None:
    """It runs once, whatever others commit; so does what waits behind it."""
    runs: list[int] = []

    def bump(variable: FakeVariable) -> FakeFunction:
        def run() -> dict[str, Any]:
            runs.append(1)
            variable.write(variable.stage(np.asarray(variable.read().numpy() + 1)))
            return {}

        return FakeFunction("bump", run, reads=("count",), writes=("count",))

    with replicas(2, follows=False, functions=[bump]) as ((one, two), journals):
        guess(journals)
        add(two)
        results = together(one, lambda: add(one), lambda: one.run("bump", {}, {}), lambda: add(one))
        assert [result.header.revision for result in results] == [2, 3, 4]
        assert len(runs) == 1
        assert journals[0].given == [True, False]


def test_guessing_writers_at_all_replicas_make_one_order() -> None:
    """No revision twice, no gap, nothing lost; the last write is everybody's."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    answers: list[int] = []

    def write(live: LiveModel, number: int) -> None:
        chance = random.Random(seed + number)
        for _ in range(WRITES):
            conditions = Conditions()
            if chance.random() < 0.3:
                conditions = Conditions(model_revision=live.header.revision)
            try:
                answer = add(live, read_back=Read("count"), conditions=conditions)
            except Exception as error:
                assert getattr(error, "reason", None) is Reason.REVISION_MISMATCH  # noqa: PT017
                continue
            answers.append(answer.header.revision)
            assert answer.values["count"].numpy() == answer.header.revision

    with replicas(REPLICAS) as (models, journals):
        guess(journals)
        threads = [
            threading.Thread(target=write, args=(live, number))
            for number, live in enumerate([*models, *models])
        ]
        for thread in threads:
            thread.start()
        join(threads)
        assert sorted(answers) == list(range(1, len(answers) + 1))
        assert len(answers) > WRITES
        until(lambda: {live.header.revision for live in models} == {len(answers)})
        assert {int(np.asarray(value_of(live, "count"))) for live in models} == {len(answers)}
        assert [journal.gave_up for journal in journals] == [[]] * REPLICAS
