"""The port of a journal, which keeps commits.

Knows the ports and commits. What a commit is and how state comes back from it is decided in the
core; a journal keeps what it is given and gives it back, or says that it cannot.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from varserve_service.core.arrays.patches import Array, Part

from .commits import Commit, CommitKind, CommitRecord, Origin, WriteRequest
from .loaded_model import Value


@dataclass(frozen=True, slots=True, eq=False)
class KeptChange:
    """The value that a part of a variable had after a commit, in host memory."""

    path: str
    part: Part
    value: Array


@dataclass(frozen=True, slots=True, eq=False)
class KeptBase:
    """A variable, or all of it that was ever written, at the horizon.

    `revision` is that of its last write.
    """

    revision: int
    change: KeptChange


@dataclass(frozen=True, slots=True)
class Position:
    """The last commit that a process knows, and the append that it was part of.

    Two processes that agree on both agree on everything before.
    """

    revision: int
    append: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class KeptCommit:
    """A commit after the horizon.

    `append` and `answer` are those of a shared journal: the append that the commit was part of, and
    what its caller was told, None where that is too large to be kept.
    """

    revision: int
    time: int
    kind: CommitKind
    origin: Origin
    request: WriteRequest | None
    changes: tuple[KeptChange, ...]
    append: str = ""
    answer: Mapping[str, Array] | None = None

    @property
    def position(self) -> Position:
        """Where a process is that has made it."""
        return Position(self.revision, self.append)


@dataclass(frozen=True, slots=True, eq=False)
class KeptAnswer:
    """What a write with a request id was answered; `values` None: too large to be kept."""

    revision: int
    time: int
    request: WriteRequest
    values: Mapping[str, Array] | None


class StagedValues(Protocol):
    """Values of one commit that are on disk already, and not visible."""

    def discard(self) -> None:
        """Let go of them; nothing happens when a commit has been appended with them."""
        ...


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


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A commit to be kept, and what its caller is told."""

    commit: Commit
    answer: Mapping[str, Value]
    staged: StagedValues | None = None


class AppendUndecided(Exception):
    """Whether an append happened is not known yet: `SharedJournal.resolve` finds out."""


class Turn(Protocol):
    """The right to append. No other process appends to the state while it lasts."""

    @property
    def missed(self) -> Sequence[KeptCommit]:
        """The commits of others since the position that it began with, oldest first."""
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

    `silent_seconds` since it read the log last, `behind` commits that it has not taken from there,
    and whether a commit is `synchronous`: on another machine, too, before it is acknowledged.
    """

    silent_seconds: float
    behind: int
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


class SharedJournal(Protocol):
    """What a journal adds that several processes append to, each with a copy of the state."""

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

    def turn(self, known: Position, deadline: float | None) -> AbstractContextManager[Turn]:
        """Wait for the right to append. What is not appended in it has no effect.

        Raises RequestError DEADLINE_EXCEEDED, StateStoreUnavailable.
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


class Journal(Protocol):
    """Where one model's commits are kept.

    First it gives back what it has, each kind once and from one thread; `start` ends that. Then it
    takes more: `append` from one thread at a time, `stage` from any. Raises JournalError when what
    it has is damaged.
    """

    @property
    def shared(self) -> SharedJournal | None:
        """Itself, where other processes append as well."""
        ...

    @property
    def position(self) -> Position:
        """That of the last commit that it gave back."""
        ...

    @property
    def epoch(self) -> str: ...

    @property
    def horizon(self) -> int:
        """The revision before the first commit that is kept: `base` is the state there."""
        ...

    @property
    def inline_bytes(self) -> int:
        """Bytes of values from which on it pays to `stage` a commit."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes that it takes where it is kept. From any thread; never waits for the others."""
        ...

    def base(self) -> Iterator[KeptBase]: ...

    def records(self) -> Iterator[CommitRecord]:
        """The last commits up to the horizon, without their values, oldest first."""
        ...

    def commits(self) -> Iterator[KeptCommit]:
        """Every commit after the horizon, without a gap, oldest first."""
        ...

    def answers(self) -> Iterator[KeptAnswer]:
        """Oldest first."""
        ...

    def start(self) -> None:
        """What was kept has been taken; from now on more is kept."""
        ...

    def stage(self, values: Mapping[str, Value]) -> StagedValues:
        """Make the values of a commit durable, by path, before it is known whether it happens.

        Needs no lock. Raises StateStoreFull.
        """
        ...

    def append(self, entries: Sequence[Entry]) -> None:
        """Keep commits, all or none: when this returns, no crash takes them away.

        Raises StateStoreFull, with nothing kept.
        """
        ...

    def close(self) -> None:
        """Let go of what it is kept in. What was appended is durable already."""
        ...
