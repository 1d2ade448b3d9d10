"""What the client last learnt of one model, shared by all handles of it and safe among threads.

Owns look-ups by name or path, and which call carries a value: one message or a stream. Every answer
brings it up to date; a new epoch makes it ask again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from varserve import tensors
from varserve._client import errors
from varserve._client.errors import (
    FunctionNotFound,
    MessageTooLarge,
    NameAmbiguous,
    VariableNotFound,
)
from varserve._client.operations import calls as operations
from varserve._client.operations import summaries
from varserve._client.operations.calls import (
    AssignOperation,
    Conditions,
    Dtype,
    Prepared,
    Run,
    Write,
    operation_of,
)
from varserve._client.transport.bodies import fits_no_more
from varserve._client.transport.drivers import Budget, Op
from varserve._client.values.regions import Index, Part, Rows, resolve
from varserve._client.values.results import Commit, Outputs, Reading, Snapshot
from varserve._client.values.specs import (
    FunctionSpec,
    ModelSpec,
    StateHeader,
    VariableSpec,
    shape_text,
)
from varserve.tensors import Array
from varserve.v1 import summary_pb2

# Up to about here one message was quicker than a stream over loopback.
_UNARY_BYTES = 256 << 10
_MESSAGE_OVERHEAD = 64 << 10

FLOATS = ("float16", "bfloat16", "float32", "float64")
"""Values of each of these can be had as each other."""

# What a call may take longer for each byte that it moves: 8 MiB a second.
SECONDS_PER_BYTE = 1 / (8 << 20)


class _Spec(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def path(self) -> str: ...


S = TypeVar("S", bound=_Spec)


class Lookup(Generic[S]):
    """Specs by name or path. A key that fits two is ambiguous, unless `names_first`."""

    def __init__(
        self,
        found: Iterable[S],
        missing: Callable[[str], errors.VarserveError],
        *,
        names_first: bool = False,
    ) -> None:
        self.by_path = {each.path: each for each in found}
        self._missing = missing
        self._paths: dict[str, list[str]] = {}
        for path, each in self.by_path.items():
            self._paths.setdefault(each.name, []).append(path)
        names = set(self._paths) if names_first else set()
        for path, each in self.by_path.items():
            if path != each.name and path not in names:
                self._paths.setdefault(path, []).append(path)

    @property
    def names(self) -> list[str]:
        """The names, in the service's order."""
        return [each.name for each in self.by_path.values()]

    def __contains__(self, key: object) -> bool:
        return key in self._paths

    def find(self, key: str) -> S:
        """Raises the look-up's own error, or NameAmbiguous."""
        paths = self._paths.get(key)
        if not paths:
            raise self._missing(key)
        if len(paths) > 1:
            raise NameAmbiguous(f"{key!r} fits more than one variable: {', '.join(sorted(paths))}")
        return self.by_path[paths[0]]

    def at(self, path: str) -> S:
        """What was found before; raises as `find` when another version has it no more."""
        try:
            return self.by_path[path]
        except KeyError:
            raise self._missing(path) from None

    def key(self, path: str) -> str:
        """What to call it on the wire: its name where that fits it alone, else its path."""
        name = self.at(path).name
        return name if len(self._paths[name]) == 1 else path


