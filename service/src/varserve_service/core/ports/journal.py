"""The port of a journal, which keeps commits and gives them back.

Knows the ports and commits. What a commit is and how state comes back from it is decided in the
core; a journal keeps what it is given and gives it back, or says that it cannot. `shared_journal`
is the port of one that several processes append to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
    """Values of one commit that are kept already, and not visible."""

    def discard(self) -> None:
        """Let go of them; nothing happens when a commit has been appended with them."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A commit to be kept, and what its caller is told."""

    commit: Commit
    answer: Mapping[str, Value]
    staged: StagedValues | None = None


class KeptState(Protocol):
    """The state that a journal kept, of one model.

    It gives back what it has, each kind once and from one thread; `start` ends that. Raises
    JournalError when what it has is damaged.
    """

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

    def close(self) -> None:
        """Let go of what it is kept in. What was appended is durable already."""
        ...


class StagingJournal(KeptState, Protocol):
    """What keeps large values before their commit: both kinds of journals."""

    @property
    def inline_bytes(self) -> int:
        """Bytes of values from which on it pays to `stage` a commit."""
        ...

    def stage(self, values: Mapping[str, Value], deadline: float | None) -> StagedValues:
        """Make the values of a commit durable, by path, before it is known whether it happens.

        Needs no lock and may be called from any thread. `deadline`, in seconds of
        `time.monotonic`, is looked at where it takes long. Raises StateStoreFull,
        StateStoreUnavailable, RequestError DEADLINE_EXCEEDED.
        """
        ...


class Journal(StagingJournal, Protocol):
    """Where a model's commits are kept that this process alone makes: it is appended to.

    `append` from one thread at a time.
    """

    @property
    def shared(self) -> None:
        """Tells it from a SharedJournal."""
        ...

    def append(self, entries: Sequence[Entry]) -> None:
        """Keep commits, all or none: when this returns, no crash takes them away.

        Raises StateStoreFull, with nothing kept.
        """
        ...
