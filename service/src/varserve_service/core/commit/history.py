"""The last commits of a model, and by them what each variable was at an earlier revision.

Knows commits, and nothing of locks: the caller holds the model's, exclusive to add, shared to look.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from itertools import islice

from varserve_service.core.ports.commits import Changed, Commit


class History:
    """The last commits, oldest first, bounded by count and by the bytes that only they keep."""

    def __init__(self, max_commits: int = 10_000, max_bytes: int = 256 * 2**20) -> None:
        self._max_commits = max_commits
        self._max_bytes = max_bytes
        self._oldest = 0
        self._commits: deque[Commit] = deque()
        self._nbytes = 0
        self._last_time: int | None = None
        # For each variable the revisions of its kept writes, and of the last one before them.
        self._writes: defaultdict[str, deque[int]] = defaultdict(deque)
        self._written_before: dict[str, int] = {}

    def begin(self, oldest: int, written: Mapping[str, int]) -> None:
        """Begin at a revision, before any commit is added.

        `written`: revisions of the last writes by variable path; who is not named has none.
        """
        self._oldest = oldest
        self._written_before = dict(written)

    def __len__(self) -> int:
        return len(self._commits)

    @property
    def oldest(self) -> int:
        """The oldest revision that is known: what every variable was then and ever after."""
        return self._oldest

    @property
    def last_time(self) -> int | None:
        """When the last commit was made, kept or not, in ns since 1970. Needs no lock."""
        return self._last_time

    @property
    def newest_first(self) -> Iterator[Commit]:
        """The commits that are kept."""
        return reversed(self._commits)

    def add(self, commit: Commit) -> None:
        """Keep a commit, and let go of the oldest that are too many or too large."""
        if not self._commits:
            self._oldest = commit.revision - 1
        self._commits.append(commit)
        self._last_time = commit.time
        self._nbytes += commit.nbytes
        for changed in commit.changed:
            self._writes[changed.variable.path].append(commit.revision)
        while self._commits and (
            len(self._commits) > self._max_commits or self._nbytes > self._max_bytes
        ):
            self._forget()

    def _forget(self) -> None:
        commit = self._commits.popleft()
        self._nbytes -= commit.nbytes
        self._oldest = commit.revision
        for changed in commit.changed:
            path = changed.variable.path
            self._written_before[path] = self._writes[path].popleft()

    def reaches(self, revision: int) -> bool:
        """Whether every commit after this revision is kept, up to the last."""
        return revision >= self._oldest

    def after(self, revision: int) -> Iterator[Commit]:
        """The commits that are kept of those after a revision, oldest first."""
        return islice(self._commits, max(0, revision - self._oldest), None)

    def changes_after(self, path: str, revision: int) -> list[Changed]:
        """What commits after a revision that `reaches` did to a variable, oldest first."""
        return [
            changed
            for write in self._writes.get(path, ())
            if write > revision
            for changed in self._commits[write - self._oldest - 1].changed
            if changed.variable.path == path
        ]

    def written(self, revision: int) -> set[str]:
        """Paths of the variables that were written after a revision that `reaches`."""
        return {path for path, writes in self._writes.items() if writes and writes[-1] > revision}

    def last_write(self, path: str, revision: int) -> int:
        """Revision of a variable's last write as it was at a revision; 0: as loaded."""
        writes = self._writes.get(path, ())
        before = bisect_right(writes, revision)
        return writes[before - 1] if before else self._written_before.get(path, 0)
