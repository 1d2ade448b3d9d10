"""What the service says of a model, as plain values: headers, specs, limits.

Owns the values that the client hands out instead of protobuf messages, and how each is read from
its message. They are named tuples where they may be: Python makes the class, when it is imported,
and each of a large model's thousands in a fraction of a dataclass's time. Knows no calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from varserve import tensors
from varserve.v1 import model_pb2, model_service_pb2

from .enums import StrEnum

PartialShape: TypeAlias = tuple[int | None, ...] | None
"""A size for each dimension, None where it is unknown; None as a whole: unknown rank."""

Value: TypeAlias = bool | int | float | str | None
"""A Python constant."""


class ModelState(StrEnum):
    """Where a model is in its life. Only a READY one answers."""

    UNSPECIFIED = "unspecified"
    LOADING = "loading"
    READY = "ready"
    UNLOADING = "unloading"
    FAILED = "failed"


class ParameterKind(StrEnum):
    """How a call gives an argument."""

    UNSPECIFIED = "unspecified"
    POSITIONAL = "positional"
    """By position or by name."""
    VARIADIC = "variadic"
    """All further arguments that are given by position."""
    KEYWORD = "keyword"
    """By name alone."""


class Parameter(NamedTuple):
    """An argument of a function: the first part of the flat names of its inputs."""

    name: str
    kind: ParameterKind


class FunctionKind(StrEnum):
    """Where a function comes from."""

    UNSPECIFIED = "unspecified"
    SIGNATURE = "signature"
    FUNCTION = "function"


class StateHeader(NamedTuple):
    """Which state an answer speaks of."""

    model: str
    version: int
    """The SavedModel's directory number; 0 for a model loaded from a path of its own."""
    epoch: str
    """Random id of one life of the state. Revisions of different epochs do not compare."""
    revision: int
    """Commits since the epoch began."""


class ModelSummary(NamedTuple):
    """One line about a model. `variable_bytes` counts all initialized variables."""

    name: str
    version: int
    epoch: str
    revision: int
    state: ModelState
    device: str
    variable_count: int
    variable_bytes: int
    labels: tuple[str, ...] = ()
    """`stable`, and others: the model `m` with the label `canary` can be called `m@canary`."""


class TensorSpec(NamedTuple):
    """Type and shape of a tensor. Strings have dtype object; their elements are `bytes`."""

    dtype: np.dtype[Any]
    shape: PartialShape

    def __str__(self) -> str:
        return f"{tensors.dtype_name(self.dtype)} {shape_text(self.shape)}"


class VariableSpec(NamedTuple):
    """A variable as it was when the service was last asked."""

    name: str
    path: str
    dtype: np.dtype[Any]
    shape: PartialShape
    trainable: bool
    device: str
    initialized: bool
    nbytes: int
    """Bytes of the value; 0 when uninitialized, and for strings, whose size only a read tells."""
    revision: int
    """Revision of the last write; 0: as loaded."""
    may_assign: bool = True
    """The access policy lets you assign to it."""


class Constant(NamedTuple):
    """A Python value that is part of a function's signature. `is_repr`: `value` is its repr()."""

    value: Value
    is_repr: bool = False

    def __str__(self) -> str:
        return str(self.value) if self.is_repr else repr(self.value)

    def matches(self, value: object) -> bool:
        """The same value of the same type: True is not 1, and 1 is not 1.0."""
        if self.is_repr:
            return repr(value) == self.value
        return type(value) is type(self.value) and value == self.value


class InputSpec(NamedTuple):
    """A flat, named input. `optional`: the function has a default for it."""

    name: str
    kind: TensorSpec | Constant
    optional: bool

    def __str__(self) -> str:
        if isinstance(self.kind, Constant):
            return f"{self.name}={self.kind}"
        return f"{self.name}: {self.kind}{' = ...' if self.optional else ''}"


class OutputSpec(NamedTuple):
    """A flat, named output."""

    name: str
    tensor: TensorSpec


