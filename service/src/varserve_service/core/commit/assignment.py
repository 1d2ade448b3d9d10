"""One assign from the caller's writes to what it did: staged and worked out, then made or undone.

Knows changes and revisions; the lock is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from varserve_service.core.change import changes
from varserve_service.core.change.changes import Change
from varserve_service.core.change.writes import StagedWrite
from varserve_service.core.ports.commits import Changed, CommitKind
from varserve_service.core.ports.loaded_model import LoadedModel, Value, Variable

from .committer import Done
from .lock import ReadersWriterLock
from .revisions import Revisions

_EMPTY = changes.Base(None, None)


class Assignment:
    """Writes that were checked and whose values are on the device; one group for each variable."""

    def __init__(
        self, groups: Sequence[Sequence[StagedWrite]], revisions: Revisions, loaded: LoadedModel
    ) -> None:
        self._groups = groups
        self._revisions = revisions
        self._loaded = loaded
        self._worked_out: list[tuple[int | None, Change]] = []

    def work_out(self, lock: ReadersWriterLock, deadline: float | None) -> None:
        """Work the changes out before the exclusive lock, against the values there are now.

        Each comes with its variable's revision, or None when it holds whatever the revision. Should
        somebody write a variable before the lock is had, its change is worked out once more.
        """
        bases: list[tuple[int | None, changes.Base]] = [(None, _EMPTY)] * len(self._groups)
        if any(changes.needs_base(group) for group in self._groups):
            with lock.shared(deadline):
                bases = [
                    (self._revisions.of(_path(group)), changes.capture(group))
                    if changes.needs_base(group)
                    else (None, _EMPTY)
                    for group in self._groups
                ]
        self._worked_out = [
            (revision, changes.work_out(group, base))
            for group, (revision, base) in zip(self._groups, bases, strict=True)
        ]

    @property
    def variables(self) -> list[Variable]:
        """The variables that are written."""
        return [group[0].variable for group in self._groups]

    def values(self) -> dict[str, Value]:
        """What was worked out, by path of the variable."""
        return {change.variable.spec.path: change.value for _, change in self._worked_out}

    def make(self, read_back: Callable[[], Mapping[str, Value]]) -> Done:
        """Do all of it or nothing; `read_back` is part of all. The exclusive lock is held.

        Raises RequestError REVISION_MISMATCH, and what working out and reading back raise.
        """
        for write in [write for group in self._groups for write in group]:
            self._revisions.check_variable(write.variable.spec, write.if_revision_match)
        ready = [
            change if not self._overtaken(group, revision) else self._fresh(group)
            for group, (revision, change) in zip(self._groups, self._worked_out, strict=True)
        ]
        return make_changes(CommitKind.ASSIGN, ready, self._loaded, read_back)

    def _overtaken(self, group: Sequence[StagedWrite], revision: int | None) -> bool:
        return revision is not None and self._revisions.of(_path(group)) != revision

    def _fresh(self, group: Sequence[StagedWrite]) -> Change:
        return changes.work_out(group, changes.capture(group))


def make_changes(
    kind: CommitKind,
    ready: Sequence[Change],
    loaded: LoadedModel,
    read_back: Callable[[], Mapping[str, Value]] = dict,
) -> Done:
    """Make changes, all or none; what `read_back` gives after them is part of all.

    The exclusive lock is held. Raises OutOfMemory, and what `read_back` raises.
    """
    preimages = _preimages(ready, loaded)
    previous = [c.previous(before) for c, before in zip(ready, preimages, strict=True)]

    def undo() -> None:
        # Also what was not made yet when another failed: it is written as it is.
        for change, preimage in zip(reversed(ready), reversed(preimages), strict=True):
            if preimage is not None:  # No value can be taken away again.
                change.variable.write(preimage, change.written)

    try:
        for change in ready:
            if change.written is not None:
                change.variable.write(change.value, change.written)
        loaded.write([(c.variable, c.whole or c.value) for c in ready if c.written is None])
        values = read_back()
    except BaseException:
        undo()
        raise
    changed = [
        Changed(change.variable.spec, change.region, change.value, before)
        for change, before in zip(ready, previous, strict=True)
    ]
    return Done(kind, changed, values, undo)


def _preimages(ready: Sequence[Change], loaded: LoadedModel) -> list[Value | None]:
    """What taking back each change needs; None for a variable without a value."""
    # What writes a region has a value: its change was worked out from it.
    whole = [c.variable for c in ready if c.written is None and c.variable.is_initialized()]
    wholes = dict(zip(whole, loaded.read(whole), strict=True))
    return [
        wholes.get(change.variable)
        if change.written is None
        else change.variable.read(change.written)
        for change in ready
    ]


def _path(group: Sequence[StagedWrite]) -> str:
    return group[0].variable.spec.path
