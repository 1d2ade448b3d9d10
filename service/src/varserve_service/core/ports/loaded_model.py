"""The port of a loaded model: variables, functions and values, as the core uses them.

Knows numpy; knows nothing of TensorFlow, gRPC or disk.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any, Protocol

import numpy as np

from varserve_service.core.arrays.reductions import Counted, Reduced
from varserve_service.core.arrays.regions import Region
from varserve_service.core.arrays.shapes import PartialShape
from varserve_service.core.memory import Room

from .function_messages import MessageListener


class Operation(Enum):
    """How a value changes a variable."""

    SET = "set"
    ADD = "add"
    SUB = "sub"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Type and shape that a tensor must have.

    `dtype` is a name that numpy, ml_dtypes and TensorFlow share (`float32`, `bfloat16`, `bool`,
    ...) or `string`.
    """

    dtype: str
    shape: PartialShape


@dataclass(frozen=True, slots=True)
class VariableSpec:
    """What stays true of a variable while its model is loaded."""

    name: str
    path: str
    dtype: str
    shape: PartialShape
    trainable: bool
    device: str
    copies: tuple[str, ...] = ()
    """Paths of what the SavedModel has as copies of it: a save gives all of them its value."""


class FunctionKind(Enum):
    """Where a function comes from."""

    SIGNATURE = "signature"
    FUNCTION = "function"


@dataclass(frozen=True, slots=True)
class Constant:
    """A Python value that is part of a function's signature and tells its overloads apart.

    `value` is None, a bool, int, float or str; for anything else it is the value's repr() and
    `is_repr` is True.
    """

    value: bool | int | float | str | None
    is_repr: bool = False


@dataclass(frozen=True, slots=True)
class InputSpec:
    """A flat, named input: a tensor or a constant. `optional`: a call may leave it out."""

    name: str
    kind: TensorSpec | Constant
    optional: bool = False


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """A flat, named output."""

    name: str
    tensor: TensorSpec


@dataclass(frozen=True, slots=True)
class Overload:
    """One concrete function: what it takes, gives, reads and writes.

    `reads` and `writes` are paths of variables; a variable that is in `writes` may be read as well.
    `changes_other_state` says that a call may change state which is not a variable. `writes_rows`
    are those of `writes` of which a call writes rows alone, which a staged run knows beforehand.
    """

    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    changes_other_state: bool = False
    writes_rows: tuple[str, ...] = ()


class ParameterKind(Enum):
    """How a call in Python gives an argument."""

    POSITIONAL = "positional"
    VARIADIC = "variadic"
    KEYWORD = "keyword"


@dataclass(frozen=True, slots=True)
class Parameter:
    """An argument of a function: the first part of the flat names of its inputs."""

    name: str
    kind: ParameterKind


@dataclass(frozen=True, slots=True)
class FunctionSpec:
    """What stays true of a function while its model is loaded."""

    name: str
    path: str
    kind: FunctionKind
    overloads: tuple[Overload, ...]
    parameters: tuple[Parameter, ...] = ()


class OmissionKind(Enum):
    """What was left out of a model."""

    VARIABLE = "variable"
    FUNCTION = "function"


@dataclass(frozen=True, slots=True)
class Omission:
    """Something that a SavedModel has and that is not served, and why, for people."""

    kind: OmissionKind
    path: str
    reason: str