class Overload(NamedTuple):
    """One concrete function. `writes` not empty: a call is a commit."""

    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    changes_other_state: bool

    def __str__(self) -> str:
        inputs = ", ".join(str(each) for each in self.inputs)
        outputs = ", ".join(f"{each.name}: {each.tensor}" for each in self.outputs)
        return f"({inputs}) -> {{{outputs}}}"


class FlatNames(NamedTuple):
    """The flat names of inputs, and of the structures that they are in."""

    leaves: frozenset[str]
    structures: frozenset[str]

    @classmethod
    def of(cls, names: Iterable[str]) -> FlatNames:
        """Of these inputs."""
        leaves = frozenset(names)
        structures = frozenset(
            name[:end] for name in leaves for end, character in enumerate(name) if character == "/"
        )
        return cls(leaves, structures)


@dataclass(frozen=True)
class FunctionSpec:
    """A function and its overloads; a call takes the one that fits its inputs."""

    name: str
    path: str
    kind: FunctionKind
    overloads: tuple[Overload, ...]
    parameters: tuple[Parameter, ...] = ()
    may_run: bool = True
    """The access policy lets you run an overload of it."""
    may_inspect: bool = True
    """The access policy lets you inspect an overload of it."""

    @cached_property
    def inputs(self) -> Mapping[str, tuple[InputSpec, ...]]:
        """What each flat input is in the overloads that have it."""
        kinds: dict[str, tuple[InputSpec, ...]] = {}
        for overload in self.overloads:
            for each in overload.inputs:
                kinds[each.name] = (*kinds.get(each.name, ()), each)
        return kinds

    @cached_property
    def flat_names(self) -> tuple[FlatNames, ...]:
        """The names of the inputs of its overloads, each set of names once."""
        different = dict.fromkeys(tuple(i.name for i in each.inputs) for each in self.overloads)
        return tuple(map(FlatNames.of, different))

    @cached_property
    def may_write(self) -> bool:
        """A call may change variables or other state."""
        return any(each.writes or each.changes_other_state for each in self.overloads)

    @cached_property
    def repeatable(self) -> bool:
        """Nothing happens twice when one call arrives twice: it changes nothing, or by commit."""
        return all(each.writes or not each.changes_other_state for each in self.overloads)


class OmissionKind(StrEnum):
    """What was left out of a model."""

    UNSPECIFIED = "unspecified"
    VARIABLE = "variable"
    FUNCTION = "function"


class Omission(NamedTuple):
    """Something that the SavedModel has and that is not served. `reason` is for people."""

    kind: OmissionKind
    path: str
    reason: str


class TransferLimits(NamedTuple):
    """What the service accepts and sends, in bytes.

    lane_socket: path of the Unix socket where memory is handed over, if there is one on this host.
    lane_port: port where large values are sent beside gRPC; 0: none.
    """

    message_bytes: int = 4 << 20
    chunk_bytes: int = 1 << 20
    body_bytes: int = 0
    lane_socket: str = ""
    lane_port: int = 0


class ModelSpec(NamedTuple):
    """A model as it was when the service was last asked: all of its variables and functions."""

    header: StateHeader
    summary: ModelSummary
    variables: tuple[VariableSpec, ...]
    functions: tuple[FunctionSpec, ...]
    limits: TransferLimits
    omissions: tuple[Omission, ...] = ()
    """What the SavedModel has beside these, and why it is not served."""


def shape_text(shape: PartialShape) -> str:
    """A shape for people: `[2, ?]`, or `[...]` for one of unknown rank."""
    if shape is None:
        return "[...]"
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"


# ---- from messages ----


def header(message: model_pb2.StateHeader) -> StateHeader:
    """Reads a StateHeader."""
    return StateHeader(message.model, message.version, message.epoch, message.revision)


def model_state(number: int) -> ModelState:
    """Reads a ModelState."""
    state: ModelState = member(ModelState, "MODEL_STATE_", model_pb2.ModelState, number)
    return state


def summary(message: model_pb2.ModelSummary) -> ModelSummary:
    """Reads a ModelSummary."""
    return ModelSummary(
        name=message.header.model,
        version=message.header.version,
        epoch=message.header.epoch,
        revision=message.header.revision,
        state=member(ModelState, "MODEL_STATE_", model_pb2.ModelState, message.state),
        device=message.device,
        variable_count=message.variable_count,
        variable_bytes=message.variable_bytes,
        labels=tuple(message.labels),
    )


