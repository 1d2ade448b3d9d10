"""The live state of one model: the only place where it is read as one and changed.

Each operation has a module of its own in this package; this one lists them. Knows the ports; knows
nothing of TensorFlow, gRPC or disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Unpack

import numpy as np

from varserve_service.core.cancellation import Cancellation
from varserve_service.core.change.changes import swaps
from varserve_service.core.change.writes import Write, check_write, static_shape
from varserve_service.core.commit.proposal import Terms
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.ports.commits import (
    UNKNOWN_ORIGIN,
    CommitListener,
    Origin,
    WriteRequest,
)
from varserve_service.core.ports.loaded_model import (
    Constant,
    FunctionSpec,
    LoadedModel,
    Operation,
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
from varserve_service.core.ports.shared_journal import Standing

from .assigning import Assigning, ReadBack
from .checking import Check
from .drift import DriftCheck
from .inspecting import Inspecting
from .leasing import Leasing
from .moving import is_movable, move
from .overloads import choose
from .parts import Options, Parts
from .reading import Reading
from .reverting import revert
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
        on_expiry: CommitListener | None = None,
        **options: Unpack[Options],
    ) -> None:
        """`on_expiry` is called for each commit of a lease that expires.

        Raises JournalError.
        """
        self._parts = Parts(loaded, options)
        self._loaded = loaded
        self._revisions = self._parts.revisions
        self._reading = Reading(self._parts)
        self.memory = self._parts.memory
        """The memories that its calls take from."""
        self.timeline = Timeline(self._parts)
        """Its history, and its watchers."""
        self.freshness = self._parts.committer.freshness
        """How recent its state is, where several processes share it."""
        self.leases = Leasing(self._parts, on_expiry)
        """Its writes that expire."""
        self.inspecting = Inspecting(self._parts, self.timeline)
        """Its functions, looked into."""
        shared = self._parts.shared
        self._drift: DriftCheck | None = None
        if shared is not None:
            variables = self._parts.variables.sorted
            self._drift = DriftCheck(self.timeline, variables, self.freshness, shared)
        self._assigning = Assigning(self._parts, self._reading, self.leases)

    # What it is.

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
    def device(self) -> str:
        """Where the model's values live."""
        return self._loaded.device

    @property
    def header(self) -> Header:
        """The state as it is now."""
        return self._revisions.header

    @property
    def journal_bytes(self) -> int | None:
        """Bytes of the journal where it is kept; None without one. Never waits."""
        return None if self._parts.journal is None else self._parts.journal.nbytes

    @property
    def standing(self) -> Standing | None:
        """How it stands to the state that it shares; None where it shares none. Never waits."""
        shared = self._parts.shared
        return None if shared is None else shared.standing

    @property
    def specs(self) -> Sequence[VariableSpec]:
        """The specs of all variables, sorted by name. Never waits."""
        return [variable.spec for variable in self._parts.variables.sorted]

    def variable(self, name: str, *, suggest: bool = True) -> VariableSpec:
        """The spec of a variable, by name or path.

        Raises RequestError VARIABLE_NOT_FOUND, with similar names where `suggest`; NAME_AMBIGUOUS.
        """
        return self._parts.variables.find(name, suggest=suggest).spec

    def function(self, name: str, *, suggest: bool = True) -> FunctionSpec:
        """The spec of a function, by name or path. Raises RequestError as `variable` does."""
        return self._parts.functions.find(name, suggest=suggest).spec

    def describe(self, deadline: float | None = None) -> Description:
        """All variables and functions, sorted by name, at one revision."""
        with self._parts.lock.shared(deadline):
            return self._described(present=True)

    def outline(self) -> Description:
        """The same as far as it is known without the lock. Never waits.

        Variables of dynamic shape have no shape in it, and revisions may move meanwhile.
        """
        return self._described(present=False)

    # Reading.

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
        known = if_newer_than if epoch in ("", self._revisions.epoch) else None
        return self._reading.snapshot(reads, known, admit, deadline)

    def header_unless_written(self, variable: str, *, since: int) -> Header | None:
        """The present state, at once, if the variable has not been written since a revision.

        None if it has been written, or a writer waits.
        """
        path = self._parts.variables.find(variable).spec.path
        if not self._parts.lock.acquire_shared_at_once():
            return None
        try:
            return self.header if self._revisions.of(path) <= since else None
        finally:
            self._parts.lock.release_shared()

    def is_movable(self, variable: str) -> bool:
        """Whether `move` can do something for a variable, by name or path."""
        return is_movable(self._parts, self._parts.variables.find(variable))

    def move(self, variable: str, revision: int, array: np.ndarray[Any, Any]) -> None:
        """Let the value that a movable variable has at a revision live in other memory from now on.

        `array` has the same elements, and is taken over. Does nothing if the variable has been
        written since, or the model is busy.
        """
        move(self._parts, self._parts.variables.find(variable), revision, array)

    # Changing. Each of these is one commit: all of it happens, or nothing.

    def check(self, writes: Sequence[Write]) -> None:
        """Check writes as far as dtypes and shapes tell, before their bytes are there.

        Of each `value` only dtype and shape are looked at. Raises RequestError.
        """
        for write in writes:
            check_write(write, self._parts.variables.find(write.variable))

    def keep_what_loading_set(self) -> None:
        """Make what no checkpoint has a commit, the first, so that it stays after a restart.

        Does nothing where there are commits, or nothing of the kind. Raises RequestError.
        """
        paths = sorted(self._loaded.set_at_load)
        if not paths or self.header.revision:
            return
        with self._parts.lock.shared():
            values = [self._parts.by_path[path].read().numpy().copy() for path in paths]
        writes = [
            Write(path, Operation.SET, value) for path, value in zip(paths, values, strict=True)
        ]
        origin = Origin(message="what the SavedModel set when it was loaded")
        try:
            self.assign(writes, conditions=Conditions(model_revision=0), origin=origin)
        except RequestError as error:
            if error.reason is not Reason.REVISION_MISMATCH:  # another replica's are kept
                raise

    def swaps(self, write: Write) -> bool:
        """Whether the value of a checked write is best received into memory that `blank` gives."""
        whole = write.operation is Operation.SET and write.region is None
        return whole and swaps(self._parts.variables.find(write.variable), write.value.nbytes)

    def blank(self, write: Write) -> np.ndarray[Any, Any]:
        """Writable memory for the value of such a write; see the port. Raises OutOfMemory."""
        return self._parts.variables.find(write.variable).blank(write.value.shape)

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
        check: Check | None = None,
        on_commit: CommitListener | None = None,
        deadline: float | None = None,
    ) -> Answer:
        """Change one or more variables.

        A `request` that was done before gets its first answer. `lease_seconds`: what is written is
        taken back after so many seconds, unless `leases.renew` is called in time with the commit's
        revision. `read_back` is read after the writes and before anyone else can write; more than
        `max_read_back_bytes` of it is MESSAGE_TOO_LARGE. `check` is run with the new values before
        anybody sees them; if it does not pass, nothing is changed. Raises RequestError.
        """
        checked = [(write, self._parts.variables.find(write.variable)) for write in writes]
        for write, variable in checked:
            check_write(write, variable)
        return self._assigning.assign(
            checked,
            Terms(request, conditions, origin, deadline),
            lease_seconds=lease_seconds,
            read_back=None if read_back is None else ReadBack(read_back, max_read_back_bytes),
            on_commit=on_commit,
            check=check,
        )

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
        """Give variables the values that they had at a revision, as a new commit.

        `variables`: names or paths; none: all that were written since. Raises RequestError
        REVISION_COMPACTED, REVISION_IN_FUTURE, VARIABLE_UNINITIALIZED.
        """
        paths = {self.variable(name).path for name in variables}
        terms = Terms(request, conditions, origin, deadline)
        return revert(self._parts, self.timeline, revision, paths, terms, on_commit)

    def check_run(
        self,
        function: str,
        inputs: Mapping[str, np.ndarray[Any, Any]],
        constants: Mapping[str, Constant],
    ) -> int:
        """Check a run as far as dtypes and shapes tell, before its bytes are there.

        Of each input only dtype and shape are looked at. Returns the index of the overload that
        they choose. Raises RequestError.
        """
        spec = self.function(function)
        index = choose(spec, inputs, constants)
        self._parts.input_bounds.check(spec.name, inputs, values=False)
        return index

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
        messages: bool = False,
        on_commit: CommitListener | None = None,
        deadline: float | None = None,
        cancellation: Cancellation | None = None,
    ) -> Answer:
        """Run the overload that fits the inputs. Only one that may write is a commit.

        `outputs`: names of the outputs to give; empty: all. More than `max_output_bytes` of them
        is MESSAGE_TOO_LARGE. `messages`: the answer has what the function prints. A run is ended
        when its deadline passes or `cancellation` says that its caller has gone; see
        `overdue_runs`. Raises RequestError.
        """
        run = Run(
            self._parts,
            self._parts.functions.find(function),
            inputs,
            constants,
            Terms(request, conditions, origin, deadline),
            outputs=outputs,
            max_output_bytes=max_output_bytes,
            messages=messages,
            cancellation=cancellation,
        )
        return run.run(on_commit)

    @property
    def overdue_runs(self) -> Mapping[str, int]:
        """By function, the abandoned runs that cannot be ended. Never waits."""
        return self._parts.runs.overdue

    # Its end.

    def close(self) -> None:
        """End this life of the state. Waits for the lock, however long.

        Leases are taken back as far as that is possible, and the journal is closed. After this
        every call raises RequestError MODEL_NOT_READY. Does nothing the second time.
        """
        if self._parts.following is not None:
            self._parts.following.close()
        if self._drift is not None:
            self._drift.close()
        self.leases.end_all()
        with suppress(RequestError), self._parts.lock.exclusive():
            self.leases.table.clear()
            self._parts.lock.close(self._unloaded)
            self.freshness.close(self._unloaded())
            if self._parts.journal is not None:
                self._parts.journal.close()

    def _unloaded(self) -> RequestError:
        return RequestError(
            Reason.MODEL_NOT_READY,
            f"model {self.name!r}: version {self.version} has been unloaded; read it again",
            model=self.name,
        )

    def _described(self, *, present: bool) -> Description:
        """`present`: with shapes as they are now. The lock is held then, shared or not."""
        states = []
        for variable in self._parts.variables.sorted:
            shape = None
            if variable.is_initialized():
                shape = variable.shape() if present else static_shape(variable)
            states.append(
                VariableState(variable.spec, shape, self._revisions.of(variable.spec.path))
            )
        functions = tuple(function.spec for function in self._parts.functions.sorted)
        omissions = tuple(self._loaded.omissions) if present else ()
        return Description(self.header, self.device, tuple(states), functions, omissions)