class Value(Protocol):
    """An immutable tensor value, wherever it lives.

    It may share memory with a variable, and stays what it is when that variable is written.
    """

    @property
    def dtype(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def nbytes(self) -> int:
        """Bytes of the elements: what `buffer` counts. For `string` the sum of the lengths."""
        ...

    def numpy(self) -> np.ndarray[Any, Any]:
        """The value in host memory, C-contiguous, not to be written to. Shares memory where it can.

        A `string` value is an object array of bytes.
        """
        ...

    def buffer(self, start: int, stop: int) -> memoryview:
        """Bytes start to stop of the elements in C order, little-endian. Not for `string`.

        From a device, copies no more than this part.
        """
        ...

    def reduce(self, start: int, stop: int) -> Sequence[Reduced]:
        """What elements start to stop in C order come to, worked out where they are.

        In one run, or cut into several.
        """
        ...

    def count(self, start: int, stop: int, edges: np.ndarray[Any, Any]) -> Counted:
        """How many of these elements are between each two of the edges (float64, ascending)."""
        ...


class OwnedValue(Value, Protocol):
    """A value in memory that has no other reference. `swap` gives it to its variable, once.

    After that its elements cannot be read here any more.
    """


class Variable(Protocol):
    """One variable of a loaded model.

    The caller holds the model's lock: at least shared for `is_initialized` and `read`, exclusive
    for `write`. The other calls need none.
    """

    @property
    def spec(self) -> VariableSpec: ...

    @property
    def writes_in_place(self) -> bool:
        """True: writing a region costs the region. False: it costs a copy of the whole value."""
        ...

    def is_initialized(self) -> bool: ...

    def shape(self) -> tuple[int, ...]:
        """Shape of the present value; the variable is initialized."""
        ...

    def read(self, region: Region | None = None) -> Value:
        """The present value, or a region that fits it. Work that can wait is left to the Value.

        The variable is initialized. What keeps a region for long asks `part` for it: until it is
        worked out, and after that too, a region may hold the whole that it was cut from.
        """
        ...

    def part(self, whole: Value, region: Region) -> Value:
        """A region of a whole value of this variable, in memory of its own.

        Needs no lock. Raises OutOfMemory.
        """
        ...

    def cast(self, value: Value, dtype: str) -> Value:
        """A value of this variable as another dtype of `casts.FLOATS`, rounded to the nearest.

        The work is left to the Value. Needs no lock.
        """
        ...

    def stage(self, array: np.ndarray[Any, Any]) -> Value:
        """Bring a host array to where the variable lives. Takes the array over: may use its memory.

        Raises OutOfMemory.
        """
        ...

    def combine(self, operation: Operation, base: Value, operand: Value) -> Value:
        """base + operand or base - operand, element by element, in the variable's dtype.

        Integers wrap around. Raises OutOfMemory.
        """
        ...

    def overlay(self, base: Value, value: Value, region: Region) -> Value:
        """The whole value `base` with `region` of it replaced by `value`. Raises OutOfMemory."""
        ...

    def write(self, value: Value, region: Region | None = None) -> None:
        """Replace the present value, or a region. Raises OutOfMemory, with nothing changed."""
        ...

    def blank(self, shape: Sequence[int]) -> np.ndarray[Any, Any]:
        """Writable host memory for a whole value of this shape, which is for `stage`.

        Once nothing else refers to it, the staged value `is_alone`. Raises OutOfMemory.
        """
        ...

    def is_alone(self, value: Value) -> bool:
        """Whether `own` takes a whole value over, and does not copy it."""
        ...

    def own(self, value: Value) -> OwnedValue:
        """A whole value for `swap`, of a variable that is written in place: a copy, or itself.

        The caller holds no array and no part of it any more. Needs no lock. Raises OutOfMemory.
        """
        ...

    def own_with(self, owned: OwnedValue, value: Value, region: Region) -> OwnedValue:
        """An owned value with a region of it replaced; `owned` itself is not to be used any more.

        Needs no lock. Raises OutOfMemory.
        """
        ...

    def differing_rows(self, whole: Value) -> np.ndarray[Any, Any] | None:
        """Rows of the present value whose bits are not those of a whole value: int64, ascending.

        None where that cannot be told at the speed of memory: elsewhere than on the host, or of
        another shape. Of a variable that is written in place; the lock is held exclusively.
        """
        ...

    def swap(self, owned: OwnedValue) -> Value:
        """Replace the present value by an owned one, without a copy; what was there before.

        Of a variable that is written in place, and is initialized.
        """
        ...


class StagedRun(Protocol):
    """A run of a function whose inputs are on the device. Called once."""

    def __call__(self) -> Mapping[str, Value]:
        """Run it; its outputs by name, in the order that the overload declares.

        Raises FunctionFailed, also where it was cancelled; OutOfMemory.
        """
        ...

    def written_rows(self) -> Mapping[str, np.ndarray[Any, Any]]:
        """The rows that it will write of each variable of `Overload.writes_rows`, by its path.

        Indices int64 [n], ascending, each once; one that the variable does not have is not written.
        The lock is held exclusively from here to the run. Raises as the run does.
        """
        ...

    def cancel(self) -> None:
        """Ask it to end, from any thread, at any time. Returns at once.

        Loops end in milliseconds. What cannot be ended continues.
        """
        ...


class Function(Protocol):
    """One callable of a loaded model."""

    @property
    def spec(self) -> FunctionSpec: ...

    def stage(
        self,
        overload: int,
        inputs: Mapping[str, np.ndarray[Any, Any]],
        on_message: MessageListener | None = None,
    ) -> StagedRun:
        """Bring checked inputs to the device, taking the arrays over; the result runs the function.

        `overload` is an index into `spec.overloads`; `inputs` has a value for each of its tensor
        inputs that is not optional. `on_message` is told what the function prints. No lock is
        needed to stage; running needs the model's lock, exclusive when the overload writes.
        """
        ...


class LoadedModel(Protocol):
    """A SavedModel in memory."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int: ...

    @property
    def device(self) -> str: ...

    def device_memory(self) -> Room | None:
        """Room in the device's own memory; None where the values live in host memory."""
        ...

    @property
    def fingerprint(self) -> str:
        """Tells models apart whose variables begin with different values."""
        ...

    @property
    def set_at_load(self) -> Collection[str]:
        """Paths of the variables that begin with what loading computes, maybe each time anew."""
        ...

    @property
    def variables(self) -> Sequence[Variable]: ...

    def read(self, variables: Sequence[Variable]) -> Sequence[Value]:
        """The present values of some of its variables, in this order, as each would `read` it.

        Takes less time than one after the other. All are initialized; the caller holds the model's
        lock, shared or not.
        """
        ...

    def write(self, values: Sequence[tuple[Variable, Value]]) -> None:
        """Replace the present values of some of its variables, each of them named once.

        Takes less time than one after the other. The caller holds the model's lock. Raises
        OutOfMemory, with any of them replaced.
        """
        ...

    @property
    def functions(self) -> Sequence[Function]: ...

    @property
    def omissions(self) -> Sequence[Omission]:
        """What else the SavedModel has, and why it is not served."""
        ...


class ModelState(StrEnum):
    """Where a model is in its life."""

    LOADING = "loading"
    READY = "ready"
    UNLOADING = "unloading"
    FAILED = "failed"
