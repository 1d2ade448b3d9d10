"""What a caller wants to commit, from the request to its answer.

    state    | what is true                              | what may follow
    ---------+-------------------------------------------+-------------------------------------
    PROPOSED | it waits for its turn; nothing is changed | MADE; FAILED; DONE, if its request
             |                                           | was done before
    MADE     | memory is changed, not durably; only the  | DONE; FAILED, if it cannot be made
             | holder of the exclusive lock sees it      | durable: it is undone; PROPOSED, if
             |                                           | it is to be made anew: it is undone
    DONE     | it is durable and known to all, or had    |
             | nothing to change; its answer is there    |
    FAILED   | nothing is changed; its error is there    |

Knows the ports and changes; knows nothing of the order of commits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, auto

from varserve_service.core.change.changes import Change, ChangeSet
from varserve_service.core.ports.commits import (
    UNKNOWN_ORIGIN,
    Changed,
    Commit,
    CommitKind,
    Origin,
    WriteRequest,
)
from varserve_service.core.ports.journal import StagedValues
from varserve_service.core.ports.loaded_model import LoadedModel, Value
from varserve_service.core.ports.messages import UNCONDITIONAL, Answer, Conditions
from varserve_service.core.ports.shared_journal import LeaseChange


class State(IntEnum):
    """Where a proposal is; see the table above."""

    PROPOSED = auto()
    MADE = auto()
    DONE = auto()
    FAILED = auto()


NEXT: Mapping[State, frozenset[State]] = {
    State.PROPOSED: frozenset({State.MADE, State.DONE, State.FAILED}),
    State.MADE: frozenset({State.DONE, State.FAILED, State.PROPOSED}),
    State.DONE: frozenset(),
    State.FAILED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Terms:
    """What a caller says of a commit beside what it changes.

    `request` makes it happen once. `deadline` is in seconds of `time.monotonic`; None waits for
    ever.
    """

    request: WriteRequest | None = None
    conditions: Conditions = UNCONDITIONAL
    origin: Origin = UNKNOWN_ORIGIN
    deadline: float | None = None


class Proposal:
    """A change that a caller requests. Each kind of change defines how it is made and undone.

    `needs_history`: it looks at the history or at leases, which know of a commit only once that is
    durable, so that no other may wait for the same sync. `made_once`: it is not to be made twice,
    or more is kept of it than a commit.
    """

    kind = CommitKind.ASSIGN
    needs_history = False
    made_once = False

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.state = State.PROPOSED
        self.staged: StagedValues | None = None
        """Its values, where they are on disk already."""
        self.changed: Sequence[Changed] = ()
        """What it did, once it is MADE; nothing: there is nothing to commit."""
        self.replaced_revisions: Mapping[str, int] = {}
        """By path, the revisions of the writes that it replaced, once it is MADE."""
        self.values: Mapping[str, Value] = {}
        """What its answer has beside the header."""
        self.commit: Commit | None = None
        """What it becomes; None when it changes nothing, or was done before."""
        self._answer: Answer | None = None
        self._error: BaseException | None = None

    @property
    def needs_turn(self) -> bool:
        """Whether an optimistic turn is not enough for it."""
        return self.made_once or self.needs_history or self.staged is not None

    # What each kind of change has of its own.

    def make(self) -> None:
        """Make it in memory and set `changed` and `values`. The lock is held exclusively.

        Raises with nothing changed.
        """
        raise NotImplementedError

    def undo(self) -> None:
        """Take back what `make` did. The lock is held since then."""

    def forget(self) -> None:
        """It was undone, and will be made anew: on a state that others may have changed.

        The commits that it was made after may have been undone with it.
        """

    def on_durable(self, revision: int) -> None:
        """It is durable, and no other caller has seen it yet."""

    def leases(self) -> Sequence[LeaseChange]:
        """What becomes of leases that a shared journal keeps, once it is MADE."""
        return ()

    # Its states.

    def made(self, answer: Answer, commit: Commit | None) -> None:
        """It was made in memory; this is its answer if it becomes durable."""
        self._enter(State.MADE)
        self._answer, self.commit = answer, commit

    def to_be_made_anew(self) -> None:
        """It is not made, or has been undone: for a state that was not the present one."""
        if self.state is not State.PROPOSED:
            self._enter(State.PROPOSED)
        self.forget()
        self._answer = self.commit = None
        self.changed, self.replaced_revisions, self.values = (), {}, {}

    def done(self, answer: Answer | None = None) -> None:
        """It is durable; or `answer` is what the same request was answered before."""
        self._enter(State.DONE)
        self._answer = answer or self._answer

    def failed(self, error: BaseException) -> None:
        """It was not made, or has been undone."""
        self._enter(State.FAILED)
        self._error = error

    def _enter(self, state: State) -> None:
        assert state in NEXT[self.state], (self.state, state)
        self.state = state

    @property
    def ended(self) -> bool:
        """It has an answer or an error."""
        return not NEXT[self.state]

    @property
    def answer(self) -> Answer:
        """Its answer, if it is MADE or DONE. Raises its error if it FAILED."""
        if self._error is not None:
            raise self._error
        assert self._answer is not None
        return self._answer


class ChangeProposal(Proposal):
    """A proposal of changes that are known, or are once `changes` is called under the lock.

    What `read_back` gives after them is part of the answer, and part of all or nothing.
    """

    def __init__(
        self,
        terms: Terms,
        kind: CommitKind,
        loaded: LoadedModel,
        changes: Callable[[], Sequence[Change]],
        read_back: Callable[[], Mapping[str, Value]] = dict,
        *,
        needs_history: bool = False,
        forget: Callable[[], None] = lambda: None,
    ) -> None:
        """`forget`: what the changes were worked out from is to be taken anew."""
        super().__init__(terms)
        self.kind = kind
        self.needs_history = needs_history
        self._loaded = loaded
        self._changes = changes
        self._read_back = read_back
        self._forget = forget
        self._change_set: ChangeSet | None = None

    def make(self) -> None:
        change_set = ChangeSet(self._changes(), self._loaded)
        changed = change_set.make()
        try:
            self.values = self._read_back()
        except BaseException:
            change_set.undo()
            raise
        self.changed, self._change_set = changed, change_set

    def undo(self) -> None:
        assert self._change_set is not None
        self._change_set.undo()

    def forget(self) -> None:
        self._forget()
