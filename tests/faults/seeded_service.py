"""The service with one bug in it, for tests that must find it: `... -m MODULE serve FLAGS`.

Which bug is in the environment. What makes it seen more often is there without the bug, too: a slow
disk, writes and reads that take their time, and now and then a write that fails half way.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from varserve_service.__main__ import main
from varserve_service.core.arrays.regions import Region, Rows
from varserve_service.core.change.changes import ChangeSet
from varserve_service.core.commit.committer import Committer
from varserve_service.core.commit.lock import ReadersWriterLock
from varserve_service.core.commit.revisions import Revisions
from varserve_service.core.commit.watchers import Watchers
from varserve_service.core.errors import OutOfMemory
from varserve_service.core.model.reading import Reading
from varserve_service.core.ports.commits import Commit
from varserve_service.core.ports.loaded_model import Value, Variable
from varserve_service.journal import SqliteJournal

VARIABLE = "SEEDED_BUG"
NO_BUG = "none"
FAILS_EVERY = 40
HICCUP_EVERY = 30
"""So many syncs of the disk are quick, and then one is not: many a kill comes while it lasts."""


class Through:
    """A variable that is written another way, and is otherwise what it is."""

    def __init__(self, variable: Variable, write: Callable[..., None]) -> None:
        self._variable = variable
        self._write = write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._variable, name)

    def write(self, value: Value, region: Region | None = None) -> None:
        self._write(self._variable, value, region)


def in_two_halves(variable: Variable, value: Value, region: Region | None) -> None:
    """Write it, rows in two goes."""
    if not isinstance(region, Rows) or len(region.indices) < 2:
        variable.write(value, region)
        return
    half = len(region.indices) // 2
    array = value.numpy()
    for part in (slice(0, half), slice(half, None)):
        variable.write(variable.stage(array[part].copy()), Rows(region.indices[part]))
        time.sleep(0.001)


@dataclass
class Writing:
    """How commits are written; bugs change it."""

    write: Callable[[Variable, Value, Region | None], None] = in_two_halves
    undo: bool = True


WRITING = Writing()


def slow_and_failing() -> None:
    """What a right service has to cope with."""
    append, entries = SqliteJournal.append, Reading.entries
    count, appends = itertools.count(1), itertools.count(1)

    def slow_append(journal: SqliteJournal, entries: Sequence[Any]) -> None:
        time.sleep(0.5 if next(appends) % HICCUP_EVERY == 0 else 0.005)
        append(journal, entries)

    def slow_entries(reading: Reading, checked: Sequence[Any]) -> tuple[Any, ...]:
        found: list[Any] = []
        for each in checked:
            found += entries(reading, [each])
            time.sleep(0.0003)
        return tuple(found)

    def make(change_set: ChangeSet) -> Any:
        ready = change_set._changes
        fails = len(ready) > 1 and next(count) % FAILS_EVERY == 0
        failed = False

        def write(variable: Variable, value: Value, region: Region | None) -> None:
            nonlocal failed
            if fails and not failed and variable is ready[-1].variable:
                failed = True
                raise OutOfMemory("no memory, on purpose")
            if WRITING.undo or not failed:
                WRITING.write(variable, value, region)

        change_set._changes = [
            replace(change, variable=Through(change.variable, write)) for change in ready
        ]
        return real_make(change_set)

    real_make = ChangeSet.make
    SqliteJournal.append = slow_append  # type: ignore[method-assign]
    Reading.entries = slow_entries  # type: ignore[method-assign]
    ChangeSet.make = make  # type: ignore[method-assign]


def acknowledge_before_sync() -> None:
    """Commits are written by somebody else, later."""
    append = SqliteJournal.append
    waiting: queue.Queue[tuple[SqliteJournal, Sequence[Any]]] = queue.Queue()

    def later(journal: SqliteJournal, entries: Sequence[Any]) -> None:
        waiting.put((journal, entries))

    def write() -> None:
        while True:
            append(*waiting.get())

    threading.Thread(target=write, daemon=True).start()
    SqliteJournal.append = later  # type: ignore[method-assign]


def scatter_without_the_lock() -> None:
    """Rows are written when the lock is given back already."""

    def write(variable: Variable, value: Value, region: Region | None) -> None:
        if isinstance(region, Rows):
            threading.Thread(target=in_two_halves, args=(variable, value, region)).start()
        else:
            in_two_halves(variable, value, region)

    WRITING.write = write


def half_a_transaction_on_error() -> None:
    """What was done before the failure stays."""
    WRITING.undo = False


def watch_before_commit() -> None:
    """Watchers hear of a commit before it is durable."""
    make_durable, publish = Committer._make_durable, Watchers.publish

    def publish_first(committer: Committer, made: Sequence[Any], turn: Any) -> None:
        for proposal in made:
            if proposal.commit is not None:
                publish(committer._watchers, proposal.commit)
        make_durable(committer, made, turn)

    def published_already(watchers: Watchers, commit: Commit) -> None:
        pass

    Committer._make_durable = publish_first  # type: ignore[method-assign]
    Watchers.publish = published_already  # type: ignore[method-assign]


def compare_with_a_stale_cache() -> None:
    """Conditions are checked against revisions that are a little old."""
    check, cache = Revisions.check_variable, {}

    def check_cached(revisions: Revisions, spec: Any, expected: int | None) -> None:
        now, present = time.monotonic(), revisions._written
        if now - cache.get("since", 0) > 0.02:
            cache.update(since=now, written=dict(present))
        revisions._written = cache["written"]
        try:
            check(revisions, spec, expected)
        finally:
            revisions._written = present

    Revisions.check_variable = check_cached  # type: ignore[method-assign]


def snapshot_without_the_lock() -> None:
    """Readers do not wait for writers."""
    ReadersWriterLock.shared = (  # type: ignore[method-assign]
        lambda lock, deadline=None: contextlib.nullcontext()  # type: ignore[assignment,misc]
    )


BUGS: dict[str, Callable[[], None]] = {
    bug.__name__: bug
    for bug in (
        acknowledge_before_sync,
        scatter_without_the_lock,
        half_a_transaction_on_error,
        watch_before_commit,
        compare_with_a_stale_cache,
        snapshot_without_the_lock,
    )
}

if __name__ == "__main__":
    slow_and_failing()
    BUGS.get(os.environ[VARIABLE], lambda: None)()
    main()
