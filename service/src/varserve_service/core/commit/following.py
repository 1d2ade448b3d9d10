"""Commits that another process made to the same state, made here as well.

A journal may be shared: what one process appends, the others follow. Knows the ports, and what a
commit leaves behind in memory; knows nothing of who makes commits here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from varserve_service.core.arrays.patches import Elements
from varserve_service.core.change.changes import Change, ChangeSet, kept_change
from varserve_service.core.errors import JournalError, OutOfMemory
from varserve_service.core.ports.commits import Commit
from varserve_service.core.ports.journal import KeptCommit, Position
from varserve_service.core.ports.loaded_model import LoadedModel, Value
from varserve_service.core.ports.messages import Answer, sent_bytes
from varserve_service.core.ports.shared_journal import SharedJournal
from varserve_service.core.values.host_value import HostValue

from .history import History
from .idempotency import IdempotencyCache
from .lock import ReadersWriterLock
from .partwise import tell_readers
from .revisions import Revisions
from .watchers import Watchers

_RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Staged:
    """A commit whose values are where their variables take them from."""

    kept: KeptCommit
    changes: Sequence[Change]


class Follower:
    """Makes commits of others, one after the other."""

    def __init__(
        self,
        loaded: LoadedModel,
        revisions: Revisions,
        history: History,
        watchers: Watchers,
        idempotency: IdempotencyCache[Answer],
        lock: ReadersWriterLock,
    ) -> None:
        self._lock = lock
        self._loaded = loaded
        self._variables = {variable.spec.path: variable for variable in loaded.variables}
        self._revisions = revisions
        self._history = history
        self._watchers = watchers
        self._idempotency = idempotency

    def stage(self, kept: KeptCommit) -> Staged:
        """Bring the values of a commit to their variables' devices. Needs no lock.

        Raises JournalError, OutOfMemory.
        """
        changes = []
        for change in kept.changes:
            variable = self._variables.get(change.path)
            if variable is None or isinstance(change.part, Elements):
                raise JournalError(
                    f"commit {kept.revision} of another replica changes {change.path!r}, which "
                    "this replica's model does not have: all replicas need one SavedModel"
                )
            changes.append(kept_change(variable, change.part, change.value))
        return Staged(kept, changes)

    def apply(self, staged: Sequence[Staged]) -> None:
        """Make commits that follow the present revision; those before it are known already.

        The model's lock is held exclusively. Raises OutOfMemory, with those before it made;
        JournalError where one is missing.
        """
        for commit in staged:
            expected = self._revisions.current + 1
            if commit.kept.revision < expected:
                continue
            if commit.kept.revision > expected:
                raise JournalError(f"expected commit {expected}, found {commit.kept.revision}")
            self._apply(commit)

    def _apply(self, staged: Staged) -> None:
        kept = staged.kept
        changes = [_with_whole(change) for change in staged.changes]
        changed = ChangeSet(changes, self._loaded).make()
        tell_readers(changed, self._lock, self._history)
        self._revisions.move(each.variable.spec.path for each in changes)
        commit = Commit(
            kept.revision, kept.time, kept.kind, kept.origin, kept.request, tuple(changed)
        )
        self._history.add(commit)
        self._watchers.publish(commit)
        answer = None
        values: Mapping[str, Value] = {}
        if kept.answer is not None:
            values = {name: HostValue(array) for name, array in kept.answer.items()}
            answer = Answer(self._revisions.header, values)
        nbytes = sum(map(sent_bytes, values.values()))
        self._idempotency.keep(kept.request, answer, nbytes, kept.time)


def _with_whole(change: Change) -> Change:
    """The same change, with the whole value where its variable is written as a whole."""
    variable, region = change.variable, change.region
    if region is None or variable.writes_in_place:
        return change
    base = variable.read()
    whole = variable.overlay(base, change.value, region)
    return Change(variable, region, change.value, whole, variable.part(base, region))


class FollowingThread:
    """Waits for commits of others, and hands them on, until it is closed."""

    def __init__(
        self,
        journal: SharedJournal,
        position: Callable[[], Position],
        follow: Callable[[Sequence[KeptCommit]], None],
    ) -> None:
        """`follow` makes commits; `position` is that of the last one that was made."""
        self._journal = journal
        self._position = position
        self._follow = follow
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="varserve-follow", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def close(self, seconds: float = 5.0) -> None:
        """End, at the latest when the wait for commits does. Safe to call from any thread."""
        self._closed.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(seconds)

    def _run(self) -> None:
        while not self._closed.is_set():
            known = self._position()
            try:
                commits = self._journal.news(known)
                if commits and not self._closed.is_set():
                    self._follow(commits)
            except OutOfMemory:
                self._closed.wait(_RETRY_SECONDS)
            except Exception as error:
                if isinstance(error, JournalError) and self._position() != known:
                    continue  # commits of this process went on, and the log from there may be gone
                self._journal.give_up(error)
                return
