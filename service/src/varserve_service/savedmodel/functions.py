"""Functions of a loaded model: their specs and how one concrete function is staged and run."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, TypeAlias

import numpy as np
import tensorflow as tf

from varserve_service.core.arrays.shapes import fits, shape_text
from varserve_service.core.errors import FunctionFailed, OutOfMemory
from varserve_service.core.inspection.ports import Inspector
from varserve_service.core.ports.function_messages import MessageListener
from varserve_service.core.ports.loaded_model import FunctionSpec, Overload, StagedRun, Value

from .placement import Placement
from .row_writes import RowWrites
from .runtime import CancellationManager, FlatCall
from .values import OUT_OF_MEMORY, TensorValue, to_tensor


@dataclass(frozen=True, slots=True)
class CallEffects:
    """Paths of the variables that a call reads and writes; whether it changes any other state.

    `endless`: it has loops, or operations that wait. `rows` finds the rows that it writes, of the
    variables of which it writes rows alone.
    """

    reads: tuple[str, ...]
    writes: tuple[str, ...]
    changes_other_state: bool
    endless: bool = False
    rows: RowWrites | None = None


class Prints(Protocol):
    """What is done with what a function prints."""

    def call(
        self,
        inputs: list[tf.Tensor],
        cancellation: CancellationManager | None = None,
        *,
        on_message: MessageListener | None,
    ) -> Any:
        """Call it flat; without a listener its prints are dropped."""
        ...


@dataclass(frozen=True, slots=True)
class Compiled:
    """A call through XLA, and the captures that follow its inputs."""

    call: FlatCall
    captures: tuple[tf.Tensor, ...]


@dataclass(frozen=True, slots=True)
class Callee:
    """One concrete function, ready to be called flat.

    `feeds` are the names of its tensor inputs in the order of its arguments, `defaults` tensors
    for those that a call may leave out, `captures` what follows them. `compiled` is what to call
    instead where the inputs have just these shapes. `endless`: a run may have to be cancelled.
    `printing`: it prints, and is called by this. `rows` finds what it will write.
    """

    overload: Overload
    call: FlatCall
    feeds: tuple[str, ...]
    defaults: Mapping[str, tf.Tensor]
    captures: tuple[tf.Tensor, ...]
    compiled: Mapping[tuple[tuple[int, ...], ...], Compiled] = field(default_factory=dict)
    printing: Prints | None = None
    endless: bool = False
    rows: RowWrites | None = None

    def with_compiled(self, compiled: Mapping[tuple[tuple[int, ...], ...], Compiled]) -> Callee:
        """The same, with what XLA has compiled of it."""
        return replace(self, compiled=compiled)

    def with_printing(self, printing: Prints | None) -> Callee:
        """The same, called so that what it prints goes nowhere else."""
        return replace(self, printing=printing)


LookInto: TypeAlias = Callable[[str, Callee], Inspector]
"""Makes what looks into one concrete function, by the function's name."""


class SavedFunction:
    """Implements the core's Inspectable over the concrete functions of one restored function."""

    def __init__(
        self,
        spec: FunctionSpec,
        callees: Sequence[Callee],
        placement: Placement,
        look_into: LookInto,
    ) -> None:
        self.spec = spec
        self._callees = tuple(callees)
        self.placement = placement
        self._look_into = look_into
        self._inspectors: dict[int, Inspector] = {}

    @property
    def callees(self) -> tuple[Callee, ...]:
        """One for each overload."""
        return self._callees

    def replace(self, callees: Sequence[Callee]) -> None:
        """Call these from now on: the same overloads, called another way. Before it is served."""
        self._callees = tuple(callees)

    def inspector(self, overload: int) -> Inspector:
        if overload not in self._inspectors:
            inspector = self._look_into(self.spec.name, self._callees[overload])
            self._inspectors.setdefault(overload, inspector)
        return self._inspectors[overload]

    def stage(
        self,
        overload: int,
        inputs: Mapping[str, np.ndarray[Any, Any]],
        on_message: MessageListener | None = None,
    ) -> StagedRun:
        callee = self._callees[overload]
        arguments = [
            to_tensor(inputs[name], self.placement.logical)
            if name in inputs
            else callee.defaults[name]
            for name in callee.feeds
        ]
        call, captures = callee.call, callee.captures
        if callee.printing is not None:
            call = partial(callee.printing.call, on_message=on_message)
        if callee.compiled:
            shapes = tuple(tuple(each.shape.as_list()) for each in arguments)
            if shapes in callee.compiled:
                call, captures = callee.compiled[shapes].call, callee.compiled[shapes].captures
        arguments.extend(captures)
        return _Run(self, callee, call, arguments)

    def named(self, overload: Overload, tensors: Sequence[tf.Tensor]) -> dict[str, Value]:
        """The outputs by name, in the declared order.

        Raises FunctionFailed for one that is not of its declared type and shape.
        """
        values: dict[str, Value] = {}
        for spec, tensor in zip(overload.outputs, tensors, strict=True):
            value = TensorValue(tensor)
            if value.dtype != spec.tensor.dtype or not fits(value.shape, spec.tensor.shape):
                raise FunctionFailed(
                    f"function {self.spec.name!r}: its output {spec.name!r} is {value.dtype} "
                    f"{shape_text(value.shape)}; expected {spec.tensor.dtype} "
                    f"{shape_text(spec.tensor.shape)}, as its signature says",
                    function=self.spec.name,
                )
            values[spec.name] = value
        return values


class _Run:
    """Implements the core's StagedRun."""

    def __init__(
        self, function: SavedFunction, callee: Callee, call: FlatCall, arguments: list[tf.Tensor]
    ) -> None:
        self._function = function
        self._callee = callee
        self._call = call
        self._arguments = arguments
        self._cancellation = CancellationManager() if callee.endless else None

    def __call__(self) -> Mapping[str, Value]:
        try:
            with self._function.placement.scope():
                outputs = self._call(self._arguments, self._cancellation)
            return self._function.named(self._callee.overload, outputs)
        except OUT_OF_MEMORY as error:
            raise self._no_memory() from error
        except tf.errors.OpError as error:
            raise self._failed(error) from error

    def written_rows(self) -> Mapping[str, np.ndarray[Any, Any]]:
        rows = self._callee.rows
        if rows is None:
            return {}
        try:
            with self._function.placement.scope():
                return rows.find(self._arguments)
        except OUT_OF_MEMORY as error:
            raise self._no_memory() from error
        except tf.errors.OpError as error:
            raise self._failed(error) from error

    def cancel(self) -> None:
        if self._cancellation is not None:
            self._cancellation.start_cancel()

    def _no_memory(self) -> OutOfMemory:
        name = self._function.spec.name
        return OutOfMemory(f"no memory to run function {name!r}", function=name)

    def _failed(self, error: tf.errors.OpError) -> FunctionFailed:
        name = self._function.spec.name
        return FunctionFailed(f"function {name!r} failed: {failure(error)}", function=name)


def failure(error: tf.errors.OpError) -> str:
    """What TensorFlow says went wrong, on one line, without names of nodes and devices."""
    # Where in the graph it happened follows the first such mark.
    text = re.split(r"\n\s*\[\[", str(error.message), maxsplit=1)[0]
    text = re.sub(r"\{\{[^}]*\}\}|\[Op:[^\]]*\]|\[\[.*?\]\]", "", text)
    said = " ".join(text.split()).removeprefix("assertion failed:").strip()
    return said or type(error).__name__.removesuffix("Error")