class ModelCache:
    """One model as last seen.

    `asked`: the name that every call asks by, which may have a label. Answers have the model's own.
    """

    def __init__(self, spec: ModelSpec, asked: str) -> None:
        self.asked = asked
        self._lock = threading.Lock()
        self._streams: set[str] = set()
        # Paths of the variables whose revision is of the present epoch, while the rest is not.
        self._heard: set[str] = set()
        self.replace(spec)

    def replace(self, spec: ModelSpec) -> None:
        """Everything anew."""
        model = spec.header.model

        def no_variable(key: str) -> errors.VarserveError:
            hint = errors.suggestion(key, self.variables.names)
            return VariableNotFound(
                f"model {model!r} has no variable {key!r}{hint}",
                metadata={"model": model, "variable": key},
            )

        def no_function(key: str) -> errors.VarserveError:
            hint = errors.suggestion(key, self.functions.names)
            return FunctionNotFound(
                f"model {model!r} has no function {key!r}{hint}",
                metadata={"model": model, "function": key},
            )

        with self._lock:
            self.spec = spec
            self.header = spec.header
            self.variables: Lookup[VariableSpec] = Lookup(spec.variables, no_variable)
            # A signature's key may be another function's path: then the signature is meant.
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
            known = self.variables.by_path
            for path, revision in (revisions or {}).items():
                spec = known.get(path)
                if spec is None:
                    continue
                anew = not spec.initialized or (self.stale and path not in self._heard)
                if anew or revision > spec.revision:
                    known[path] = spec._replace(revision=revision, initialized=True)
                if self.stale:
                    self._heard.add(path)

    def epoch_of(self, path: str) -> str:
        """The epoch that the last write of a variable, as it is known, was in."""
        with self._lock:
            heard = not self.stale or path in self._heard
            return (self.header if heard else self.spec.header).epoch

    def refresh(self, budget: Budget) -> Op[None]:
        """Asks the service for everything."""
        self.replace((yield from operations.get_model(self.asked, budget)))

    def fresh(self, budget: Budget) -> Op[None]:
        """Asks the service when an answer came from a new epoch."""
        if self.stale:
            yield from self.refresh(budget)

    # ---- which call carries a value ----

    def _fits(self, nbytes: int | None) -> bool:
        limit = min(_UNARY_BYTES, self.spec.limits.message_bytes - _MESSAGE_OVERHEAD)
        return nbytes is None or nbytes <= limit

    def read(
        self,
        path: str,
        part: Part,
        budget: Budget,
        *,
        at_revision: int | None = None,
        out: Array | None = None,
        dtype: Dtype | None = None,
    ) -> Op[Reading]:
        """One variable or region, by the call that suits its size.

        `out` takes the value; `dtype` is what it travels as.
        """
        yield from self.fresh(budget)
        spec = self.variables.at(path)
        variable = self.variables.key(path)
        size = part_bytes(spec, part, dtype)
        model = self.asked
        if self._fits(size) and path not in self._streams:
            try:
                reading = yield from operations.read_variable(
                    model, variable, part, budget, dtype=dtype, **self._at(at_revision)
                )
                if reading.value is not None:
                    self._check(reading.header, spec, part, reading.value, dtype)
                self.learn(reading.header, {path: reading.variable_revision})
                if out is not None and reading.value is not None:
                    if (out.dtype, out.shape) != (reading.value.dtype, reading.value.shape):
                        raise fits_no_more(out, str(reading.value.dtype), reading.value.shape)
                    np.copyto(out, reading.value)
                    reading = replace(reading, value=out)
                return reading
            except MessageTooLarge:
                if size is None:
                    self._streams.add(path)
        reads = {variable: (path, part)}
        into = None if out is None else {variable: out}
        dtypes = None if dtype is None else {variable: dtype}
        snapshot = yield from self.read_many(
            reads, budget, at_revision=at_revision, dtypes=dtypes, into=into
        )
        value = snapshot[variable] if out is None else out
        return Reading(snapshot.header, snapshot.revisions[variable], value)

    def read_many(
        self,
        reads: dict[str, tuple[str, Part]],
        budget: Budget,
        *,
        at_revision: int | None = None,
        dtypes: Mapping[str, Dtype] | None = None,
        into: Mapping[str, Array] | None = None,
    ) -> Op[Snapshot]:
        """Several variables or regions at one revision. `reads`: key to path and part.

        `dtypes`: what values travel as, and `into`: arrays that take values, by key.
        """
        yield from self.fresh(budget)
        snapshot = yield from operations.read_variables(
            self.asked,
            {key: (self.variables.key(path), part) for key, (path, part) in reads.items()},
            self.spec.limits.chunk_bytes,
            budget,
            dtypes=dtypes,
            into=into,
            **self._at(at_revision),
        )
        for key, (path, part) in reads.items():
            dtype = (dtypes or {}).get(key)
            self._check(snapshot.header, self.variables.at(path), part, snapshot[key], dtype)
        self.learn(
            snapshot.header,
            {path: snapshot.revisions[key] for key, (path, _) in reads.items()},
        )
        return snapshot

    def summarize(
        self,
        reads: Mapping[str, tuple[str, Part]],
        budget: Budget,
        histogram: summary_pb2.HistogramSpec | None,
        *,
        content_hash: bool,
        at_revision: int | None = None,
    ) -> Op[summaries.Summaries]:
        """Summaries at one revision. `reads`: key to path and part."""
        yield from self.fresh(budget)
        found = yield from summaries.summarize_variables(
            self.asked,
            {key: (self.variables.key(path), part) for key, (path, part) in reads.items()},
            budget,
            histogram,
            content_hash=content_hash,
            **self._at(at_revision),
        )
        self.learn(
            found.header,
            {path: found[key].variable_revision for key, (path, _) in reads.items()},
        )
        return found

    def _at(self, revision: int | None) -> dict[str, Any]:
        # A revision means something in its epoch only.
        return {} if revision is None else {"at_revision": revision, "epoch": self.header.epoch}

    def _check(
        self,
        header: StateHeader,
        spec: VariableSpec,
        part: Part,
        value: Array,
        dtype: Dtype | None,
    ) -> None:
        expected = dtype or spec.dtype
        if header.epoch != self.header.epoch or (value.dtype == expected and part.is_of(value)):
            return
        raise errors.ServiceError(
            f"variable {spec.name!r}: expected {tensors.dtype_name(expected)} "
            f"{shape_text(part.shown_shape)}, and the service sent "
            f"{tensors.dtype_name(value.dtype)} {shape_text(value.shape)}"
        )

    def write(
        self,
        write: Prepared,
        budget: Budget,
        conditions: Conditions,
        *,
        read_back: bool = False,
        lease_seconds: float = 0,
    ) -> Op[Commit]:
        """One write, by the call that suits its size. `write.variable` is a path."""
        yield from self.fresh(budget)
        if self._fits(_message_bytes(write.value)):
            commit = yield from operations.assign_variable(
                self.asked,
                write._replace(variable=self.variables.key(write.variable)),
                budget,
                conditions,
                read_back=read_back,
                lease_seconds=lease_seconds,
            )
            self.learn(commit.header, {write.variable: commit.revision})
            return commit
        if read_back and write.operation is not AssignOperation.SET:
            raise MessageTooLarge(
                "the value is too large to be read back with the write; read it afterwards"
            )
        commit = yield from self.write_many(
            [write], budget, conditions, lease_seconds=lease_seconds
        )
        # After a SET the variable holds just what was sent.
        value = write.part.show(write.value.copy()) if read_back else None
        return Commit(commit.header, value)

    def write_many(
        self,
        writes: Sequence[Prepared],
        budget: Budget,
        conditions: Conditions,
        *,
        lease_seconds: float = 0,
    ) -> Op[Commit]:
        """Several writes as one commit. Each `variable` is a path."""
        yield from self.fresh(budget)
        commit = yield from operations.assign_variables(
            self.asked,
            [each._replace(variable=self.variables.key(each.variable)) for each in writes],
            self.spec.limits.chunk_bytes,
            budget,
            conditions,
            lease_seconds=lease_seconds,
        )
        self.learn(commit.header, {each.variable: commit.revision for each in writes})
        return commit

    def run(self, run: Run, budget: Budget, conditions: Conditions) -> Op[Outputs]:
        """A call of a function, by the call that suits the size of its inputs and outputs."""
        model = self.asked
        size = sum(_message_bytes(each) for each in run.inputs.values())
        key = f"function {run.function}"
        # Only variables are put back when outputs do not fit: what changes more is not run twice.
        once = run.repeatable or self._outputs_fit(run.function)
        if self._fits(size) and once and key not in self._streams:
            try:
                outputs = yield from operations.run_function(model, run, budget, conditions)
                self.learn(outputs.header)
                return outputs
            except MessageTooLarge:
                # The outputs do not fit; nothing was changed. Nor will they the next time.
                self._streams.add(key)
        chunk_bytes = self.spec.limits.chunk_bytes
        outputs = yield from operations.stream_run_function(
            model, run, chunk_bytes, budget, conditions
        )
        self.learn(outputs.header)
        return outputs

    def _outputs_fit(self, function: str) -> bool:
        """Whether it is certain that the outputs fit into one message."""
        for overload in self.functions.find(function).overloads:
            tensors_ = [each.tensor for each in overload.outputs]
            sizes = [Part(each.shape).nbytes(each.dtype.itemsize) for each in tensors_]
            if None in sizes or any(each.dtype.kind == "O" for each in tensors_):
                return False
            if not self._fits(sum(size or 0 for size in sizes)):
                return False
        return True


