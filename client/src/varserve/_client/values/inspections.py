"""Inner tensors of functions, and what a look at a run of one saw. Knows no calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import numpy as np

from varserve import tensors
from varserve.tensors import Array

from .enums import StrEnum
from .function_messages import FunctionMessage, Iteration
from .results import OfState, Outputs
from .specs import StateHeader, shape_text
from .summaries import Summary

T = TypeVar("T")


class TensorPlace(StrEnum):
    """Where an inner tensor stands."""

    UNSPECIFIED = "unspecified"
    TOP = "top"
    LOOP = "loop"
    BRANCH = "branch"
    XLA = "xla"


class InnerTensor(NamedTuple):
    """A tensor in the middle of a function.

    `path` is the name with every call that leads to it. `shape` has None for sizes that only a run
    tells, and is None where not even the rank is known. `variables` are those that its operation
    reads directly. `source` is `file.py:12` where the model was saved with it, else empty.
    """

    name: str
    path: str
    op: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...] | None
    place: TensorPlace
    variables: tuple[str, ...]
    source: str

    def __str__(self) -> str:
        return f"{self.name} {tensors.dtype_name(self.dtype)} {shape_text(self.shape)} {self.op}"


class InnerTensors(OfState, list[InnerTensor]):
    """Inner tensors in an order of computation."""

    def __init__(self, header: StateHeader, found: Iterable[InnerTensor]) -> None:
        super().__init__(found)
        self.header = header

    @property
    def names(self) -> list[str]:
        """Their names."""
        return [each.name for each in self]


class Patch(NamedTuple):
    """What replaces an inner tensor: zeros, or `factor` times it. Made by `zero` and `scale`."""

    factor: float

    def __repr__(self) -> str:
        return f"varserve.scale({self.factor!r})" if self.factor else "varserve.zero()"


def zero() -> Patch:
    """Replaces an inner tensor by zeros."""
    return Patch(0.0)


def scale(factor: float) -> Patch:
    """Replaces an inner tensor by `factor` times it."""
    return Patch(float(factor))


class NonFinite(NamedTuple):
    """The first inner tensor with elements that are not finite, and how many of each kind."""

    name: str
    op: str
    iteration: Iteration
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    nans: int
    positive_infinities: int
    negative_infinities: int


class OperationTime(NamedTuple):
    """Seconds that an operation took, all its runs together; in a loop one for each iteration."""

    name: str
    op: str
    runs: int
    seconds: float


class Iterations(list[T], Generic[T]):
    """What an inner tensor of a loop was, in the order of the run.

    `iterations` has one tuple for each: the number of the iteration, of the outermost loop first.
    """

    def __init__(self, values: Iterable[T], iterations: Sequence[Iteration]) -> None:
        super().__init__(values)
        self.iterations = tuple(iterations)


Probed: TypeAlias = "Array | Summary | Iterations[Array | Summary]"
"""A probe outside of loops is its value or summary; in a loop, those of each iteration."""


@dataclass(frozen=True, eq=False)
class Inspection(OfState):
    """What a look at one run of a function saw. `revision`: of the values that it ran on.

    `probes` and `gradients` are by name; a gradient is None where the output does not depend on the
    thing. `not_run` are probes that were not computed: in a branch that was not taken, or a loop
    without an iteration. `notes` say what could not be looked at.
    """

    header: StateHeader
    outputs: Outputs
    probes: Mapping[str, Probed] = field(default_factory=dict)
    not_run: tuple[str, ...] = ()
    messages: tuple[FunctionMessage, ...] = ()
    first_non_finite: NonFinite | None = None
    gradients: Mapping[str, Array | Iterations[Array | None] | None] = field(default_factory=dict)
    profile: tuple[OperationTime, ...] = ()
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        seen = [f"{len(self.probes)} probes", f"{len(self.messages)} messages"]
        if self.gradients:
            seen.append(f"{len(self.gradients)} gradients")
        if self.first_non_finite is not None:
            seen.append(f"not finite from {self.first_non_finite.name!r}")
        return (
            f"<varserve.Inspection of {self.model!r} at revision {self.revision}: "
            f"outputs {list(self.outputs)}, {', '.join(seen)}>"
        )


@dataclass(frozen=True, eq=False)
class TensorDifference:
    """One inner tensor on two sides, in one iteration.

    left, right: its summaries; None on the side that did not compute it.
    equal: both have the same bytes.
    largest: the largest absolute difference of two elements; NaN where just one side has a NaN.
    None when it was not worked out: shapes differ, the elements are strings, or it is beyond what
    may be fetched.
    """

    name: str
    iteration: Iteration
    left: Summary | None
    right: Summary | None
    equal: bool
    largest: float | None


@dataclass(frozen=True, eq=False)
class Comparison:
    """Where two runs of a function differ.

    `tensors` are those inner tensors that were compared, in an order of computation, equal ones
    included; `outputs` has the largest absolute difference of each output, None where shapes
    differ.
    """

    left: StateHeader
    right: StateHeader
    tensors: tuple[TensorDifference, ...]
    outputs: Mapping[str, float | None]

    @property
    def differing(self) -> tuple[TensorDifference, ...]:
        """Those that differ."""
        return tuple(each for each in self.tensors if not each.equal)

    @property
    def first(self) -> TensorDifference | None:
        """The first that differs: where the two runs part. None when nothing differs."""
        return next((each for each in self.tensors if not each.equal), None)

    def __repr__(self) -> str:
        first = self.first
        where = "nothing differs" if first is None else f"from {first.name!r} on"
        count = f"{len(self.differing)} of {len(self.tensors)} inner tensors differ"
        return f"<varserve.Comparison: {count}, {where}>"
