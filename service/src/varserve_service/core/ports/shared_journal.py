"""The port of a journal that several processes share: each appends to it in its turn.

What others append is followed; what became of an append whose answer was lost is resolved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from varserve_service.core.arrays.patches import Array, Part

from .journal import Entry, Journal, KeptCommit, Position, StagingJournal


@dataclass(frozen=True, slots=True, eq=False)
class KeptHeld:
    """What a lease holds of one variable: the part that its write replaced, and with it what.

    `own` is the revision of the write that it keeps, `under` of the one that this replaced.
    """

    path: str
    own: int
    under: int
    part: Part
    previous: Array


@dataclass(frozen=True, slots=True, eq=False)
class LeaseChange:
    """What becomes of a lease of a shared journal, with the commit that it is kept with.

    `held` None: it has ended; `only_if_due`: and if it was renewed meanwhile, nothing is kept. Else
    it holds this from now on; a new one ends after so many `seconds`.
    """

    lease: int
    held: tuple[KeptHeld, ...] | None
    seconds: float = 0
    only_if_due: bool = False


class AppendUndecided(Exception):
    """Whether an append happened is not known yet: `SharedJournal.resolve` finds out."""


class TurnNeeded(Exception):
    """An optimistic turn was not enough. Nothing was appended: ask for a turn that is sure."""


class Turn(Protocol):
    """The right to append. No other process appends to the state while it lasts.

    An optimistic one has nothing locked, and takes no round trip to begin. What is appended in it
    is kept if nobody else has appended since the position that it began with; else, and where a
    mere append is not enough, its methods raise TurnNeeded.
    """

    @property
    def optimistic(self) -> bool:
        """Whether it is."""
        ...

    @property
    def missed(self) -> Sequence[KeptCommit]:
        """The commits of others since the position that it began with, oldest first."""
        ...

    @property
    def behind(self) -> bool:
        """Others committed more than is read while everybody waits: nothing can be appended.

        `missed` are then the first of it, or all: follow them, and ask for another turn.
        """
        ...

    def append(self, entries: Sequence[Entry], leases: Sequence[LeaseChange] = ()) -> Position:
        """As `Journal.append`, and what becomes of leases with it; the position of the last commit.

        Raises AppendUndecided, and LEASE_NOT_FOUND for a lease that was renewed or ended meanwhile.
        """
        ...

    def confirm(self) -> None:
        """Make durable what was appended before the turn, by this process or another.

        A commit that can be read need not be durable yet. Raises StateStoreUnavailable.
        """
        ...


@dataclass(frozen=True, slots=True)
class Standing:
    """How a process stands to the state that it shares, as far as it knows.

    `silent_seconds` since it read the log last, `behind` commits that it has not taken from there.
    `behind_seconds`: how old its state was when it read the log last, without the time that the log
    was out of reach; infinite until it had all of it once. Whether a commit is `synchronous`: on
    another machine, too, before it is acknowledged.
    """

    silent_seconds: float
    behind: int
    behind_seconds: float
    synchronous: bool


class KeptLeases(Protocol):
    """The leases of a shared journal: all processes see the same, and end by one clock.

    From any thread. Raises StateStoreUnavailable, and JournalError for what is damaged.
    """

    def count(self) -> int:
        """How many there are."""
        ...

    def renew(self, lease: int) -> float | None:
        """Let a lease last for its seconds, which are returned, from now on; None: there is none.

        When this returns, it is durable.
        """
        ...

    def due(self) -> tuple[Sequence[int], float | None]:
        """Leases whose time is over, and the seconds until the next one ends; None: there is none.

        Of many that are due some.
        """
        ...

    def is_due(self, lease: int) -> bool:
        """Whether it is there and its time is over."""
        ...

    def held(self, lease: int) -> Sequence[KeptHeld] | None:
        """What a lease holds; None: there is none."""
        ...

    def beside(self, lease: int) -> Mapping[int, Sequence[KeptHeld]]:
        """What other leases hold of the variables that this one holds something of."""
        ...


class SharedJournal(StagingJournal, Protocol):
    """A journal that several processes append to, each in turn and with a copy of the state."""

    @property
    def shared(self) -> SharedJournal:
        """Itself; tells it from a Journal."""
        ...

    @property
    def standing(self) -> Standing:
        """How this process stands to the log. Never waits."""
        ...

    @property
    def leases(self) -> KeptLeases:
        """The leases of all processes."""
        ...

    @property
    def max_commit_bytes(self) -> int:
        """Bytes of values that one commit may have."""
        ...

    def turn(
        self, known: Position, deadline: float | None, *, sure: bool
    ) -> AbstractContextManager[Turn]:
        """Wait for the right to append. What is not appended in it has no effect.

        It may be an optimistic one unless it has to be `sure`. Raises RequestError
        DEADLINE_EXCEEDED, StateStoreUnavailable.
        """
        ...

    def news(self, known: Position) -> Sequence[KeptCommit]:
        """Wait for commits after a position, for a bounded time, also without a connection.

        Raises JournalError when the log does not go on from there, or the journal is closed.
        """
        ...

    def newest(self, known: Position) -> Position:
        """The last commit of all processes; every one that was acknowledged is not after it.

        Raises StateStoreUnavailable when the journal cannot be asked, or does not keep what it is
        given any more; JournalError when the log does not go on from `known`. From one thread.
        """
        ...

    @property
    def check_seconds(self) -> float:
        """How often all processes compare their values; 0: never."""
        ...

    def check_round(self) -> tuple[int, int] | None:
        """The present round of comparing, and the revision that it is about.

        None: this process took part in it. Raises StateStoreUnavailable.
        """
        ...

    def report(self, number: int, hashes: Mapping[str, str]) -> None:
        """What this process's variables hash to in a round. Raises StateStoreUnavailable."""
        ...

    def reports(self, number: int) -> Sequence[Mapping[str, str]]:
        """What those of all processes do, as far as they have said so.

        Raises StateStoreUnavailable.
        """
        ...

    def resolve(self, known: Position) -> tuple[bool, Sequence[KeptCommit]]:
        """Whether the last append, which was undecided, happened; and the commits since a position.

        The answer is durable. Raises StateStoreUnavailable when it cannot be had in time.
        """
        ...

    def give_up(self, error: Exception) -> None:
        """This copy of the state cannot follow the others any more: end the process."""
        ...


AnyJournal: TypeAlias = Journal | SharedJournal
"""`shared` is None of a Journal, and itself of a SharedJournal."""
