"""Commits, and what each of them did to variables. Pure data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from varserve_service.core.arrays.regions import Region

from .loaded_model import Value, VariableSpec
from .messages import Header


class CommitKind(StrEnum):
    """What made a commit."""

    ASSIGN = "assign"
    RUN = "run"
    REVERT = "revert"
    EXPIRE = "expire"


@dataclass(frozen=True, slots=True)
class Origin:
    """The subject that made a commit, and its reason, for the history. Both may be empty."""

    subject: str = ""
    message: str = ""


UNKNOWN_ORIGIN = Origin()


@dataclass(frozen=True, slots=True)
class WriteRequest:
    """What makes a write the same write: its subject's id, and a digest of all that it asks for.

    An id is its subject's own: others may use the same one. `fingerprint`: a digest of what is
    asked for, and after it one of the body, where that was looked at.
    """

    id: str
    fingerprint: bytes
    subject: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Changed:
    """What a commit did to one variable, or to a region of it.

    `value` is what is there after the commit; `previous` what was there before it, None for a
    variable that had no value. Writing `value` again, in the order of the commits, gives the same
    state to the last bit; writing `previous`, in the opposite order, takes it back.
    """

    variable: VariableSpec
    region: Region | None
    value: Value
    previous: Value | None
    separate: bool = False
    """A whole `value` is in memory of its own, and not in the variable's."""

    @property
    def nbytes(self) -> int:
        """Bytes that only this keeps: a whole `value` is the next one's previous, or present."""
        previous = self.previous.nbytes if self.previous is not None else 0
        shared = self.region is None and not self.separate
        return previous if shared else previous + self.value.nbytes


@dataclass(frozen=True, slots=True)
class WrittenBytes:
    """That a commit wrote a variable, and the bytes of the value that it left."""

    path: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class CommitRecord:
    """Who made a commit, when, why and to what, without its values.

    `time` is in nanoseconds since 1970; `request_id` may be empty.
    """

    revision: int
    time: int
    kind: CommitKind
    origin: Origin
    request_id: str
    writes: tuple[WrittenBytes, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Commit:
    """One atomic change of one or more variables.

    `time` is in nanoseconds since 1970, by the service's clock. The revisions of a model's commits
    follow each other without a gap.
    """

    revision: int
    time: int
    kind: CommitKind
    origin: Origin
    request: WriteRequest | None
    changed: tuple[Changed, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of memory that keeping this commit takes."""
        return sum(changed.nbytes for changed in self.changed)

    def record(self) -> CommitRecord:
        """What remains of the commit when its values are dropped."""
        return CommitRecord(
            self.revision,
            self.time,
            self.kind,
            self.origin,
            self.request.id if self.request is not None else "",
            tuple(WrittenBytes(each.variable.path, each.value.nbytes) for each in self.changed),
        )


CommitListener: TypeAlias = Callable[[Header, Commit], None]
"""Called with each commit and the state after it, once it is durable and before it is answered.

Called without the model's lock, on the thread that requested the commit. An exception reaches the
caller instead of the answer; the commit stands.
"""