def part_of(spec: VariableSpec, region: Index | Rows | Part | None) -> Part:
    """The part of a variable that a region is. Raises RegionInvalid."""
    if region is None:
        return Part(spec.shape)
    with errors.about(f"variable {spec.name!r}", variable=spec.name):
        return resolve(region, spec.shape)


def sent_as(dtype: npt.DTypeLike | None) -> Dtype | None:
    """The dtype that a value is to travel as; None: its own. Raises DtypeUnsupported."""
    try:
        return None if dtype is None else np.dtype(dtype)
    except TypeError:
        raise errors.DtypeUnsupported(
            f"dtype: expected one of {', '.join(FLOATS)}, found {errors.shown(dtype)}"
        ) from None


def check_out(spec: VariableSpec, part: Part, out: Any, dtype: Dtype | None) -> None:
    """Raises DtypeMismatch, ShapeMismatch or InvalidRequest for what cannot take a value."""
    about = f"variable {spec.name!r}: out"
    if spec.dtype.kind == "O":
        raise errors.InvalidRequest(f"{about}: strings have no array that they could be read into")
    if not isinstance(out, np.ndarray) or not (out.flags.c_contiguous and out.flags.writeable):
        raise errors.InvalidRequest(f"{about}: expected a C-contiguous, writable numpy array")
    expected = dtype or spec.dtype
    if out.dtype != expected:
        raise errors.DtypeMismatch(f"{about}: expected dtype {expected}, found {out.dtype}")
    if not part.is_of(out):
        raise errors.ShapeMismatch(
            f"{about}: expected shape {shape_text(part.shown_shape)}, found {shape_text(out.shape)}"
        )


def part_bytes(spec: VariableSpec, part: Part, dtype: Dtype | None = None) -> int | None:
    """Bytes of a part of a variable, sent as `dtype`; None when only a read tells."""
    if spec.dtype.kind == "O":
        return None
    return part.nbytes((dtype or spec.dtype).itemsize)


def _message_bytes(array: Array) -> int:
    size = tensors.body_length(array)
    return size if array.dtype.kind != "O" else size + 4 * array.size


def prepared(spec: VariableSpec, write: Write) -> Prepared:
    """A write, checked against the variable's spec and ready to be sent. The value is not copied
    unless it must be.

    Raises DtypeMismatch, ShapeMismatch, OperationUnsupported, RegionInvalid.
    """
    operation = operation_of(write.operation)
    name = tensors.dtype_name(spec.dtype)
    if operation is not AssignOperation.SET and name in (tensors.STRING, "bool"):
        raise errors.OperationUnsupported(
            f"variable {spec.name!r}: {name} has no addition", metadata={"variable": spec.name}
        )
    part = part_of(spec, write.region)
    with errors.about(f"variable {spec.name!r}", variable=spec.name):
        array = part.fit(tensors.as_array(write.value, name))
    return Prepared(spec.path, array, operation, part, write.if_revision_match)
