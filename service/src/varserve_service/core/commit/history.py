"""The last commits of a model, and what they tell of earlier values of each variable.

The record of a commit stays until too many commits follow it. Its values go earlier, when all
together take too many bytes.

Knows commits. The caller holds the model's lock: exclusively to add, shared to read.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Protocol
from weakref import WeakSet

from varserve_service.core.ports.commits import Changed, Commit, CommitRecord
from varserve_service.core.ports.loaded_model import Value


class Reader(Protocol):
    """Reads a variable as it is at one revision, for longer than it holds the lock."""

    def overtaken(self, changed: Changed) -> None:
        """The variable has changed. The model's lock is held exclusively.

        If that is undone, what it replaced is there again, so that a reader need not know.
        """
        ...


class History:
    """The last commits, oldest first: `max_commits` records, values of at most `max_bytes`."""

    def __init__(self, max_commits: int = 10_000, max_bytes: int = 256 * 2**20) -> None:
        self._max_commits = max_commits
        self.max_bytes = max_bytes
        self._oldest = 0
        self._records: deque[CommitRecord] = deque()  # of commits whose values are gone
        self._commits: deque[Commit] = deque()
        self._nbytes = 0
        self._last_time: int | None = None
        # For each variable the revisions of its kept writes, and of the last one before them.
        self._writes: defaultdict[str, deque[int]] = defaultdict(deque)
        self._written_before: dict[str, int] = {}
        self._attaching = threading.Lock()
        self._readers: defaultdict[str, WeakSet[Reader]] = defaultdict(WeakSet)

    def attach(self, path: str, reader: Reader) -> None:
        """Tell a reader of each change of the variable, for as long as the reader is there.

        So it needs no commit to be kept for it. The model's lock is held, shared or not.
        """
        with self._attaching:
            self._readers[path].add(reader)

    def begin(
        self, oldest: int, written: Mapping[str, int], records: Iterable[CommitRecord] = ()
    ) -> None:
        """Begin at a revision, before any commit is added.

        `written`: revisions of the last writes by variable path; other variables have none.
        `records`: of the commits up to that revision, oldest first.
        """
        self._oldest = oldest
        self._records.extend(records)
        self._written_before = dict(written)

    def __len__(self) -> int:
        """How many commits are kept with their values."""
        return len(self._commits)

    @property
    def oldest(self) -> int:
        """The oldest revision at which, and after which, every variable's value is known."""
        return self._oldest

    @property
    def last_time(self) -> int | None:
        """When the last commit was made, kept or not, in ns since 1970. Needs no lock."""
        return self._last_time

    @property
    def newest_first(self) -> Iterator[CommitRecord]:
        """The record of every commit that is kept, with or without its values."""
        for commit in reversed(self._commits):
            yield commit.record()
        yield from reversed(self._records)

    def add(self, commit: Commit) -> None:
        """Keep a commit. The oldest records go when they are too many, values when too large."""
        self._commits.append(commit)
        self._last_time = commit.time
        self._nbytes += commit.nbytes
        for changed in commit.changed:
            self._writes[changed.variable.path].append(commit.revision)
        while self._commits and self._nbytes > self.max_bytes:
            self._records.append(self._drop_values().record())
        while len(self._records) + len(self._commits) > self._max_commits:
            if self._records:
                self._records.popleft()
            else:
                self._drop_values()

    def moved(self, path: str, revision: int, value: Value) -> None:
        """The whole value that a variable was given at a revision, and still has, is elsewhere now.

        The model's lock is held exclusively.
        """
        number = revision - self._oldest - 1
        if not (self._commits and 0 <= number < len(self._commits)):
            return
        commit = self._commits[number]
        changed = tuple(
            replace(each, value=value)
            if each.variable.path == path and each.region is None and not each.separate
            else each
            for each in commit.changed
        )
        self._commits[number] = replace(commit, changed=changed)

    def tell_readers(self, changed: Sequence[Changed]) -> None:
        """Variables have changed in memory, by what may become a commit or be undone.

        The model's lock is held exclusively, since before the change.
        """
        for each in changed:
            path = each.variable.path
            if path not in self._readers:
                continue
            readers = list(self._readers[path])
            if not readers:
                del self._readers[path]
            for reader in readers:
                reader.overtaken(each)

    def _drop_values(self) -> Commit:
        commit = self._commits.popleft()
        self._nbytes -= commit.nbytes
        self._oldest = commit.revision
        for changed in commit.changed:
            path = changed.variable.path
            self._written_before[path] = self._writes[path].popleft()
        return commit

    def reaches(self, revision: int) -> bool:
        """Whether the values of every commit after this revision are kept."""
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
