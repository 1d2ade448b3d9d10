"""What the core asks of a function that can be looked into, and what it is told.

Knows the ports and numpy. Knows nothing of TensorFlow, gRPC or disk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol, runtime_checkable

import numpy as np

from varserve_service.core.arrays.shapes import PartialShape
from varserve_service.core.ports.function_messages import FunctionMessage, Iteration
from varserve_service.core.ports.loaded_model import Function, Value
from varserve_service.core.values.summaries import HistogramSpec, Summary


class Place(Enum):
    """Where an inner tensor stands."""

    TOP = "top"
    LOOP = "loop"
    BRANCH = "branch"
    XLA = "xla"


@dataclass(frozen=True, slots=True)
class InnerTensor:
    """One tensor in the middle of a function.

    `name` is unique in its function and as short as that allows; `bare` is the name without the
    calls that lead to it, which several tensors may share; `path` names every call. `variables` are
    paths of the variables that its operation reads directly. `source` is `file.py:12` where the
    model was saved with it, else empty.
    """

    name: str
    bare: str
    path: str
    op: str
    dtype: str
    shape: PartialShape
    place: Place
    variables: tuple[str, ...] = ()
    source: str = ""


class PatchKind(Enum):
    """What replaces a tensor."""

    ZERO = "zero"
    SCALE = "scale"
    VALUE = "value"


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """What replaces a floating-point tensor: zeros, `factor` times it, or `value`."""

    kind: PatchKind
    factor: float = 1.0
    value: np.ndarray[Any, Any] | None = None


@dataclass(frozen=True, slots=True)
class SummarySpec:
    """Give each probed value as a summary, with a histogram and a content hash if asked for."""

    histogram: HistogramSpec | None = None
    content_hash: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Inspection:
    """What to look at in one run. Names are as `InnerTensor.name`, `bare` or `path`.

    `probes` are names or glob patterns. `gradients_of` is the name of an output: its sum is
    differentiated with respect to each of `wrt`: inputs, variables or inner tensors, by name.
    `keep_going`: a failed assertion is a message, and the run goes on. `open_xla`: what XLA would
    compile runs operation by operation, so that it can be looked into.
    """

    probes: tuple[str, ...] = ()
    summarize: SummarySpec | None = None
    patches: Mapping[str, Patch] = field(default_factory=dict)
    gradients_of: str = ""
    wrt: tuple[str, ...] = ()
    find_non_finite: bool = False
    profile: bool = False
    messages: bool = False
    keep_going: bool = False
    open_xla: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """An inspection whose names are found: indices into the list of inner tensors.

    `wrt_inputs` are names of inputs; `wrt_variables` and `wrt_tensors` pair the name that was asked
    for with a path and an index.
    """

    asked: Inspection
    probes: frozenset[int] = frozenset()
    patches: Mapping[int, Patch] = field(default_factory=dict)
    wrt_inputs: tuple[str, ...] = ()
    wrt_variables: tuple[tuple[str, str], ...] = ()
    wrt_tensors: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class InspectionLimits:
    """What one inspection may take: bytes of the values it keeps, operations that it executes.

    `records`: messages, and values of probes. `admit` is told of bytes before they are kept, and
    raises when there is no room for them.
    """

    nbytes: int = 256 * 2**20
    operations: int = 5_000_000
    records: int = 100_000
    admit: Callable[[int], None] = lambda nbytes: None


DEFAULT_LIMITS = InspectionLimits()


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """What a probed tensor was: its value, or the summary of it."""

    name: str
    iteration: Iteration
    value: Value | None = None
    summary: Summary | None = None


@dataclass(frozen=True, slots=True)
class NonFinite:
    """The first tensor, in the order of computation, with elements that are not finite."""

    name: str
    op: str
    iteration: Iteration
    dtype: str
    shape: tuple[int, ...]
    nan: int
    positive_infinity: int
    negative_infinity: int


@dataclass(frozen=True, slots=True, eq=False)
class Gradient:
    """The derivative of the sum of an output with respect to one thing, in one iteration.

    `value` is None where the output does not depend on it.
    """

    name: str
    iteration: Iteration
    value: Value | None


@dataclass(frozen=True, slots=True)
class OperationTime:
    """How long one operation took: all its runs together, in seconds."""

    name: str
    op: str
    runs: int
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Inspected:
    """What an inspection saw.

    `outputs` are all outputs by name. `not_run` names the tensors that were asked for and not
    computed: they stand in a branch that was not taken, or in a loop that had no iteration. `notes`
    say what could not be looked at.
    """

    outputs: Mapping[str, Value]
    probes: tuple[Probe, ...] = ()
    not_run: tuple[str, ...] = ()
    messages: tuple[FunctionMessage, ...] = ()
    first_non_finite: NonFinite | None = None
    gradients: tuple[Gradient, ...] = ()
    profile: tuple[OperationTime, ...] = ()
    notes: tuple[str, ...] = ()


class Inspector(Protocol):
    """Looks into one overload of a function."""

    def tensors(self) -> Sequence[InnerTensor]:
        """All inner tensors in an order of computation. Takes up to seconds when first called.

        Raises RequestError INSPECTION_UNSUPPORTED.
        """
        ...

    def inspect(
        self,
        inputs: Mapping[str, np.ndarray[Any, Any]],
        values: Mapping[str, Value],
        selection: Selection,
        limits: InspectionLimits,
        go_on: Callable[[], None],
    ) -> Inspected:
        """Run it on private copies of its variables, which begin with `values`, by path.

        Needs no lock and changes nothing that anybody else can see. `inputs` are checked, and taken
        over. `go_on` is called between operations, and raises to end the run. Raises what `go_on`
        raises, and RequestError: FUNCTION_FAILED, OUT_OF_MEMORY, SHAPE_MISMATCH for a patch,
        INSPECTION_UNSUPPORTED, INSPECTION_TOO_LARGE, GRADIENT_UNAVAILABLE, TENSOR_NOT_RUN; with
        what the function had said until then.
        """
        ...

    def run(
        self,
        inputs: Mapping[str, np.ndarray[Any, Any]],
        values: Mapping[str, Value],
    ) -> Inspected:
        """The same without looking: as fast as the function itself, to the same bits.

        What it prints is dropped. Raises FunctionFailed, OutOfMemory, RequestError
        INSPECTION_UNSUPPORTED.
        """
        ...


@runtime_checkable
class Inspectable(Function, Protocol):
    """A function that can be looked into."""

    def inspector(self, overload: int) -> Inspector:
        """What looks into one of its overloads, by index."""
        ...
