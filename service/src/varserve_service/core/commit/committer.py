"""How a change becomes a commit: one after the other in memory, together on disk.

Owns the order in which attempts happen, and the rule that nobody sees or is told of a commit that a
crash could take away. Knows the journal's port; knows nothing of what an attempt does.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.ports.commits import (
    UNKNOWN_ORIGIN,
    Changed,
    Commit,
    CommitKind,
    Origin,
    WriteRequest,
)
from varserve_service.core.ports.journal import Entry, Journal, StagedValues
from varserve_service.core.ports.loaded_model import Value
from varserve_service.core.ports.messages import (
    UNCONDITIONAL,
    Answer,
    Conditions,
    Header,
    sent_bytes,
)
from varserve_service.core.ports.observer import UNOBSERVED, Observer

from .history import History
from .idempotency import IdempotencyCache
from .lock import ReadersWriterLock
from .revisions import Revisions
from .watchers import Watchers

_TOGETHER_SECONDS = 0.005
"""After this long no further attempt joins those that wait for the same sync."""


@dataclass(frozen=True, slots=True, eq=False)
class Done:
    """What an attempt did to the model in memory, and how it is taken back.

    Nothing `changed`: there is nothing to commit. `on_durable` is called with the revision once
    nothing can take it back any more, before anybody else sees it.
    """

    kind: CommitKind
    changed: Sequence[Changed]
    values: Mapping[str, Value]
    undo: Callable[[], None]
    on_durable: Callable[[int], object] = lambda revision: None


NOTHING = Done(CommitKind.ASSIGN, (), {}, lambda: None)


@dataclass(slots=True, eq=False)
class Attempt:
    """A change that somebody wants; `act` makes it in memory, under the exclusive lock, or raises.

    `staged`: its values where they are on disk already. `needs_history`: it looks at the history or
    at leases, which know a commit only once it is durable, so that none may wait for the same sync.
    """

    act: Callable[[], Done]
    request: WriteRequest | None = None
    conditions: Conditions = UNCONDITIONAL
    origin: Origin = UNKNOWN_ORIGIN
    deadline: float | None = None
    staged: StagedValues | None = None
    needs_history: bool = False
    outcome: Answer | BaseException | None = field(default=None, init=False)
    commit: Commit | None = field(default=None, init=False)
    """What it became; None when it changed nothing, or was made before."""

    def result(self) -> Answer:
        """The answer, or the failure raised."""
        if isinstance(self.outcome, Answer):
            return self.outcome
        assert self.outcome is not None
        raise self.outcome


@dataclass(frozen=True, slots=True, eq=False)
class _Taken:
    """An attempt that was made in memory and is not durable yet."""

    attempt: Attempt
    answer: Answer
    commit: Commit | None
    undo: Callable[[], None]
    on_durable: Callable[[int], object]


class Committer:
    """Commits to one model.

    Without a journal each attempt is on its own. With one, attempts that come while others wait for
    the disk queue up; whoever is first then makes all of them, one after the other, under one hold
    of the exclusive lock, and one sync makes all of them durable before the lock is released.
    """

    def __init__(
        self,
        header: Callable[[], Header],
        lock: ReadersWriterLock,
        revisions: Revisions,
        answers: IdempotencyCache[Answer],
        history: History,
        watchers: Watchers,
        journal: Journal | None,
        observer: Observer = UNOBSERVED,
    ) -> None:
        self._header = header
        self._lock = lock
        self._revisions = revisions
        self._answers = answers
        self._history = history
        self._watchers = watchers
        self._journal = journal
        self._observer = observer
        self._queue: deque[Attempt] = deque()
        self._queueing = threading.Lock()
        self._turn = threading.Lock()

    def commit(self, attempt: Attempt) -> Answer:
        """Make an attempt, durably.

        Raises what it raises; RequestError DEADLINE_EXCEEDED, those of its conditions and request
        id, STATE_STORE_FULL. Whatever is raised, nothing was changed.
        """
        if self._journal is None:
            with self._lock.exclusive(attempt.deadline):
                made = self._make(iter((attempt,)))
            self._tell(made)
            return attempt.result()
        with self._queueing:
            self._queue.append(attempt)
        if not self._turn.acquire(timeout=_remaining(attempt.deadline)):
            if self._withdraw(attempt):
                raise _too_late()
            self._turn.acquire()  # Somebody is making it: the outcome is near.
        try:
            while attempt.outcome is None:
                self._lead(attempt)
        finally:
            self._turn.release()
        return attempt.result()

    def answered(self, request: WriteRequest | None) -> Answer | None:
        """The answer that a request got before. The lock is held, shared or not.

        Raises RequestError as `IdempotencyCache.find` does.
        """
        return self._answers.find(request)

    @contextmanager
    def staged(
        self,
        values: Mapping[str, Value],
        request: WriteRequest | None,
        conditions: Conditions,
        deadline: float | None,
    ) -> Iterator[StagedValues | None]:
        """Large values are brought to disk before the lock is taken, so that nobody waits for it.

        None when there is nothing to be gained. Raises RequestError when the conditions do not hold
        even now, and STATE_STORE_FULL.
        """
        journal = self._journal
        if journal is None or sum(map(sent_bytes, values.values())) <= journal.inline_bytes:
            yield None
            return
        with self._lock.shared(deadline):
            done_before = self._answers.find(request) is not None
            if not done_before:
                self._revisions.check(conditions)
        if done_before:
            yield None
            return
        staged = journal.stage(values)
        try:
            yield staged
        finally:
            staged.discard()

    def _withdraw(self, attempt: Attempt) -> bool:
        with self._queueing:
            if attempt not in self._queue:
                return False
            self._queue.remove(attempt)
            return True

    def _lead(self, attempt: Attempt) -> None:
        try:
            with self._lock.exclusive(attempt.deadline):
                made = self._make(self._waiting())
        except RequestError as error:
            # The lock was not to be had in time. The others go on with their own deadlines.
            self._withdraw(attempt)
            attempt.outcome = error
        else:
            self._tell(made)

    def _tell(self, made: Sequence[Commit]) -> None:
        for commit in made:
            self._observer.committed(sum(sent_bytes(each.value) for each in commit.changed))

    def _waiting(self) -> Iterator[Attempt]:
        """The attempts that go into one sync."""
        ids: set[str] = set()
        until: float | None = None
        while until is None or time.monotonic() < until:
            with self._queueing:
                if not self._queue:
                    return
                if self._queue[0].needs_history and until is not None:
                    return
                request = self._queue[0].request
                if request is not None and request.id in ids:
                    return  # It wants the answer of one that is not durable yet.
                attempt = self._queue.popleft()
            if request is not None:
                ids.add(request.id)
            yield attempt
            until = until or time.monotonic() + _TOGETHER_SECONDS

    def _make(self, attempts: Iterator[Attempt]) -> list[Commit]:
        """Make attempts in memory, then durable, then known; every one has its outcome then.

        Returns the commits that they became.
        """
        taken: list[_Taken] = []
        for attempt in attempts:
            try:
                made = self._take(attempt)
            except BaseException as error:
                attempt.outcome = error
            else:
                if made is not None:
                    taken.append(made)
        try:
            self._keep(taken)
        except BaseException as error:
            for each in taken:
                each.attempt.outcome = error
            for each in reversed(taken):
                each.undo()
            return []
        # Durable from here on: whatever fails below, nobody waits for an outcome for ever.
        for each in taken:
            each.attempt.commit = each.commit
            each.attempt.outcome = each.answer
        for each in taken:
            if each.commit is not None:
                self._history.add(each.commit)
                self._watchers.tell(each.commit)
            each.on_durable(each.answer.header.revision)
            nbytes = sum(map(sent_bytes, each.answer.values.values()))
            self._answers.keep(each.attempt.request, each.answer, nbytes)
        return [each.commit for each in taken if each.commit is not None]

    def _take(self, attempt: Attempt) -> _Taken | None:
        """Make one attempt in memory; None when it was made before."""
        if attempt.deadline is not None and time.monotonic() >= attempt.deadline:
            raise _too_late()
        answer = self._answers.find(attempt.request)
        if answer is not None:
            attempt.outcome = answer
            return None
        self._revisions.check(attempt.conditions)
        done = attempt.act()
        if not done.changed:
            return _Taken(
                attempt, Answer(self._header(), done.values), None, done.undo, done.on_durable
            )
        back = self._revisions.move(changed.variable.path for changed in done.changed)
        commit = Commit(
            self._revisions.current,
            time.time_ns(),
            done.kind,
            attempt.origin,
            attempt.request,
            tuple(done.changed),
        )

        def undo() -> None:
            back()
            done.undo()

        return _Taken(attempt, Answer(self._header(), done.values), commit, undo, done.on_durable)

    def _keep(self, taken: Sequence[_Taken]) -> None:
        if self._journal is None:
            return
        entries = [
            Entry(each.commit, each.answer.values, each.attempt.staged)
            for each in taken
            if each.commit is not None
        ]
        if entries:
            began = time.monotonic()
            self._journal.append(entries)
            self._observer.synced(time.monotonic() - began, len(entries))


def _remaining(deadline: float | None) -> float:
    return -1 if deadline is None else max(0.0, deadline - time.monotonic())


def _too_late() -> RequestError:
    return RequestError(
        Reason.DEADLINE_EXCEEDED,
        "the deadline passed while the model was busy; nothing was changed",
    )
