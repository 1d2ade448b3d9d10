"""Reading a model's history and watching its commits.

Never changes state. Knows the history, the watchers and the model's lock.
"""

from __future__ import annotations

import fnmatch
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial

from varserve_service.core.arrays.regions import region_shape
from varserve_service.core.change.past import Past, Reversal, reversal
from varserve_service.core.commit.partwise import is_large, read_by_parts
from varserve_service.core.commit.watchers import Event, Watcher, event_of
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.memory import Reservation
from varserve_service.core.ports.commits import Changed, CommitRecord
from varserve_service.core.ports.loaded_model import Value, Variable
from varserve_service.core.ports.messages import Admit, Conditions, Entry, Header, Read, Snapshot
from varserve_service.core.values.casts import check_cast, sent_as

from .naming import MAX_NAME_SHOWN
from .parts import Parts

# How much of the history a watcher that starts at an old revision gets at once.
_BATCH_COMMITS = 256
_BATCH_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Page:
    """The records of some commits, the newest first.

    `oldest`: the oldest revision that the values of the history reach. `max_bytes`: bytes of values
    that the history keeps.
    """

    header: Header
    commits: tuple[CommitRecord, ...]
    oldest: int
    max_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Events on the way to the present. `watcher` is set when there are no more: it goes on."""

    header: Header
    events: tuple[Event, ...]
    watcher: Watcher | None


class Timeline:
    """The history and the watchers of one model.

    Every method may be called from any thread. `deadline` is in seconds of `time.monotonic`; None
    waits for ever.
    """

    def __init__(self, parts: Parts) -> None:
        self._memory = parts.memory
        self._lock = parts.lock
        self._revisions = parts.revisions
        self._variables = parts.variables
        self._history = parts.history
        self.watchers = parts.watchers
        names = Counter(variable.spec.name for variable in self._variables.sorted)
        self.display_names = {
            spec.path: spec.name if names[spec.name] == 1 else spec.path
            for spec in (variable.spec for variable in self._variables.sorted)
        }
        """The displayed name of each variable, by path: its name if unique, else its path."""

    @property
    def last_write(self) -> int | None:
        """When the last commit was made, in ns since 1970; None when none is known. Never waits."""
        return self._history.last_time

    def select(
        self, patterns: Sequence[str], among: Collection[str] | None = None
    ) -> frozenset[str] | None:
        """Paths of the variables whose name or path fits one of the patterns; None for all.

        `among`: paths; it is as if there were no other variables. Raises RequestError
        VARIABLE_NOT_FOUND for a pattern that fits none.
        """
        if not patterns:
            return None if among is None else frozenset(among)
        specs = [
            variable.spec
            for variable in self._variables.sorted
            if among is None or variable.spec.path in among
        ]
        found: set[str] = set()
        for pattern in patterns:
            fits = re.compile(fnmatch.translate(pattern)).match
            fitting = {spec.path for spec in specs if fits(spec.name) or fits(spec.path)}
            if not fitting:
                model = self._revisions.header.model
                raise RequestError(
                    Reason.VARIABLE_NOT_FOUND,
                    f"model {model!r} has no variable that fits {pattern[:MAX_NAME_SHOWN]!r}",
                    model=model,
                    variable=pattern[:MAX_NAME_SHOWN],
                )
            found |= fitting
        return frozenset(found)

    def read(
        self,
        reads: Sequence[Read],
        revision: int,
        *,
        epoch: str = "",
        admit: Admit | None = None,
        deadline: float | None = None,
    ) -> Snapshot:
        """Values as they were at a revision.

        Raises as LiveModel.read, what `check` does, and OutOfMemory: what was may have to be laid
        together again. `admit` is for what is given, wholes among it.
        """
        found = [(self._variables.find(read.variable), read) for read in reads]
        for variable, read in found:
            check_cast(variable.spec, read.dtype)
        with self._memory.device.reserve(0, "the read") as copies:
            with self._lock.shared(deadline):
                self.check(revision, epoch)
                header = replace(self._revisions.header, revision=revision)
                # Once for each variable, however often it is read: it may have been written often.
                later = {
                    path: self._history.changes_after(path, revision)
                    for path in {variable.spec.path for variable, _ in found}
                }
                taken = [
                    self._take(variable, read, revision, later[variable.spec.path], admit, copies)
                    for variable, read in found
                ]
            entries = []
            for (variable, read), (written, work_out) in zip(found, taken, strict=True):
                if deadline is not None and time.monotonic() >= deadline:
                    raise RequestError(
                        Reason.DEADLINE_EXCEEDED, "the deadline passed before all was worked out"
                    )
                value = sent_as(variable, work_out(), read.dtype)
                entries.append(Entry(variable.spec.name, written, value))
            return Snapshot(header, tuple(entries))

    def _take(
        self,
        variable: Variable,
        read: Read,
        revision: int,
        later: Sequence[Changed],
        admit: Admit | None,
        copies: Reservation,
    ) -> tuple[int, Callable[[], Value]]:
        """Revision of the last write as it was, and what works the value out."""
        spec, region = variable.spec, read.region
        written = self._history.last_write(spec.path, revision)
        if region is None and variable.is_initialized() and is_large(variable):
            wholes = [changed.previous for changed in later if changed.region is None]
            if not wholes or wholes[0] is not None:  # else it had no value then
                value = read_by_parts(variable, self._lock, self._history, later, read.dtype)
                if admit is not None:
                    admit(spec, read, value.shape, False)
                return written, lambda: value
        if not later and variable.is_initialized():
            if admit is not None:
                shape = variable.shape()
                if region is not None:
                    shape = region_shape(region, shape, variable=spec.name)
                admit(spec, read, shape, True)
            present = variable.read(region)
            return written, lambda: present
        past = Past(variable, later, region)
        if admit is not None:
            admit(spec, read, past.shape, True)
        thing = f"variable {spec.name!r} as it was at revision {revision}"
        copies.add(past.taken_bytes, thing)
        past.take()
        return written, past.value if region is None else partial(self._cut, past, thing)

    def _cut(self, past: Past, thing: str) -> Value:
        """A part of what was, which has to be laid together first; of a whole that is the value."""
        with self._memory.reserve_both(past.copied_bytes, thing):
            return past.value()

    def commits(
        self,
        limit: int,
        *,
        before: int | None = None,
        paths: Collection[str] | None = None,
        deadline: float | None = None,
    ) -> Page:
        """At most `limit` commits before a revision that changed one of the variables."""
        page: list[CommitRecord] = []
        with self._lock.shared(deadline):
            for commit in self._history.newest_first:
                if len(page) == limit:
                    break
                if (before is None or commit.revision < before) and (
                    paths is None or any(write.path in paths for write in commit.writes)
                ):
                    page.append(commit)
            history = self._history
            return Page(self._revisions.header, tuple(page), history.oldest, history.max_bytes)

    def watch(self, after: int | None, epoch: str = "", deadline: float | None = None) -> Batch:
        """The next events after a revision, or, when there are none before the present, a watcher.

        None: from now on. A watcher gets every commit that is later than the last event: the look
        at the history and the joining are one. Raises what `check` does.
        """
        with self._lock.shared(deadline):
            header = self._revisions.header
            after = header.revision if after is None else after
            self.check(after, epoch)
            events: list[Event] = []
            nbytes = 0
            for commit in self._history.after(after):
                if len(events) == _BATCH_COMMITS or nbytes > _BATCH_BYTES:
                    return Batch(header, tuple(events), None)
                event = event_of(commit, self.watchers.limits)
                events.append(event)
                nbytes += event.nbytes
            return Batch(header, tuple(events), self.watchers.join(header.revision))

    def reversals(self, revision: int, paths: Collection[str], epoch: str) -> list[Reversal]:
        """What gives those variables that were written since a revision their values of then.

        `paths` empty: of all variables. The caller holds the model's lock. Raises RequestError
        VARIABLE_UNINITIALIZED, and what `check` does.
        """
        self.check(revision, epoch)
        written = self._history.written(revision)
        return [
            reversal(variable, self._history.changes_after(variable.spec.path, revision))
            for variable in self._variables.sorted
            if variable.spec.path in written and (not paths or variable.spec.path in paths)
        ]

    def check(self, revision: int, epoch: str) -> None:
        """Raises RequestError EPOCH_MISMATCH, REVISION_IN_FUTURE, REVISION_COMPACTED.

        The caller holds the model's lock, shared or exclusively.
        """
        self._revisions.check(Conditions(epoch=epoch))
        header = self._revisions.header
        if revision > header.revision:
            raise RequestError(
                Reason.REVISION_IN_FUTURE,
                f"model {header.model!r}: expected at most revision {header.revision}, the present "
                f"one, found {revision}",
                model=header.model,
                current_revision=header.revision,
            )
        if not self._history.reaches(revision):
            raise RequestError(
                Reason.REVISION_COMPACTED,
                f"model {header.model!r}: the history reaches back to revision "
                f"{self._history.oldest}, found {revision}",
                model=header.model,
                oldest_revision=self._history.oldest,
            )
