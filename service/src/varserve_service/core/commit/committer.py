"""How proposals become commits: one after the other in memory, together on disk.

Owns the order in which proposals are made, and the rule that no caller sees or is told of a commit
that a crash could lose. Knows the journal's port; knows nothing of what a proposal changes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from varserve_service.core.errors import (
    JournalError,
    Reason,
    RequestError,
    StateStoreUnavailable,
)
from varserve_service.core.memory import ModelMemory
from varserve_service.core.ports.commits import Commit, CommitListener, WriteRequest
from varserve_service.core.ports.journal import Entry, Journal, KeptCommit, Position, StagedValues
from varserve_service.core.ports.loaded_model import Value, Variable
from varserve_service.core.ports.messages import Answer, sent_bytes
from varserve_service.core.ports.observer import UNOBSERVED, Observer
from varserve_service.core.ports.shared_journal import (
    AnyJournal,
    AppendUndecided,
    SharedJournal,
    Turn,
    TurnNeeded,
)

from .following import Follower
from .freshness import Freshness
from .history import History
from .idempotency import IdempotencyCache
from .lock import ReadersWriterLock
from .partwise import tell_readers
from .proposal import Proposal, Terms
from .queue import Queue, too_late
from .revisions import Revisions
from .watchers import Watchers


class Committer:
    """Commits to one model.

    Without a journal each proposal is on its own. With one, proposals that come while others wait
    for the disk queue up; the first of them then makes all of them, one after the other, under one
    hold of the exclusive lock, and one sync makes all of them durable before the lock is released.
    """

    def __init__(
        self,
        lock: ReadersWriterLock,
        revisions: Revisions,
        idempotency: IdempotencyCache[Answer],
        history: History,
        watchers: Watchers,
        journal: AnyJournal | None,
        memory: ModelMemory,
        follower: Follower,
        observer: Observer = UNOBSERVED,
    ) -> None:
        self._follower = follower
        self._shared: SharedJournal | None = None
        self._own: Journal | None = None
        if journal is not None and journal.shared is None:
            self._own = journal
        elif journal is not None:
            self._shared = journal.shared
        self._position = Position(0) if journal is None else journal.position
        self.freshness = Freshness(revisions, self._shared, lambda: self._position)
        """How recent the state is, for those who wait for it."""
        self._undecided: list[Proposal] = []
        self._lock = lock
        self._revisions = revisions
        self._idempotency = idempotency
        self._history = history
        self._watchers = watchers
        self._memory = memory
        self._observer = observer
        self._queue = Queue()
        # Of whoever makes commits: those of this process, or those of others.
        self._turn = threading.Lock()

    def commit(self, proposal: Proposal, on_commit: CommitListener | None = None) -> Answer:
        """Make a proposal, durably; `on_commit` is told if it became a commit.

        Raises what making it raises; RequestError DEADLINE_EXCEEDED, STATE_STORE_FULL, and those of
        its conditions and request id. Whatever is raised, nothing was changed.
        """
        if self._own is None and self._shared is None:
            with self._lock.exclusive(proposal.terms.deadline):
                commits = self._make(iter((proposal,)))
            self._observe(commits)
            self.freshness.moved()
        else:
            self._commit_in_turn(proposal)
        answer = proposal.answer
        if on_commit is not None and proposal.commit is not None:
            on_commit(answer.header, proposal.commit)
        return answer

    def answered(self, request: WriteRequest | None) -> Answer | None:
        """The answer that a request got before. The lock is held, shared or not.

        None where others commit as well: what they did may not be durable yet. Raises RequestError
        as `IdempotencyCache.find` does.
        """
        return None if self._shared is not None else self._idempotency.find(request)

    def room_to_keep(
        self, values: Iterable[tuple[Variable, int]], thing: str
    ) -> AbstractContextManager[object]:
        """Room on the host for values that a journal brings there from a device, with their bytes.

        Raises OutOfMemory.
        """
        brought, memory = 0, self._memory
        if (self._own or self._shared) and not memory.is_host:
            of_device = [n for v, n in values if memory.of(v.spec.device) is memory.device]
            brought = sum(of_device)
        return memory.host.reserve(brought, f"what is kept of {thing}")

    def staged(
        self, values: Mapping[str, Value], terms: Terms
    ) -> AbstractContextManager[StagedValues | None]:
        """Keep large values before the lock is taken, so that no caller waits for that.

        None when there is nothing to be gained. Entering raises RequestError when the conditions do
        not hold even now, STATE_STORE_FULL, STATE_STORE_UNAVAILABLE and VALUE_TOO_LARGE.
        """
        journal = self._own or self._shared
        if journal is None:
            return nullcontext()
        nbytes = sum(map(sent_bytes, values.values()))
        if nbytes <= journal.inline_bytes:
            return nullcontext()
        return self._staged(journal, values, nbytes, terms)

    @contextmanager
    def _staged(
        self,
        journal: Journal | SharedJournal,
        values: Mapping[str, Value],
        nbytes: int,
        terms: Terms,
    ) -> Iterator[StagedValues | None]:
        with self._lock.shared(terms.deadline):
            done_before = self._idempotency.find(terms.request) is not None
            if not done_before and self._own is not None:
                # Where others commit, too, this process may be behind what the caller has seen.
                self._revisions.check(terms.conditions)
        if done_before:
            yield None
            return
        self._check_bytes(nbytes)
        staged = journal.stage(values, terms.deadline)
        try:
            yield staged
        finally:
            staged.discard()

    # Where others commit as well.

    @property
    def position(self) -> Position:
        """That of the last commit, of this process or another."""
        return self._position

    def follow(self, commits: Sequence[KeptCommit]) -> None:
        """Make commits of other processes. Raises OutOfMemory, JournalError."""
        with self._turn:
            self._follow(commits)

    def _follow(self, commits: Sequence[KeptCommit]) -> None:
        if not commits:
            return
        # Read after an earlier position, before a commit of this process: it may be another one.
        for commit in commits:
            if commit.revision == self._position.revision and commit.position != self._position:
                raise JournalError(
                    f"commit {commit.revision} of this replica is not the one in the log, which "
                    "lost commits in a failover: this replica builds its state anew"
                )
        commits = [each for each in commits if each.revision > self._position.revision]
        if not commits:
            return
        staged = [self._follower.stage(commit) for commit in commits]
        with self._lock.exclusive():
            try:
                self._follower.apply(staged)
            finally:
                last = self._revisions.current
                for commit in commits:
                    if self._position.revision < commit.revision <= last:
                        self._position = commit.position
        self.freshness.moved()

    def _resolve(self, shared: SharedJournal) -> None:
        """Find out what became of an append that was undecided, and end its proposals."""
        proposals, self._undecided = self._undecided, []
        try:
            happened, commits = shared.resolve(self._position)
            self._follow(commits)
        except BaseException as error:
            for proposal in proposals:
                proposal.failed(error)
            return
        for proposal in proposals:
            if proposal.commit is None:
                # It only ended a lease, and the log does not tell of that.
                message = "the connection to the state was lost; the lease may have ended"
                proposal.failed(StateStoreUnavailable(message, done="unknown"))
            elif happened:
                proposal.done()
                proposal.on_durable(proposal.answer.header.revision)
            else:
                proposal.failed(
                    StateStoreUnavailable(
                        "the connection to the state was lost while the commit was written; it did "
                        "not happen, and nothing was changed"
                    )
                )

    # With a journal: one thread leads, the others wait for their outcome.

    def _commit_in_turn(self, proposal: Proposal) -> None:
        if not self._queue.enter(proposal):
            return
        try:
            with self._turn:
                while not proposal.ended:
                    try:
                        self._lead(proposal)
                    finally:
                        self._queue.settle()
        finally:
            self._queue.leave()

    def _lead(self, proposal: Proposal) -> None:
        deadline, shared = proposal.terms.deadline, self._shared
        try:
            if shared is None:
                with self._lock.exclusive(deadline):
                    commits = self._make(self._queue.take())
            else:
                commits = self._make_in_turn(shared, deadline, sure=proposal.needs_turn)
        except RequestError as error:
            # The lock or the turn was not available in time. The others have their own deadlines.
            if not proposal.ended:
                self._queue.withdraw(proposal)
                proposal.failed(error)
        except Exception as error:
            if shared is None:
                raise
            shared.give_up(error)
            self._queue.withdraw(proposal)
            proposal.failed(
                StateStoreUnavailable("this replica cannot go on from its state; ask another one")
            )
        else:
            self._observe(commits)
            self.freshness.moved()
        if shared is not None and self._undecided:
            self._resolve(shared)

    def _make_in_turn(
        self, shared: SharedJournal, deadline: float | None, *, sure: bool
    ) -> list[Commit]:
        while True:
            with shared.turn(self._position, deadline, sure=sure) as turn:
                if not turn.behind:
                    self._follow(turn.missed)
                    try:
                        with self._lock.exclusive(deadline):
                            return self._make(self._queue.take(optimistic=turn.optimistic), turn)
                    except TurnNeeded:
                        sure = True
                        continue
            self._follow(turn.missed)

    # The way of proposals through their states, under the exclusive lock.

    def _make(self, proposals: Iterator[Proposal], turn: Turn | None = None) -> list[Commit]:
        """Make proposals in memory, then durable, then known; every one has ended then.

        Returns the commits that they became. Of an optimistic turn it raises TurnNeeded, and all
        proposals wait again: what they were made on, or refused for, may not be the present state.
        """
        made: list[Proposal] = []
        repeated: list[tuple[Proposal, Answer]] = []
        refused: list[tuple[Proposal, BaseException]] = []
        for proposal in proposals:
            try:
                answer = self._make_in_memory(proposal)
            except BaseException as error:
                refused.append((proposal, error))
            else:
                if answer is None:
                    made.append(proposal)
                else:
                    repeated.append((proposal, answer))
        try:
            appended = self._make_durable(made, turn)
        except BaseException as error:
            self._undo(made)
            if turn is not None and turn.optimistic:
                self._put_back([each for each, _ in (*repeated, *refused)])
                repeated, refused = [], []
            if isinstance(error, TurnNeeded):
                self._put_back(made)
                raise
            if isinstance(error, AppendUndecided):
                self._undecided = made
            else:
                refused += [(proposal, error) for proposal in made]
            _refuse(refused)
            self._repeat(repeated, turn)
            return []
        _refuse(refused)
        # An append makes durable what was appended before.
        self._repeat(repeated, None if appended else turn)
        # Whatever fails from here on, no caller waits for ever: all proposals have their answers.
        for proposal in made:
            proposal.done()
        for proposal in made:
            self._make_known(proposal)
        return [proposal.commit for proposal in made if proposal.commit is not None]

    def _undo(self, made: Sequence[Proposal]) -> None:
        for proposal in reversed(made):
            self._revisions.move_back(proposal.replaced_revisions)
            proposal.undo()

    def _put_back(self, proposals: Sequence[Proposal]) -> None:
        """Let proposals, which are not made or have been undone, be made anew."""
        for proposal in proposals:
            proposal.to_be_made_anew()
        self._queue.put_back(proposals)

    def _repeat(self, repeated: Sequence[tuple[Proposal, Answer]], turn: Turn | None) -> None:
        """Give proposals that were done before their first answers."""
        try:
            if repeated and turn is not None:
                turn.confirm()
        except RequestError as error:
            for proposal, _ in repeated:
                proposal.failed(error)
        else:
            for proposal, answer in repeated:
                proposal.done(answer)

    def _make_in_memory(self, proposal: Proposal) -> Answer | None:
        """Make a proposal; or what its request was answered before."""
        terms = proposal.terms
        if terms.deadline is not None and time.monotonic() >= terms.deadline:
            raise too_late()
        answer = self._idempotency.find(terms.request)
        if answer is not None:
            return answer
        self._revisions.check(terms.conditions)
        proposal.make()
        tell_readers(proposal.changed, self._lock, self._history)
        self._check_size(proposal)
        commit = None
        if proposal.changed:
            paths = [changed.variable.path for changed in proposal.changed]
            proposal.replaced_revisions = self._revisions.move(paths)
            commit = Commit(
                self._revisions.current,
                time.time_ns(),
                proposal.kind,
                terms.origin,
                terms.request,
                tuple(proposal.changed),
            )
        proposal.made(Answer(self._revisions.header, proposal.values), commit)
        return None

    def _check_size(self, proposal: Proposal) -> None:
        """Raises RequestError VALUE_TOO_LARGE, with the proposal undone."""
        if self._shared is None:
            return
        try:
            self._check_bytes(sum(sent_bytes(c.value) for c in proposal.changed))
        except RequestError:
            proposal.undo()
            raise

    def _check_bytes(self, nbytes: int) -> None:
        """Raises RequestError VALUE_TOO_LARGE."""
        if self._shared is not None and nbytes > self._shared.max_commit_bytes:
            most = self._shared.max_commit_bytes
            raise RequestError(
                Reason.VALUE_TOO_LARGE,
                f"expected a commit of at most {most} bytes, the setting state_commit_bytes of "
                f"replicas that share a database, found {nbytes}; nothing was changed; write it "
                "in parts, or raise the setting at all replicas",
                limit=most,
            )

    def _make_durable(self, made: Sequence[Proposal], turn: Turn | None) -> bool:
        """Whether there was anything to be made durable."""
        entries = [
            Entry(proposal.commit, proposal.answer.values, proposal.staged)
            for proposal in made
            if proposal.commit is not None
        ]
        leases = [] if turn is None else [each for proposal in made for each in proposal.leases()]
        if not (entries or leases):
            if turn is not None and turn.optimistic:
                raise TurnNeeded
            return False
        began = time.monotonic()
        if turn is not None:
            self._position = turn.append(entries, leases)
        elif self._own is not None:
            self._own.append(entries)
        else:
            return False
        self._observer.synced(time.monotonic() - began, len(entries))
        return True

    def _make_known(self, proposal: Proposal) -> None:
        answer = proposal.answer
        if proposal.commit is not None:
            self._history.add(proposal.commit)
            self._watchers.publish(proposal.commit)
        proposal.on_durable(answer.header.revision)
        nbytes = sum(map(sent_bytes, answer.values.values()))
        self._idempotency.keep(proposal.terms.request, answer, nbytes)

    def _observe(self, commits: Sequence[Commit]) -> None:
        for commit in commits:
            self._observer.committed(sum(sent_bytes(c.value) for c in commit.changed))


def _refuse(proposals: Sequence[tuple[Proposal, BaseException]]) -> None:
    for proposal, error in proposals:
        proposal.failed(error)
