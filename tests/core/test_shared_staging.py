"""Large values of a shared log: kept before the turn, read without it, and bounded."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from tests.core import shared_log
from tests.core.shared_log import Replica, SharedLog
from tests.core.test_following import add, count, made, replicas
from tests.core.test_live_model import SET, refusal, value_of
from tests.waiting import join, until
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import Reason
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.commits import WriteRequest
from varserve_service.core.ports.journal import Position
from varserve_service.core.ports.messages import Conditions

TABLE_BYTES = 40


def put(live: LiveModel, number: float, **options: Any) -> int:
    writes = [Write("table", SET, np.full((5, 2), number, np.float32))]
    return live.assign(writes, **options).header.revision


@pytest.mark.parametrize("bound", [TABLE_BYTES - 1, TABLE_BYTES])
def test_large_values_are_staged_before_the_turn(bound: int) -> None:
    """While another replica has the turn; what was staged is given up when the commit ended."""
    with replicas(1) as ((live,), (journal,)):
        journal.inline_bytes = bound
        with journal._log.row:
            writing = threading.Thread(target=put, args=(live, 7))
            writing.start()
            if bound < TABLE_BYTES:
                until(lambda: len(journal.staged) == 1)
                (staged,) = journal.staged
                assert (list(staged.values), staged.discarded) == (["table"], False)
        join([writing])
        assert len(journal.staged) == (bound < TABLE_BYTES)
        assert all(staged.discarded for staged in journal.staged)
        assert (value_of(live, "table") == 7).all()


def test_a_condition_on_what_others_wrote_is_not_refused_early() -> None:
    """This replica is behind: the revision that the caller has seen is at another one."""
    with replicas(2, follows=False) as ((one, two), (_, journal)):
        journal.inline_bytes = 1
        assert add(one).header.revision == 1
        assert put(two, 7, conditions=Conditions(model_revision=1)) == 2
        error = refusal(put, one, 8, conditions=Conditions(model_revision=1))
        assert error.reason is Reason.REVISION_MISMATCH
        assert len(journal.staged) == 1


def test_a_request_that_was_done_stages_nothing() -> None:
    """Where this replica knows of it."""
    with replicas(1) as ((live,), (journal,)):
        journal.inline_bytes = 1
        request = WriteRequest("r", b"")
        assert [put(live, 7, request=request) for _ in range(2)] == [1, 1]
        assert len(journal.staged) == 1


@pytest.mark.parametrize("staged", [True, False])
def test_what_is_beyond_the_bound_is_refused(staged: bool) -> None:
    """Before it is staged, or where it is known: nothing changes, and what fits goes through."""
    with replicas(1) as ((live,), (journal,)):
        journal.inline_bytes = 1 if staged else 2**20
        journal.max_commit_bytes = TABLE_BYTES - 1
        error = refusal(put, live, 7)
        assert error.reason is Reason.VALUE_TOO_LARGE
        assert f"at most {TABLE_BYTES - 1} bytes, the setting state_commit_bytes" in error.message
        assert f"found {TABLE_BYTES};" in error.message
        assert (journal.staged, value_of(live, "table").sum()) == ([], 0)
        journal.max_commit_bytes = TABLE_BYTES
        assert put(live, 7) == 1


class Behind(Replica):
    """Gives turns with one missed commit each, in which nothing can be appended until the last."""

    def __init__(self, log: SharedLog) -> None:
        super().__init__(log, follows=False)
        self.turns: list[int] = []

    @contextmanager
    def turn(
        self, known: Position, deadline: float | None, *, sure: bool
    ) -> Iterator[shared_log.Turn]:
        with super().turn(known, deadline, sure=sure) as turn:
            missed = list(turn.missed)
        self.turns.append(len(missed))
        if len(missed) > 1:
            yield shared_log.Turn(self, missed[:1], behind=True)
            return
        with super().turn(known, deadline, sure=sure) as turn:
            yield turn


def test_a_writer_that_is_behind_follows_without_the_turn() -> None:
    """As often as it takes; then it commits, once, on top of all of it."""
    log = SharedLog()
    other = LiveModel(made(), journal=Replica(log))  # type: ignore[arg-type]
    journal = Behind(log)
    behind = LiveModel(made(), journal=journal)  # type: ignore[arg-type]
    try:
        for _ in range(4):
            add(other)
        follow = behind._parts.committer._follower.apply
        locked: list[bool] = []

        def applying(staged: Any) -> None:
            locked.append(log.row.locked())
            follow(staged)

        behind._parts.committer._follower.apply = applying  # type: ignore[method-assign]
        assert add(behind).header.revision == 5
        assert count(behind) == 5
        assert journal.turns == [4, 3, 2, 1]
        assert locked == [False, False, False, True]
    finally:
        behind.close()
        other.close()