def model(message: model_service_pb2.GetModelResponse) -> ModelSpec:
    """Reads a GetModelResponse. Raises TensorError for a dtype that the contract does not carry."""
    limits = message.limits
    default = TransferLimits()
    return ModelSpec(
        header=header(message.header),
        summary=summary(message.summary),
        variables=tuple(_variable(each) for each in message.variables),
        functions=tuple(_functions(message)),
        limits=TransferLimits(
            limits.message_bytes or default.message_bytes,
            limits.chunk_bytes or default.chunk_bytes,
            limits.body_bytes,
            limits.lane_socket,
            limits.lane_port,
        ),
        omissions=tuple(
            Omission(
                member(OmissionKind, "OMISSION_KIND_", model_pb2.OmissionKind, each.kind),
                each.path,
                each.reason,
            )
            for each in message.omissions
        ),
    )


def member(cls: Any, prefix: str, enum: Any, number: int) -> Any:
    """The member of `cls` that a number of a generated enum is."""
    # A number that a newer service added is none that this client knows.
    known = number in enum.values()
    return cls[enum.Name(number).removeprefix(prefix)] if known else cls.UNSPECIFIED


def _dtype(number: int) -> np.dtype[Any]:
    return tensors.numpy_dtype(tensors.from_wire_dtype(number))


def partial_shape(message: model_pb2.PartialShape) -> PartialShape:
    """A shape with None for each size that is not known; None: unknown rank."""
    if message.unknown_rank:
        return None
    return tuple(None if size < 0 else size for size in message.dimensions)


def _variable(message: model_pb2.VariableSpec) -> VariableSpec:
    return VariableSpec(
        name=message.name,
        path=message.path,
        dtype=_dtype(message.dtype),
        shape=partial_shape(message.shape),
        trainable=message.trainable,
        device=message.device,
        initialized=message.initialized,
        nbytes=message.byte_length,
        revision=message.revision,
        may_assign=not message.assign_denied,
    )


def _functions(message: model_service_pb2.GetModelResponse) -> Iterator[FunctionSpec]:
    """The functions, each of them whole: a page may end within one."""
    names = [each.name for each in message.variables]
    for _, parts in groupby(message.functions, lambda each: each.path):
        first, *rest = parts
        yield FunctionSpec(
            name=first.name,
            path=first.path,
            kind=member(FunctionKind, "FUNCTION_KIND_", model_pb2.FunctionKind, first.kind),
            overloads=tuple(
                _overload(each, names) for part in (first, *rest) for each in part.overloads
            ),
            parameters=tuple(
                Parameter(
                    each.name,
                    member(ParameterKind, "PARAMETER_KIND_", model_pb2.ParameterKind, each.kind),
                )
                for each in first.parameters
            ),
            may_run=not first.run_denied,
            may_inspect=not first.inspect_denied,
        )


def _overload(message: model_pb2.Overload, names: Sequence[str]) -> Overload:
    return Overload(
        inputs=tuple(_input(each) for each in message.inputs),
        outputs=tuple(OutputSpec(each.name, _tensor(each.tensor)) for each in message.outputs),
        reads=tuple(names[index] for index in message.reads),
        writes=tuple(names[index] for index in message.writes),
        changes_other_state=message.changes_other_state,
    )


def _tensor(message: model_pb2.TensorSpec) -> TensorSpec:
    return TensorSpec(_dtype(message.dtype), partial_shape(message.shape))


def _input(message: model_pb2.InputSpec) -> InputSpec:
    kind: TensorSpec | Constant
    if message.WhichOneof("kind") == "constant":
        which = message.constant.WhichOneof("value")
        value = None if which in (None, "none_value") else getattr(message.constant, which)
        kind = Constant(value, is_repr=which == "repr_value")
    else:
        kind = _tensor(message.tensor)
    return InputSpec(message.name, kind, message.optional)
