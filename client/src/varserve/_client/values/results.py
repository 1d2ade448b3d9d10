"""What calls give: readings, snapshots, commits and outputs, each with the state it speaks of.

Owns the values that operations return. Knows numpy; knows no calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from varserve.tensors import Array

from .enums import StrEnum
from .function_messages import FunctionMessage
from .specs import StateHeader


class OfState:
    """What speaks of a state: it has the header's fields."""

    __slots__ = ()
    header: StateHeader

    @property
    def model(self) -> str:
        """Name of the model."""
        return self.header.model

    @property
    def version(self) -> int:
        """The SavedModel's version."""
        return self.header.version

    @property
    def epoch(self) -> str:
        """The life of the state that `revision` counts in."""
        return self.header.epoch

    @property
    def revision(self) -> int:
        """The model's revision that this speaks of."""
        return self.header.revision


@dataclass(frozen=True, eq=False)
class Reading(OfState):
    """One variable at one revision. `value` is None when it was not newer than asked for."""

    header: StateHeader
    variable_revision: int
    """Revision of the variable's last write."""
    value: Array | None


class Snapshot(OfState, Mapping[str, Array]):
    """The values of several variables at one revision, by the names they were asked for with."""

    def __init__(
        self, header: StateHeader, values: Mapping[str, Array], revisions: Mapping[str, int]
    ) -> None:
        self.header = header
        self.revisions = revisions
        """Revision of each variable's last write."""
        self._values = values

    def __getitem__(self, name: str) -> Array:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def _ipython_key_completions_(self) -> list[str]:
        return list(self._values)

    def __repr__(self) -> str:
        return f"<varserve.Snapshot of {self.model!r} at revision {self.revision}: {list(self)}>"

    def _repr_html_(self) -> str:
        from . import notebook

        return notebook.arrays(self)


@dataclass(frozen=True, eq=False, repr=False)
class Commit(OfState):
    """A change that was made. `revision` is its own; `value` is what was asked to be read back."""

    header: StateHeader
    value: Array | None = None

    def __repr__(self) -> str:
        return f"<varserve.Commit of {self.model!r}: revision {self.revision}>"

    def _repr_html_(self) -> str:
        from . import notebook

        return notebook.commit(self)


class Outputs(OfState, dict[str, Array]):
    """A function's outputs by their flat names, in the order that the function declares.

    Where a call names the outputs that it wants, they come in the order of the call. `revision` is
    the one that the function ran at; for a function that may write, the one that it made.
    """

    def __init__(
        self,
        header: StateHeader,
        outputs: Mapping[str, Array],
        messages: Iterable[FunctionMessage] = (),
    ) -> None:
        super().__init__(outputs)
        self.header = header
        self.messages = tuple(messages)
        """The lines that the function printed, where they were asked for."""

    def _repr_html_(self) -> str:
        from . import notebook

        return notebook.arrays(self)


class CommitKind(StrEnum):
    """What made a commit."""

    UNSPECIFIED = "unspecified"
    ASSIGN = "assign"
    RUN = "run"
    REVERT = "revert"
    EXPIRE = "expire"


class CommitInfo(NamedTuple):
    """Who made a commit, when and why. `time` is by the service's clock."""

    revision: int
    time: datetime
    kind: CommitKind
    subject: str
    message: str
    request_id: str


class ListedCommit(NamedTuple):
    """A commit of the history. `variables` are at most 100 of `variable_count` names."""

    info: CommitInfo
    variables: tuple[str, ...]
    variable_count: int
    nbytes: int
    """Bytes of the values that it left."""

    @property
    def revision(self) -> int:
        """The commit's revision."""
        return self.info.revision


class Commits(OfState, list[ListedCommit]):
    """Commits, the newest first."""

    def __init__(
        self,
        header: StateHeader,
        commits: Iterable[ListedCommit],
        oldest_revision: int,
        history_bytes: int,
    ) -> None:
        super().__init__(commits)
        self.header = header
        self.oldest_revision = oldest_revision
        """The oldest revision that can still be read, reverted to and watched from.

        Commits up to it are listed as well; the history has dropped their values.
        """
        self.history_bytes = history_bytes
        """Bytes of values that the history keeps; what replaces more cannot be reverted."""

    def _repr_html_(self) -> str:
        from . import notebook

        return notebook.commits(self)


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """What a commit did to one variable, or to a region of it.

    `region` is an index as numpy takes it: None for the whole variable, a tuple of slices, or an
    int64 array of rows. `value` and `previous` are of the region; None when they were not asked
    for, or are not kept any more, and `previous` also when there was none. Arrays cannot be written
    to: all watches of a client have the same ones.
    """

    variable: str
    region: tuple[slice, ...] | Array | None
    value: Array | None
    previous: Array | None
    shape: tuple[int, ...]
    nbytes: int
    """Of the value, as it travels."""


@dataclass(frozen=True, eq=False, repr=False)
class Event(OfState):
    """One commit as a watch gives it: all that it did to the variables that are watched."""

    header: StateHeader
    info: CommitInfo
    changes: tuple[Change, ...]

    def __getitem__(self, variable: str) -> Change:
        for change in self.changes:
            if change.variable == variable:
                return change
        raise KeyError(variable)

    def __iter__(self) -> Iterator[Change]:
        return iter(self.changes)

    def __len__(self) -> int:
        return len(self.changes)

    def __contains__(self, variable: object) -> bool:
        """Whether the commit changed a variable."""
        return any(change.variable == variable for change in self.changes)

    def _ipython_key_completions_(self) -> list[str]:
        return [change.variable for change in self.changes]

    def __repr__(self) -> str:
        names = [change.variable for change in self.changes]
        return f"<varserve.Event of {self.model!r}: revision {self.revision} changed {names}>"


def revision_of(of: int | Snapshot | Commit | None, epoch: str = "") -> tuple[int | None, str]:
    """The revision, and the epoch that it counts in; `epoch` where only a number is given."""
    return (of.revision, of.epoch) if isinstance(of, (Snapshot, Commit)) else (of, epoch)
