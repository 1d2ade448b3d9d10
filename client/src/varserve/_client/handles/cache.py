"""What the client last learnt of one model, shared by all handles of it and safe among threads.

Owns look-ups by name or path, and which call carries a value: one message or a stream. Every answer
brings it up to date; an answer of a new epoch makes it ask for everything again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from varserve import tensors
from varserve._client import errors, operations, wording
from varserve._client.operations.methods import Scope
from varserve._client.operations.models import get_model
from varserve._client.operations.reads import Dtype, Read, SummaryOptions
from varserve._client.transport.calls import Budget, Op
from varserve._client.transport.forks import GATE, Renewable
from varserve._client.values.arguments import Run
from varserve._client.values.assign_operation import AssignOperation
from varserve._client.values.names import Lookup
from varserve._client.values.options import PRESENT, ReadOptions, WriteOptions
from varserve._client.values.regions import Part, whole
from varserve._client.values.results import Commit, Outputs, Reading, Snapshot
from varserve._client.values.seen import Seen
from varserve._client.values.specs import (
    FunctionSpec,
    ModelSpec,
    StateHeader,
    VariableSpec,
    shape_text,
)
from varserve._client.values.summaries import Summaries
from varserve._client.values.writes import PreparedWrite
from varserve.tensors import Array

if TYPE_CHECKING:
    from varserve._client.operations.inspections import Wanted
    from varserve._client.values.inspections import Inspection

# Up to about here one message was quicker than a stream over loopback.
_UNARY_BYTES = 256 << 10
_MESSAGE_OVERHEAD = 64 << 10


class ModelCache(Renewable):
    """One model as last seen.

    `asked`: the name that every call asks by, which may have a label. Answers have the model's own.
    """

    def __init__(
        self,
        spec: ModelSpec | None,
        asked: str,
        seen: Seen,
        load: Callable[[ModelCache], None] | None = None,
    ) -> None:
        """`spec` None: of a handle that was unpickled; `load` asks for it when it is needed."""
        self.asked = asked
        self.seen = seen
        self._load = load
        self.connection: Any = None
        """Of a handle that was unpickled: it lasts as long as handles of it."""
        self._streams: set[str] = set()
        # Paths of the variables whose revision is of the present epoch, while the rest is not.
        self._heard: set[str] = set()
        self._after_fork()
        GATE.renew_in_child(self)
        if spec is None:
            self.stale = True
        else:
            self.replace(spec)

    def __getattr__(self, name: str) -> Any:
        # Not loaded yet: the handle was unpickled and has not been used.
        if name not in ("spec", "header", "variables", "functions") or self._load is None:
            raise AttributeError(name)
        self._load(self)
        return self.__dict__[name]

    def _after_fork(self) -> None:
        """A lock of this process."""
        self._lock = threading.Lock()

    def replace(self, spec: ModelSpec) -> None:
        """Replaces everything that is known."""
        model = spec.header.model

        def no_variable(key: str) -> errors.VarserveError:
            hint = wording.suggestion(key, self.variables.names)
            return errors.VariableNotFound(
                f"model {model!r} has no variable {key!r}{hint}",
                metadata={"model": model, "variable": key},
            )

        def no_function(key: str) -> errors.VarserveError:
            hint = wording.suggestion(key, self.functions.names)
            return errors.FunctionNotFound(
                f"model {model!r} has no function {key!r}{hint}",
                metadata={"model": model, "function": key},
            )

        with self._lock:
            self.spec = spec
            self.header = spec.header
            self.variables: Lookup[VariableSpec] = Lookup(spec.variables, no_variable)
            # A signature's key may be another function's path: then the signature is found.
            self.functions: Lookup[FunctionSpec] = Lookup(
                spec.functions, no_function, names_first=True
            )
            self._heard.clear()
            self.stale = False
            """An answer came from a new epoch, and the service has not been asked for the rest."""

    def learn(self, header: StateHeader, revisions: Mapping[str, int] | None = None) -> None:
        """Takes note of an answer, and of the last writes that it tells of, by variable path."""
        with self._lock:
            if header.epoch != self.header.epoch:
                self.stale = True
                self._heard.clear()
                self.header = header
            if header.revision > self.header.revision:
                self.header = header
            specs = self.variables.by_path
            for path, revision in (revisions or {}).items():
                spec = specs.get(path)
                if spec is None:
                    continue
                anew = not spec.initialized or (self.stale and path not in self._heard)
                if anew or revision > spec.revision:
                    specs[path] = spec._replace(revision=revision, initialized=True)
                if self.stale:
                    self._heard.add(path)

    def epoch_of(self, path: str) -> str:
        """The epoch of the last known write of a variable."""
        with self._lock:
            heard = not self.stale or path in self._heard
            return (self.header if heard else self.spec.header).epoch

    def refresh(self, budget: Budget) -> Op[None]:
        """Asks the service for everything."""
        self.replace((yield from get_model(Scope(self.asked, budget, self.seen))))

    def fresh(self, budget: Budget) -> Op[None]:
        """Asks the service for everything when an answer came from a new epoch."""
        if self.stale:
            yield from self.refresh(budget)

    def scope(self, budget: Budget) -> Scope:
        """Of an operation on the model."""
        return Scope(self.asked, budget, self.seen, self.spec.limits)

    # ---- which call carries a value ----

    def _fits(self, nbytes: int | None) -> bool:
        limit = min(_UNARY_BYTES, self.spec.limits.message_bytes - _MESSAGE_OVERHEAD)
        return nbytes is None or nbytes <= limit

    def read(
        self,
        spec: VariableSpec,
        read: Read,
        nbytes: int | None,
        budget: Budget,
        *,
        at_revision: int | None = None,
        linearizable: bool = False,
    ) -> Op[Reading]:
        """One variable or region, by the call that suits its size.

        `read.variable` is its key. `nbytes`: of the value; None when only a read tells.
        """
        path = spec.path
        unary = self._fits(nbytes) and path not in self._streams
        if unary and not (read.mapped and self.scope(budget).lane):
            options = self._options(at_revision, linearizable)
            try:
                reading = yield from operations.read_variable(self.scope(budget), read, options)
                return self._taken(spec, read, reading)
            except errors.MessageTooLarge:
                if nbytes is None:
                    self._streams.add(path)
        reads = {path: read._replace(variable=path)}
        snapshot = yield from self.read_many(
            reads, budget, at_revision=at_revision, linearizable=linearizable
        )
        value = snapshot[path] if read.out is None else read.out
        return Reading(snapshot.header, snapshot.revisions[path], value)

    def _taken(self, spec: VariableSpec, read: Read, reading: Reading) -> Reading:
        """A reading as its caller wants it, of which this has taken note."""
        value, out = reading.value, read.out
        if value is not None:
            self._check(reading.header, spec, read, value)
        self.learn(reading.header, {spec.path: reading.variable_revision})
        if read.mapped and value is not None:
            value.flags.writeable = False
        if out is not None and value is not None:
            if (out.dtype, out.shape) != (value.dtype, value.shape):
                from varserve._client.transport.bodies import fits_no_more

                raise fits_no_more(out, str(value.dtype), value.shape)
            np.copyto(out, value)
            reading = replace(reading, value=out)
        return reading

    def read_many(
        self,
        reads: Mapping[str, Read],
        budget: Budget,
        *,
        at_revision: int | None = None,
        linearizable: bool = False,
    ) -> Op[Snapshot]:
        """Several variables or regions at one revision. Each `variable` is a path."""
        if not reads:  # A model may have no variables: nothing is a snapshot, too.
            yield from self.refresh(budget)
            return Snapshot(self.header, {}, {})
        yield from self.fresh(budget)
        snapshot = yield from operations.read_variables(
            self.scope(budget), self._by_key(reads), self._options(at_revision, linearizable)
        )
        for key, read in reads.items():
            spec = self.variables.at(read.variable)
            self._check(snapshot.header, spec, read, snapshot[key])
        self.learn(
            snapshot.header, {read.variable: snapshot.revisions[key] for key, read in reads.items()}
        )
        return snapshot

    def summarize(
        self,
        reads: Mapping[str, Read],
        budget: Budget,
        summary: SummaryOptions,
        *,
        at_revision: int | None = None,
        linearizable: bool = False,
    ) -> Op[Summaries]:
        """Summaries at one revision. Each `variable` is a path."""
        if not reads:
            yield from self.refresh(budget)
            return Summaries(self.header, {})
        yield from self.fresh(budget)
        summaries = yield from operations.summarize_variables(
            self.scope(budget),
            self._by_key(reads),
            summary,
            self._options(at_revision, linearizable),
        )
        self.learn(
            summaries.header,
            {read.variable: summaries[key].variable_revision for key, read in reads.items()},
        )
        return summaries

    def _by_key(self, reads: Mapping[str, Read]) -> dict[str, Read]:
        return {
            name: read._replace(variable=self._key(read.variable)) for name, read in reads.items()
        }

    def _key(self, path: str) -> str:
        return self.variables.key(self.variables.at(path))

    def _options(self, at_revision: int | None, linearizable: bool) -> ReadOptions:
        if at_revision is None and not linearizable:
            return PRESENT
        # A revision means something in its epoch only.
        epoch = "" if at_revision is None else self.header.epoch
        return ReadOptions(at_revision, epoch, linearizable=linearizable)

    def _check(self, header: StateHeader, spec: VariableSpec, read: Read, value: Array) -> None:
        expected = read.dtype or spec.dtype
        if header.epoch != self.header.epoch or (
            value.dtype == expected and read.part.is_of(value)
        ):
            return
        raise errors.ServiceError(
            f"variable {spec.name!r}: expected {tensors.dtype_name(expected)} "
            f"{shape_text(read.part.shown_shape)}, and the service sent "
            f"{tensors.dtype_name(value.dtype)} {shape_text(value.shape)}"
        )

    def write(
        self, writes: Sequence[PreparedWrite], budget: Budget, options: WriteOptions
    ) -> Op[Commit]:
        """Writes as one commit, by the call that suits their size. Each `variable` is a path."""
        if self.stale:
            yield from self.refresh(budget)
        scope = self.scope(budget)
        keyed = [each._replace(variable=self._key(each.variable)) for each in writes]
        check_bytes = 0 if options.check is None else options.check.run.nbytes
        if len(keyed) == 1 and self._fits(keyed[0].nbytes + check_bytes):
            commit = yield from operations.assign_variable(scope, keyed[0], options)
        elif options.read_back and writes[0].operation is not AssignOperation.SET:
            raise errors.MessageTooLarge(
                "the value is too large to be read back with the write; read it afterwards"
            )
        else:
            commit = yield from operations.assign_variables(scope, keyed, options)
            if options.read_back:  # after a SET the variable holds just what was sent
                value = writes[0].part.show(writes[0].value.copy())
                commit = Commit(commit.header, value)
        self.learn(commit.header, {each.variable: commit.revision for each in writes})
        return commit

    def run(self, run: Run, budget: Budget, options: WriteOptions) -> Op[Outputs]:
        """A call of a function, by the call that suits the size of its inputs and outputs."""
        key = f"function {run.function}"
        # Only variables are put back when outputs do not fit: what changes more is not run twice.
        once = run.repeatable or self._outputs_fit(run.function)
        outputs = None
        if self._fits(run.nbytes) and once and key not in self._streams:
            try:
                outputs = yield from operations.run_function(self.scope(budget), run, options)
            except errors.MessageTooLarge:
                # The outputs do not fit; nothing was changed. Nor will they the next time.
                self._streams.add(key)
        if outputs is None:
            outputs = yield from operations.stream_run_function(self.scope(budget), run, options)
        self.learn(outputs.header)
        return outputs

    def inspect(
        self, run: Run, wanted: Wanted, budget: Budget, options: ReadOptions
    ) -> Op[Inspection]:
        """A look at a run of a function."""
        from varserve._client.operations.inspections import inspect_function

        found = yield from inspect_function(self.scope(budget), run, wanted, options)
        if options.at_revision is None:
            self.learn(found.header)
        return found

    def _outputs_fit(self, function: str) -> bool:
        """Whether it is certain that the outputs fit into one message."""
        for overload in self.functions.find(function).overloads:
            outputs = [each.tensor for each in overload.outputs]
            sizes = [whole(each.shape).nbytes(each.dtype.itemsize) for each in outputs]
            if None in sizes or any(each.dtype.kind == "O" for each in outputs):
                return False
            if not self._fits(sum(size or 0 for size in sizes)):
                return False
        return True


def check_out(spec: VariableSpec, read: Read) -> None:
    """Raises DtypeMismatch, ShapeMismatch or InvalidRequest where `out` cannot take the value."""
    about, out = f"variable {spec.name!r}: out", read.out
    if spec.dtype.kind == "O":
        raise errors.InvalidRequest(f"{about}: strings have no array that they could be read into")
    given: Any = out
    if not isinstance(given, np.ndarray) or not (
        given.flags.c_contiguous and given.flags.writeable
    ):
        raise errors.InvalidRequest(f"{about}: expected a C-contiguous, writable numpy array")
    expected = read.dtype or spec.dtype
    if given.dtype != expected:
        raise errors.DtypeMismatch(f"{about}: expected dtype {expected}, found {given.dtype}")
    if not read.part.is_of(given):
        raise errors.ShapeMismatch(
            f"{about}: expected shape {shape_text(read.part.shown_shape)}, "
            f"found {shape_text(given.shape)}"
        )


def part_bytes(spec: VariableSpec, part: Part, dtype: Dtype | None = None) -> int | None:
    """Bytes of a part of a variable, sent as `dtype`; None when only a read tells."""
    if spec.dtype.kind == "O":
        return None
    return part.nbytes((dtype or spec.dtype).itemsize)
