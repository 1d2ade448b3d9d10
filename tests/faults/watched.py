"""What watchers were told, and whether it is all that happened, in order, once, and right.

Owns the record of a watcher and its checks against the states that a log stands for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from tests.faults.histories import Inconsistent, Logged, States


@dataclass(frozen=True, slots=True)
class Heard:
    """A message of a watch: a commit, or how far the watch has come when `changes` is None.

    `changes`: by variable what it holds and what it held before.
    """

    revision: int
    id: str = ""
    changes: dict[str, tuple[int, int]] | None = None
    at: float = 0.0


@dataclass(slots=True)
class Watched:
    """All that one watcher heard, over as many streams as it took. Began after `after`."""

    after: int
    patterns: tuple[str, ...] = ("*",)
    heard: list[Heard] = field(default_factory=list)
    resumed: int = 0

    @property
    def reached(self) -> int:
        """Where it goes on when its stream breaks."""
        return self.heard[-1].revision if self.heard else self.after


def check_watch(watched: Watched, log: Sequence[Logged], states: States) -> int:
    """Raises Inconsistent when a watcher was told what is not so; the number of its commits.

    Ordered and unique: revisions grow. Bookmarkable: after a word of how far it has come nothing
    from before that comes. Reliable: each commit that concerns it is told. Atomic and filtered:
    with all that it changed of what is watched, and nothing else. Values and previous values are
    those of the commit. Resumable: all of this across its streams.
    """
    by_revision = {entry.revision: entry for entry in log}
    concerned = [
        entry.revision
        for entry in sorted(log, key=lambda each: each.revision)
        if entry.revision > watched.after and _watched(entry, watched.patterns)
    ]
    last = watched.after
    told = []
    for heard in watched.heard:
        if heard.changes is None:
            if heard.revision < last:
                raise Inconsistent(f"a bookmark goes back from {last}: {heard}")
            last = heard.revision
            continue
        if heard.revision <= last:
            raise Inconsistent(f"expected a commit after {last}, found {heard}")
        last = heard.revision
        told.append(heard.revision)
        _check_event(heard, by_revision, watched.patterns, states)
    if last > states.last:
        raise Inconsistent(f"heard of revision {last}, and the last one is {states.last}")
    expected = [revision for revision in concerned if revision <= last]
    if told != expected:
        missing = sorted(set(expected) ^ set(told))
        raise Inconsistent(f"expected {len(expected)} commits, found {len(told)}: {missing[:10]}")
    return len(told)


def _check_event(
    heard: Heard, log: dict[int, Logged], patterns: Sequence[str], states: States
) -> None:
    assert heard.changes is not None
    entry = log.get(heard.revision)
    if entry is None:
        raise Inconsistent(f"heard of what was never committed: {heard}")
    if entry.id != heard.id:
        raise Inconsistent(f"expected {entry}, found {heard}")
    names = _watched(entry, patterns)
    if sorted(heard.changes) != names:
        raise Inconsistent(f"expected changes of {names}, found {heard}")
    for name, (value, previous) in heard.changes.items():
        expected = states.value(name, heard.revision), states.value(name, heard.revision - 1)
        if (value, previous) != expected:
            raise Inconsistent(f"expected {name} and before {expected}, found {heard}")


def _watched(entry: Logged, patterns: Sequence[str]) -> list[str]:
    return sorted(
        name for name in entry.variables if any(fnmatchcase(name, each) for each in patterns)
    )
