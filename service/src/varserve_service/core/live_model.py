"""The live state of one model: the only place where it is read as one and changed.

Owns the model's lock, epoch and revisions, and the order of a commit. Knows the ports; knows
nothing of TensorFlow, gRPC or disk.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from . import changes
from .answers import Answers, WriteRequest
from .changes import Change, StagedWrite, Write
from .commits import UNKNOWN_ORIGIN, Changed, Commit, CommitKind, Origin
from .errors import Reason, StateError
from .history import History
from .leases import Leases
from .lock import ReadersWriterLock
from .messages import (
    UNCONDITIONAL,
    Admit,
    Answer,
    Conditions,
    Description,
    Entry,
    Header,
    Read,
    Snapshot,
    VariableState,
    sent_bytes,
)
from .naming import Directory
from .overloads import choose
from .past import restored
from .ports import Constant, Function, LoadedModel, Value, Variable
from .regions import Region, region_shape
from .timeline import Timeline
from .watchers import Watchers


class LiveModel:
    """One loaded model and its state.

    Every method may be called from any thread. `deadline` is in seconds of `time.monotonic`; None
    waits for ever. A method that raises StateError has changed nothing.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        lock: ReadersWriterLock | None = None,
        answers: Answers[Answer] | None = None,
        history: History | None = None,
        watchers: Watchers | None = None,
    ) -> None:
        self._loaded = loaded
        self._lock = lock or ReadersWriterLock()
        self._answers: Answers[Answer] = answers or Answers()
        self._history = History() if history is None else history
        self._watchers = Watchers() if watchers is None else watchers
        self._leases = Leases(self._expire)
        self._epoch = secrets.token_hex(8)
        self._revision = 0
        self._variables: Directory[Variable] = Directory(
            "variable", loaded.variables, Reason.VARIABLE_NOT_FOUND, loaded.name
        )
        self._functions: Directory[Function] = Directory(
            "function", loaded.functions, Reason.FUNCTION_NOT_FOUND, loaded.name
        )
        self._by_path = {variable.spec.path: variable for variable in loaded.variables}
        self._variable_revisions = dict.fromkeys(self._by_path, 0)
        self.timeline = Timeline(
            self._lock, lambda: self.header, self._variables, self._history, self._watchers
        )

    @property
    def name(self) -> str:
        """The model's name."""
        return self._loaded.name

    @property
    def header(self) -> Header:
        """The state as it is now."""
        return Header(self._loaded.name, self._loaded.version, self._epoch, self._revision)

    def describe(self, deadline: float | None = None) -> Description:
        """All variables and functions, sorted by name, at one revision."""
        with self._lock.shared(deadline):
            return Description(
                self.header,
                self._loaded.device,
                tuple(self._state_of(variable) for variable in self._variables.sorted),
                tuple(function.spec for function in self._functions.sorted),
            )

    def check(self, writes: Sequence[Write]) -> None:
        """Check writes as far as dtypes and shapes tell, before their bytes are there.

        Of each `value` only dtype and shape are looked at. Raises StateError.
        """
        for write in writes:
            changes.check(write, self._variables.find(write.variable))

    def check_run(
        self,
        function: str,
        inputs: Mapping[str, np.ndarray[Any, Any]],
        constants: Mapping[str, Constant],
    ) -> None:
        """Check a run as far as dtypes and shapes tell, before its bytes are there.

        Of each input only dtype and shape are looked at. Raises StateError.
        """
        choose(self._functions.find(function).spec, inputs, constants)

    def read(
        self,
        reads: Sequence[Read],
        *,
        if_newer_than: int | None = None,
        epoch: str = "",
        admit: Admit | None = None,
        deadline: float | None = None,
    ) -> Snapshot:
        """Values of several variables or regions, all at the present revision.

        `if_newer_than`: leave out values whose variable was not written since that revision of
        `epoch`. `admit` is asked before a value is taken: a region is a copy, and one of rows that
        are named many times is larger than its variable. Raises StateError: VARIABLE_NOT_FOUND,
        NAME_AMBIGUOUS, VARIABLE_UNINITIALIZED, REGION_INVALID, DEADLINE_EXCEEDED, and what `admit`
        raises.
        """
        found = [(self._variables.find(read.variable), read.region) for read in reads]
        known = if_newer_than if epoch in ("", self._epoch) else None
        with self._lock.shared(deadline):
            # All are checked before the first is taken.
            taken = [self._check_read(variable, part, known, admit) for variable, part in found]
            return Snapshot(
                self.header,
                tuple(
                    self._entry(variable, part, take=take)
                    for (variable, part), take in zip(found, taken, strict=True)
                ),
            )

    def assign(
        self,
        writes: Sequence[Write],
        *,
        conditions: Conditions = UNCONDITIONAL,
        request: WriteRequest | None = None,
        origin: Origin = UNKNOWN_ORIGIN,
        lease_seconds: float | None = None,
        read_back: Read | None = None,
        max_read_back_bytes: int | None = None,
        deadline: float | None = None,
    ) -> Answer:
        """Change one or more variables as one commit; all of it happens or nothing.

        A `request` that was done before gets its first answer. `lease_seconds`: what is written is
        taken back after so many seconds, unless `renew_lease` is called in time with the commit's
        revision. `read_back` is read after the writes and before anyone else can write. Raises
        StateError, with nothing changed.
        """
        staged = self._stage(writes)
        worked_out = self._work_out(staged, deadline)

        def ready() -> list[Change]:
            for write in [write for group in staged for write in group]:
                self._check_variable_revision(write)
            return [
                change if not self._written_since(revision, group) else self._fresh(group)
                for group, (revision, change) in zip(staged, worked_out, strict=True)
            ]

        def read() -> dict[str, Value]:
            return {} if read_back is None else self._read_back(read_back, max_read_back_bytes)

        with self._lock.exclusive(deadline):
            return self._change(
                CommitKind.ASSIGN,
                ready,
                conditions=conditions,
                request=request,
                origin=origin,
                lease_seconds=lease_seconds,
                read=read,
            )

    def revert(
        self,
        revision: int,
        variables: Sequence[str] = (),
        *,
        conditions: Conditions = UNCONDITIONAL,
        request: WriteRequest | None = None,
        origin: Origin = UNKNOWN_ORIGIN,
        deadline: float | None = None,
    ) -> Answer:
        """Give variables the values that they had at a revision, as one new commit.

        `variables`: names or paths; none: all that were written since. Raises StateError, with
        nothing changed: REVISION_COMPACTED, REVISION_IN_FUTURE, VARIABLE_UNINITIALIZED.
        """
        paths = {self._variables.find(name).spec.path for name in variables}
        with self._lock.shared(deadline):
            seen = self._revision
            reversals = self.timeline.reversals(revision, paths, conditions.epoch)
        worked_out = [each.change() for each in reversals]

        def ready() -> list[Change]:
            if self._revision == seen:
                return worked_out
            again = self.timeline.reversals(revision, paths, conditions.epoch)
            return [each.change() for each in again]

        with self._lock.exclusive(deadline):
            return self._change(
                CommitKind.REVERT, ready, conditions=conditions, request=request, origin=origin
            )

    def renew_lease(self, lease: int, epoch: str = "") -> float:
        """Let a lease last for its seconds, which are returned, from now on.

        Raises StateError LEASE_NOT_FOUND, EPOCH_MISMATCH.
        """
        self._check(Conditions(epoch=epoch))
        return self._leases.renew(lease)

    def revoke_lease(
        self, lease: int, epoch: str = "", *, keep: bool = False, deadline: float | None = None
    ) -> Answer:
        """End a lease: take back now what its write left, or keep that for good.

        Raises StateError LEASE_NOT_FOUND, EPOCH_MISMATCH.
        """
        with self._lock.exclusive(deadline):
            self._check(Conditions(epoch=epoch))
            return self._end_lease(lease, "revoked", keep=keep)

    def _expire(self, lease: int) -> None:
        with self._lock.exclusive():
            if self._leases.is_due(lease):  # and was not renewed at the last moment
                self._end_lease(lease, "expired")

    def _end_lease(self, lease: int, how: str, *, keep: bool = False) -> Answer:
        """The caller holds the lock exclusively."""
        untouched = [
            held.changed
            for held in self._leases.held(lease)
            if self._variable_revisions[held.changed.variable.path] == held.own and not keep
        ]
        answer = self._change(
            CommitKind.EXPIRE,
            lambda: [restored(self._by_path[each.variable.path], each) for each in untouched],
            origin=Origin(message=f"lease {lease} {how}"),
        )
        paths = {each.variable.path for each in untouched}
        self._leases.settle(lease, paths, self._revision, keep=keep)
        return answer

    def run(
        self,
        function: str,
        inputs: Mapping[str, np.ndarray[Any, Any]],
        constants: Mapping[str, Constant],
        *,
        outputs: Sequence[str] = (),
        conditions: Conditions = UNCONDITIONAL,
        request: WriteRequest | None = None,
        origin: Origin = UNKNOWN_ORIGIN,
        max_output_bytes: int | None = None,
        deadline: float | None = None,
    ) -> Answer:
        """Run the overload that fits the inputs; one that may write is a commit and fails whole.

        `outputs`: names of the outputs to give; empty: all. More than `max_output_bytes` of them
        is MESSAGE_TOO_LARGE, with nothing changed. Raises StateError.
        """
        found = self._functions.find(function)
        index = choose(found.spec, inputs, constants)
        overload = found.spec.overloads[index]
        names = [output.name for output in overload.outputs]
        for name in outputs:
            if name not in names:
                raise StateError(
                    Reason.INPUT_MISMATCH,
                    f"function {found.spec.name!r}: no output {name[:200]!r}; "
                    f"expected outputs: {', '.join(names) or 'none'}",
                    function=found.spec.name,
                )
        needed = [self._by_path[path] for path in overload.reads]
        written = [self._by_path[path] for path in overload.writes]
        call = found.stage(index, inputs)

        def checked() -> dict[str, Value]:
            values = call()
            if outputs:
                values = {name: values[name] for name in outputs}
            nbytes = _nbytes(values)
            if max_output_bytes is not None and nbytes > max_output_bytes:
                raise StateError(
                    Reason.MESSAGE_TOO_LARGE,
                    f"function {found.spec.name!r}: the outputs take {nbytes} bytes; expected at "
                    f"most {max_output_bytes} in one message; use StreamRunFunction",
                    nbytes=nbytes,
                )
            return values

        if not written and not overload.changes_other_state:
            with self._lock.shared(deadline):
                self._check(conditions)
                self._check_initialized(needed)
                return Answer(self.header, checked())
        with self._lock.exclusive(deadline):
            answer = self._answers.find(request)
            if answer is not None:
                return answer
            self._check(conditions)
            self._check_initialized(needed)
            preimages = [(v, v.read() if v.is_initialized() else None) for v in written]
            try:
                values = checked()
            except BaseException:
                for variable, preimage in reversed(preimages):
                    if preimage is not None:
                        variable.write(preimage)
                raise
            if written:
                changed = [Changed(v.spec, None, v.read(), before) for v, before in preimages]
                self._commit(CommitKind.RUN, origin, request, changed)
            answer = Answer(self.header, values)
            self._answers.keep(request, answer, _nbytes(values))
            return answer

    # The steps of a commit.

    def _change(
        self,
        kind: CommitKind,
        ready: Callable[[], Sequence[Change]],
        *,
        conditions: Conditions = UNCONDITIONAL,
        request: WriteRequest | None = None,
        origin: Origin = UNKNOWN_ORIGIN,
        lease_seconds: float | None = None,
        read: Callable[[], dict[str, Value]] = dict,
    ) -> Answer:
        """Make the changes that are `ready` one commit; none: nothing is committed.

        The caller holds the lock exclusively. What `read` gives, after the changes, is part of the
        answer. Raises StateError, with nothing changed.
        """
        answer = self._answers.find(request)
        if answer is not None:
            return answer
        self._check(conditions)
        changes = ready()
        preimages = [change.preimage() for change in changes]
        previous = [c.previous(before) for c, before in zip(changes, preimages, strict=True)]
        if lease_seconds is not None:
            self._check_initialized([change.variable for change in changes])
        undo = self._apply(changes, preimages)
        try:
            values = read()
        except BaseException:
            undo()
            raise
        if changes:
            changed = [
                Changed(change.variable.spec, change.region, change.value, before)
                for change, before in zip(changes, previous, strict=True)
            ]
            under = {c.variable.path: self._variable_revisions[c.variable.path] for c in changed}
            self._commit(kind, origin, request, changed)
            if lease_seconds is not None:
                self._leases.grant(self._revision, lease_seconds, changed, under)
        answer = Answer(self.header, values)
        self._answers.keep(request, answer, _nbytes(values))
        return answer

    def _stage(self, writes: Sequence[Write]) -> list[list[StagedWrite]]:
        """Check every write before the first value is staged; one group for each variable."""
        found = [(write, self._variables.find(write.variable)) for write in writes]
        for write, variable in found:
            changes.check(write, variable)
        groups: dict[str, list[StagedWrite]] = {}
        for write, variable in found:
            groups.setdefault(variable.spec.path, []).append(changes.stage(write, variable))
        return list(groups.values())

    def _work_out(
        self, staged: Sequence[Sequence[StagedWrite]], deadline: float | None
    ) -> list[tuple[int | None, Change]]:
        """Work the changes out before the exclusive lock, against the values there are now.

        Each comes with its variable's revision, or None when it holds whatever the revision. Should
        somebody write a variable before the lock is had, its change is worked out once more.
        """
        empty = changes.Base(None, None)
        bases: list[tuple[int | None, changes.Base]] = [(None, empty)] * len(staged)
        if any(changes.needs_base(group) for group in staged):
            with self._lock.shared(deadline):
                bases = [
                    (self._variable_revisions[group[0].variable.spec.path], changes.capture(group))
                    if changes.needs_base(group)
                    else (None, empty)
                    for group in staged
                ]
        return [
            (revision, changes.work_out(group, base))
            for group, (revision, base) in zip(staged, bases, strict=True)
        ]

    def _written_since(self, revision: int | None, group: Sequence[StagedWrite]) -> bool:
        path = group[0].variable.spec.path
        return revision is not None and self._variable_revisions[path] != revision

    def _fresh(self, group: Sequence[StagedWrite]) -> Change:
        return changes.work_out(group, changes.capture(group))

    def _apply(self, ready: Sequence[Change], preimages: Sequence[Value | None]) -> _Undo:
        """Apply all changes or none; the result takes them back."""
        undo = _Undo()
        try:
            for change, preimage in zip(ready, preimages, strict=True):
                undo.steps.append((change, preimage))
                change.apply()
        except BaseException:
            undo()
            raise
        return undo

    def _commit(
        self,
        kind: CommitKind,
        origin: Origin,
        request: WriteRequest | None,
        changed: Sequence[Changed],
    ) -> None:
        self._revision += 1
        for each in changed:
            self._variable_revisions[each.variable.path] = self._revision
        commit = Commit(self._revision, time.time_ns(), kind, origin, request, tuple(changed))
        self._history.add(commit)
        self._watchers.tell(commit)

    # What is checked and read under the lock.

    def _check(self, conditions: Conditions) -> None:
        if conditions.epoch and conditions.epoch != self._epoch:
            raise StateError(
                Reason.EPOCH_MISMATCH,
                f"model {self.name!r}: expected epoch {conditions.epoch[:64]!r}, found "
                f"{self._epoch!r}: its state began anew; read it again",
                model=self.name,
                current_epoch=self._epoch,
            )
        expected = conditions.model_revision
        if expected is not None and expected != self._revision:
            raise StateError(
                Reason.REVISION_MISMATCH,
                f"model {self.name!r}: expected revision {expected}, found {self._revision}",
                model=self.name,
                current_revision=self._revision,
            )

    def _check_variable_revision(self, write: StagedWrite) -> None:
        spec = write.variable.spec
        current = self._variable_revisions[spec.path]
        expected = write.if_revision_match
        if expected is not None and expected != current:
            raise StateError(
                Reason.REVISION_MISMATCH,
                f"variable {spec.name!r}: expected revision {expected}, found {current}",
                variable=spec.name,
                current_revision=current,
            )

    def _check_initialized(self, variables: Sequence[Variable]) -> None:
        for variable in variables:
            if not variable.is_initialized():
                raise changes.uninitialized(variable)

    def _check_read(
        self, variable: Variable, region: Region | None, known: int | None, admit: Admit | None
    ) -> bool:
        """Whether the value is to be taken: False when it is not newer than `known`."""
        spec = variable.spec
        self._check_initialized([variable])
        if known is not None and self._variable_revisions[spec.path] <= known:
            return False
        if region is not None or admit is not None:
            shape = variable.shape()
            if region is not None:
                shape = region_shape(region, shape, variable=spec.name)
            if admit is not None:
                admit(spec, region, shape)
        return True

    def _entry(self, variable: Variable, region: Region | None, *, take: bool = True) -> Entry:
        spec = variable.spec
        value = variable.read(region) if take else None
        return Entry(spec.name, self._variable_revisions[spec.path], value)

    def _read_back(self, read: Read, max_bytes: int | None) -> dict[str, Value]:
        variable = self._variables.find(read.variable)
        self._check_read(variable, read.region, None, None)
        entry = self._entry(variable, read.region)
        assert entry.value is not None
        nbytes = sent_bytes(entry.value)
        if max_bytes is not None and nbytes > max_bytes:
            raise StateError(
                Reason.MESSAGE_TOO_LARGE,
                f"variable {entry.variable!r}: the value to read back takes {nbytes} "
                f"bytes; expected at most {max_bytes} in one message",
                nbytes=nbytes,
            )
        return {entry.variable: entry.value}

    def _state_of(self, variable: Variable) -> VariableState:
        return VariableState(
            variable.spec,
            variable.shape() if variable.is_initialized() else None,
            self._variable_revisions[variable.spec.path],
        )


class _Undo:
    """Takes back what was applied, last first."""

    def __init__(self) -> None:
        self.steps: list[tuple[Change, Value | None]] = []

    def __call__(self) -> None:
        for change, preimage in reversed(self.steps):
            change.undo(preimage)


def _nbytes(values: Mapping[str, Value]) -> int:
    return sum(sent_bytes(value) for value in values.values())
