"""The live state of one model: the only place where it is read as one and changed.

Owns the model's lock, epoch and revisions, and the order of a commit. Knows the ports; knows
nothing of TensorFlow, gRPC or disk.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from varserve_service.core.change.past import restored
from varserve_service.core.change.write_memory import (
    brought_bytes,
    preimage_bytes,
    replaced_bytes,
    taken_bytes,
)
from varserve_service.core.change.writes import (
    StagedWrite,
    Write,
    check_initialized,
    check_write,
    stage_write,
    static_shape,
)
from varserve_service.core.commit.assignment import Assignment, make_changes
from varserve_service.core.commit.committer import NOTHING, Attempt, Committer, Done
from varserve_service.core.commit.history import History
from varserve_service.core.commit.idempotency import IdempotencyCache
from varserve_service.core.commit.leases import Leases
from varserve_service.core.commit.lock import ReadersWriterLock
from varserve_service.core.commit.replay import replay
from varserve_service.core.commit.revisions import Revisions
from varserve_service.core.commit.watchers import Watchers
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.memory import MemoryBudget, ModelMemory
from varserve_service.core.ports.commits import (
    UNKNOWN_ORIGIN,
    CommitKind,
    CommitListener,
    Origin,
    WriteRequest,
)
from varserve_service.core.ports.journal import Journal
from varserve_service.core.ports.loaded_model import (
    Constant,
    Function,
    FunctionSpec,
    LoadedModel,
    Value,
    Variable,
    VariableSpec,
)
from varserve_service.core.ports.messages import (
    UNCONDITIONAL,
    Admit,
    Answer,
    Conditions,
    Description,
    Header,
    Read,
    Snapshot,
    VariableState,
)
from varserve_service.core.ports.observer import UNOBSERVED, Observer
from varserve_service.core.values.casts import check_cast

from .naming import Directory
from .overloads import choose
from .reading import Reading
from .running import Run
from .timeline import Timeline


class LiveModel:
    """One loaded model and its state.

    Every method may be called from any thread. `deadline` is in seconds of `time.monotonic`; None
    waits for ever. A method that raises RequestError has changed nothing.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        lock: ReadersWriterLock | None = None,
        answers: IdempotencyCache[Answer] | None = None,
        history: History | None = None,
        watchers: Watchers | None = None,
        journal: Journal | None = None,
        observer: Observer = UNOBSERVED,
        host_memory: MemoryBudget | None = None,
        expired: CommitListener | None = None,
    ) -> None:
        """With a `journal`, the model takes up what it kept. Raises JournalError.

        `host_memory` is what the process may take; without it nothing is refused beforehand.
        `expired` is told of the commits of leases that end by themselves.
        """
        self._loaded = loaded
        self._expired = expired
        self._observer = observer
        self._journal = journal
        self._lock = lock or ReadersWriterLock(observer)
        self.memory = _memory_of(loaded, host_memory or MemoryBudget("host"))
        history = History() if history is None else history
        watchers = Watchers() if watchers is None else watchers
        self._leases = Leases(self._expire)
        self._variables: Directory[Variable] = Directory(
            "variable", loaded.variables, Reason.VARIABLE_NOT_FOUND, loaded.name
        )
        self._functions: Directory[Function] = Directory(
            "function", loaded.functions, Reason.FUNCTION_NOT_FOUND, loaded.name
        )
        self._by_path = {variable.spec.path: variable for variable in loaded.variables}
        epoch = secrets.token_hex(8) if journal is None else journal.epoch
        self._revisions = Revisions(loaded.name, self._by_path, epoch)
        self._reading = Reading(loaded, self._revisions)
        answers = answers if answers is not None else IdempotencyCache()
        if journal is not None:
            replay(journal, self._by_path, self._revisions, history, answers, self._answer_of)
        self._committer = Committer(
            lambda: self.header,
            self._lock,
            self._revisions,
            answers,
            history,
            watchers,
            journal,
            observer,
        )
        self.timeline = Timeline(
            self._lock, lambda: self.header, self._variables, history, watchers, self.memory
        )

    @property
    def name(self) -> str:
        """The model's name."""
        return self._loaded.name

    @property
    def version(self) -> int:
        """The version of the SavedModel."""
        return self._loaded.version

    @property
    def fingerprint(self) -> str:
        """Tells models apart whose variables began with different values."""
        return self._loaded.fingerprint

    @property
    def header(self) -> Header:
        """The state as it is now."""
        return self._header_at(self._revisions.current)

    def _header_at(self, revision: int) -> Header:
        return Header(self._loaded.name, self._loaded.version, self._revisions.epoch, revision)

    def _answer_of(self, revision: int, values: Mapping[str, Value]) -> Answer:
        return Answer(self._header_at(revision), values)

    def header_unless_written(self, variable: str, *, since: int) -> Header | None:
        """The state as it is now, at once, when nobody has written the variable since a revision.

        None when somebody has, or is about to.
        """
        path = self._variables.find(variable).spec.path
        if not self._lock.acquire_shared_at_once():
            return None
        try:
            return self.header if self._revisions.of(path) <= since else None
        finally:
            self._lock.release_shared()

    def describe(self, deadline: float | None = None) -> Description:
        """All variables and functions, sorted by name, at one revision."""
        with self._lock.shared(deadline):
            return Description(
                self.header,
                self._loaded.device,
                tuple(self._state_of(variable) for variable in self._variables.sorted),
                tuple(function.spec for function in self._functions.sorted),
                tuple(self._loaded.omissions),
            )

    def outline(self) -> Description:
        """The same as far as it is known without the model. Never waits.

        Variables of any size have no shape in it, and revisions may move while it is made.
        """
        return Description(
            self.header,
            self._loaded.device,
            tuple(
                VariableState(
                    variable.spec,
                    static_shape(variable) if variable.is_initialized() else None,
                    self._revisions.of(variable.spec.path),
                )
                for variable in self._variables.sorted
            ),
            tuple(function.spec for function in self._functions.sorted),
        )

    @property
    def device(self) -> str:
        """Where the model's values live."""
        return self._loaded.device

    @property
    def specs(self) -> Sequence[VariableSpec]:
        """What stays true of each variable, sorted by name. Never waits."""
        return [variable.spec for variable in self._variables.sorted]

    def variable(self, name: str, *, suggest: bool = True) -> VariableSpec:
        """The spec of a variable, by name or path.

        Raises RequestError VARIABLE_NOT_FOUND, with close names if that is wanted; NAME_AMBIGUOUS.
        """
        return self._variables.find(name, suggest=suggest).spec

    def leased(self, lease: int, epoch: str = "") -> Sequence[VariableSpec]:
        """The variables whose writes a lease holds. Raises LEASE_NOT_FOUND, EPOCH_MISMATCH."""
        self._revisions.check(Conditions(epoch=epoch))
        return [held.changed.variable for held in self._leases.held(lease)]

    @property
    def journal_bytes(self) -> int | None:
        """Bytes of the journal where it is kept; None without one. Never waits."""
        return None if self._journal is None else self._journal.nbytes

    def function(self, name: str, *, suggest: bool = True) -> FunctionSpec:
        """The spec of a function, by name or path. Raises RequestError as `variable` does."""
        return self._functions.find(name, suggest=suggest).spec

    def check(self, writes: Sequence[Write]) -> None:
        """Check writes as far as dtypes and shapes tell, before their bytes are there.

        Of each `value` only dtype and shape are looked at. Raises RequestError.
        """
        self._checked(writes)

    def check_run(
        self,
        function: str,
        inputs: Mapping[str, np.ndarray[Any, Any]],
        constants: Mapping[str, Constant],
    ) -> int:
        """Check a run as far as dtypes and shapes tell, before its bytes are there.

        Of each input only dtype and shape are looked at. Returns the index of the overload that
        they mean. Raises RequestError.
        """
        return choose(self._functions.find(function).spec, inputs, constants)

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
        are named many times is larger than its variable. Raises RequestError: VARIABLE_NOT_FOUND,
        NAME_AMBIGUOUS, CAST_UNSUPPORTED, VARIABLE_UNINITIALIZED, REGION_INVALID, DEADLINE_EXCEEDED,
        and what `admit` raises.
        """
        found = [(self._variables.find(read.variable), read) for read in reads]
        for variable, read in found:
            check_cast(variable.spec, read.dtype)
        known = if_newer_than if epoch in ("", self._revisions.epoch) else None
        with self._lock.shared(deadline):
            # All are checked before the first is taken.
            checked = [
                (variable, read, self._reading.check(variable, read, known, admit))
                for variable, read in found
            ]
            return Snapshot(self.header, self._reading.entries(checked))

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
        on_commit: CommitListener | None = None,
        deadline: float | None = None,
    ) -> Answer:
        """Change one or more variables as one commit; all of it happens or nothing.

        A `request` that was done before gets its first answer. `lease_seconds`: what is written is
        taken back after so many seconds, unless `renew_lease` is called in time with the commit's
        revision. `read_back` is read after the writes and before anyone else can write. Raises
        RequestError, with nothing changed.
        """
        found = self._checked(writes)
        with ExitStack() as reserved:
            try:
                assignment = self._worked_out(found, reserved, deadline)
            except RequestError:
                # What cannot be done now may have been done before.
                with self._lock.shared(deadline):
                    answer = self._committer.answered(request)
                if answer is not None:
                    return answer
                raise

            def values() -> dict[str, Value]:
                if read_back is None:
                    return {}
                variable = self._variables.find(read_back.variable)
                return self._reading.back(variable, read_back, max_read_back_bytes)

            def make() -> Done:
                if lease_seconds is None:
                    return assignment.make(values)
                self._leases.check_room()
                check_initialized(assignment.variables)
                under = {v.spec.path: self._revisions.of(v.spec.path) for v in assignment.variables}
                done = assignment.make(values)
                grant = partial(self._leases.grant, seconds=lease_seconds, under=under)
                return replace(done, on_durable=partial(grant, changed=done.changed))

            staged = reserved.enter_context(
                self._committer.staged(assignment.values(), request, conditions, deadline)
            )
            attempt = Attempt(make, request, conditions, origin, deadline, staged)
            return self._commit(attempt, on_commit)

    def _worked_out(
        self, found: Sequence[tuple[Write, Variable]], reserved: ExitStack, deadline: float | None
    ) -> Assignment:
        """Writes that were checked, worked out; `reserved` holds what doing them will take."""
        with ExitStack() as meanwhile:
            for memory in {self.memory.host, self.memory.device}:
                there = [each for each in found if self.memory.of(each[1].spec.device) is memory]
                replaced = replaced_bytes(there)
                reserved.enter_context(memory.reserve(replaced, "what the write replaces"))
                taken = taken_bytes(there, staged=memory is not self.memory.host)
                meanwhile.enter_context(memory.reserve(taken, "the write"))
                brought = 0 if memory is self.memory.host else brought_bytes(there)
                meanwhile.enter_context(self.memory.host.reserve(brought, "the write"))
            assignment = Assignment(self._stage(found), self._revisions, self._loaded)
            assignment.work_out(self._lock, deadline)
        values = {self._by_path[path]: each.nbytes for path, each in assignment.values().items()}
        reserved.enter_context(self._room_to_keep(values, "the write"))
        return assignment

    def _room_to_keep(
        self, nbytes: Mapping[Variable, int], thing: str
    ) -> AbstractContextManager[object]:
        """Room on the host for what a journal brings there from a device. Raises OutOfMemory."""
        brought = 0
        if self._journal is not None and not self.memory.is_host:
            there = self.memory.device
            brought = sum(n for v, n in nbytes.items() if self.memory.of(v.spec.device) is there)
        return self.memory.host.reserve(brought, f"what is kept of {thing}")

    def _commit(self, attempt: Attempt, on_commit: CommitListener | None) -> Answer:
        answer = self._committer.commit(attempt)
        if on_commit is not None and attempt.commit is not None:
            on_commit(answer.header, attempt.commit)
        return answer

    def revert(
        self,
        revision: int,
        variables: Sequence[str] = (),
        *,
        conditions: Conditions = UNCONDITIONAL,
        request: WriteRequest | None = None,
        origin: Origin = UNKNOWN_ORIGIN,
        on_commit: CommitListener | None = None,
        deadline: float | None = None,
    ) -> Answer:
        """Give variables the values that they had at a revision, as one new commit.

        `variables`: names or paths; none: all that were written since. Raises RequestError, with
        nothing changed: REVISION_COMPACTED, REVISION_IN_FUTURE, VARIABLE_UNINITIALIZED.
        """
        paths = {self._variables.find(name).spec.path for name in variables}
        with ExitStack() as reserved:
            with self._lock.shared(deadline):
                answer = self._committer.answered(request)
                if answer is not None:  # also when the history does not reach back any more
                    return answer
                seen = self._revisions.current
                reversals = self.timeline.reversals(revision, paths, conditions.epoch)
                copied = sum(each.copied_bytes for each in reversals)
                reserved.enter_context(self.memory.reserve_both(copied, "the revert"))
                for each in reversals:
                    each.take()
            worked_out = [each.change() for each in reversals]

        def make() -> Done:
            ready = worked_out
            if self._revisions.current != seen:
                again = self.timeline.reversals(revision, paths, conditions.epoch)
                for each in again:
                    each.take()
                ready = [each.change() for each in again]
            return make_changes(CommitKind.REVERT, ready, self._loaded)

        replaced = sum(map(preimage_bytes, worked_out))
        kept = {change.variable: change.value.nbytes for change in worked_out}
        with (
            self.memory.device.reserve(replaced, "what the revert replaces"),
            self._room_to_keep(kept, "the revert"),
        ):
            attempt = Attempt(make, request, conditions, origin, deadline, needs_history=True)
            return self._commit(attempt, on_commit)

    def renew_lease(self, lease: int, epoch: str = "") -> float:
        """Let a lease last for its seconds, which are returned, from now on.

        Raises RequestError LEASE_NOT_FOUND, EPOCH_MISMATCH.
        """
        self._revisions.check(Conditions(epoch=epoch))
        return self._leases.renew(lease)

    def revoke_lease(
        self,
        lease: int,
        epoch: str = "",
        *,
        keep: bool = False,
        origin: Origin = UNKNOWN_ORIGIN,
        on_commit: CommitListener | None = None,
        deadline: float | None = None,
    ) -> Answer:
        """End a lease: take back now what its write left, or keep that for good.

        Raises RequestError LEASE_NOT_FOUND, EPOCH_MISMATCH.
        """
        return self._end_lease(
            lambda: self._end(lease, keep=keep),
            replace(origin, message=f"lease {lease} revoked"),
            on_commit,
            conditions=Conditions(epoch=epoch),
            deadline=deadline,
        )

    def close(self) -> None:
        """The end of this life of the state: waits for whoever holds the lock, however long.

        Leases are taken back as far as that is possible, the journal is closed. After this every
        call raises RequestError MODEL_NOT_READY. Again: nothing.
        """
        for lease in self._leases.revisions:
            with suppress(RequestError):
                origin = Origin(message=f"lease {lease} ended: unloading")
                self._end_lease(partial(self._end, lease), origin, self._expired)
        with suppress(RequestError), self._lock.exclusive():
            self._leases.clear()
            self._lock.close(self._unloaded)
            if self._journal is not None:
                self._journal.close()

    def _unloaded(self) -> RequestError:
        return RequestError(
            Reason.MODEL_NOT_READY,
            f"model {self.name!r}: version {self.version} has been unloaded; read it again",
            model=self.name,
        )

    def _expire(self, lease: int) -> None:
        def make() -> Done:
            # Renewed at the last moment, it goes on.
            return self._end(lease) if self._leases.is_due(lease) else NOTHING

        self._end_lease(make, Origin(message=f"lease {lease} expired"), self._expired)

    def _end_lease(
        self,
        make: Callable[[], Done],
        origin: Origin,
        on_commit: CommitListener | None,
        *,
        conditions: Conditions = UNCONDITIONAL,
        deadline: float | None = None,
    ) -> Answer:
        attempt = Attempt(make, None, conditions, origin, deadline, needs_history=True)
        return self._commit(attempt, on_commit)

    def _end(self, lease: int, *, keep: bool = False) -> Done:
        """The lock is held exclusively."""
        untouched = [
            held.changed
            for held in self._leases.held(lease)
            if self._revisions.of(held.changed.variable.path) == held.own and not keep
        ]
        ready = [restored(self._by_path[each.variable.path], each) for each in untouched]
        paths = {each.variable.path for each in untouched}
        end = partial(self._leases.end, lease, restored=paths, keep=keep)
        done = make_changes(CommitKind.EXPIRE, ready, self._loaded)
        return replace(done, on_durable=lambda revision: end(at=revision))

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
        on_commit: CommitListener | None = None,
        deadline: float | None = None,
    ) -> Answer:
        """Run the overload that fits the inputs; one that may write is a commit and fails whole.

        `outputs`: names of the outputs to give; empty: all. More than `max_output_bytes` of them
        is MESSAGE_TOO_LARGE, with nothing changed. Raises RequestError.
        """
        run = Run(
            self._functions.find(function),
            inputs,
            constants,
            outputs,
            max_output_bytes,
            self._by_path,
            self._loaded,
            self.memory,
            self._observer,
        )
        if not run.may_change:
            with self._lock.shared(deadline):
                self._revisions.check(conditions)
                return Answer(self.header, run.values())
        with self._room_to_keep(run.written_bytes, f"function {run.name!r}"):
            return self._commit(Attempt(run.make, request, conditions, origin, deadline), on_commit)

    def _checked(self, writes: Sequence[Write]) -> list[tuple[Write, Variable]]:
        found = [(write, self._variables.find(write.variable)) for write in writes]
        for write, variable in found:
            check_write(write, variable)
        return found

    def _stage(self, found: Sequence[tuple[Write, Variable]]) -> list[list[StagedWrite]]:
        """Stage writes that have all been checked; one group for each variable."""
        groups: dict[str, list[StagedWrite]] = {}
        for write, variable in found:
            groups.setdefault(variable.spec.path, []).append(stage_write(write, variable))
        return list(groups.values())

    def _state_of(self, variable: Variable) -> VariableState:
        return VariableState(
            variable.spec,
            variable.shape() if variable.is_initialized() else None,
            self._revisions.of(variable.spec.path),
        )


def _memory_of(loaded: LoadedModel, host: MemoryBudget) -> ModelMemory:
    if loaded.device_memory() is None:
        return ModelMemory(host, host)
    return ModelMemory(host, MemoryBudget(loaded.device, loaded.device_memory))
