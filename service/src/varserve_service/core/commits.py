"""What was done to a model's state: commits, and the history of the last ones.

Knows the ports. The caller of a History holds the model's lock: exclusive to add, shared to look.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice

from .answers import WriteRequest
from .ports import Value, VariableSpec
from .regions import Region


class CommitKind(StrEnum):
    """What made a commit."""

    ASSIGN = "assign"
    RUN = "run"


@dataclass(frozen=True, slots=True)
class Origin:
    """Who made a commit, and why: for people who read the history. Both may be empty."""

    subject: str = ""
    message: str = ""


UNKNOWN_ORIGIN = Origin()


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

    @property
    def nbytes(self) -> int:
        """Bytes that `previous` keeps in memory when nothing else does."""
        return self.previous.nbytes if self.previous is not None else 0


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


class History:
    """The last commits, oldest first, bounded by count and by bytes of previous values."""

    def __init__(self, max_commits: int = 10_000, max_bytes: int = 256 * 2**20) -> None:
        self._max_commits = max_commits
        self._max_bytes = max_bytes
        self._commits: deque[Commit] = deque()
        self._nbytes = 0

    def __len__(self) -> int:
        return len(self._commits)

    def add(self, commit: Commit) -> None:
        """Keep a commit, and let go of the oldest that are too many or too large."""
        self._commits.append(commit)
        self._nbytes += commit.nbytes
        while self._commits and (
            len(self._commits) > self._max_commits or self._nbytes > self._max_bytes
        ):
            self._nbytes -= self._commits.popleft().nbytes

    def reaches(self, revision: int) -> bool:
        """Whether every commit after this revision is kept, up to the last."""
        return not self._commits or self._commits[0].revision <= revision + 1

    def after(self, revision: int) -> Iterator[Commit]:
        """The commits that are kept of those after a revision, oldest first."""
        first = self._commits[0].revision if self._commits else 0
        return islice(self._commits, max(0, revision + 1 - first), None)
