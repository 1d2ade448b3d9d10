"""The writes to one variable, on their way to one change: what all ways of writing share.

Knows the ports and numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from varserve_service.core.arrays.buffers import aligned_copy
from varserve_service.core.arrays.patches import Canvas
from varserve_service.core.arrays.regions import (
    Region,
    region_shape,
    touched_rows,
)
from varserve_service.core.arrays.shapes import least_bytes
from varserve_service.core.ports.loaded_model import Operation, Value, Variable

from .changes import Change, bytes_to_own, swaps, to_swap
from .writes import Write, check_shape, static_shape, uninitialized, with_unique_rows

_UNKNOWN = -1  # no revision


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes that writes take, as far as shapes are known beforehand.

    `taken`: beside the writes' own values, until all is worked out; without what `own` copies.
    `replaced`: copies of what is replaced in place, which the history keeps. `brought`: what comes
    to the host from a device.
    """

    taken: int
    replaced: int
    brought: int

    @property
    def nbytes(self) -> int:
        """All of them."""
        return self.taken + self.replaced + self.brought


class ByParts(Protocol):
    """What a large variable that is written in place held at one moment, read part by part."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def parts(self) -> Iterator[tuple[int, Value]]:
        """The number of the first row of each part, and the part, in order. Needs no lock."""
        ...

    @property
    def later(self) -> Sequence[Region] | None:
        """The regions that were written since; None: the whole was. The lock is held."""
        ...


ReadByParts = Callable[[Variable], ByParts]
"""Gives what a variable holds now. The lock is held, and the variable initialized."""


class VariablePlan:
    """The writes to one variable, in their order, on their way to one change."""

    reads_first = True
    """The change depends on what the variable holds, and not on the writes alone."""

    _base_revision: int  # from `capture` on

    def __init__(self, variable: Variable, writes: Sequence[Write]) -> None:
        self.variable = variable
        self._writes = writes
        self._operands: list[Value] = []
        self._base: Value | None = None
        self._change: Change | None = None

    @property
    def cost(self) -> Cost:
        """What the writes take."""
        return Cost(self._taken_bytes(), self._replaced_bytes(), self._brought_bytes())

    @property
    def own_bytes(self) -> int:
        """Bytes that `own` copies, after `work_out`."""
        return bytes_to_own(self.change)

    @property
    def value_bytes(self) -> int:
        """Bytes of the writes' own values."""
        return sum(write.value.nbytes for write in self._writes)

    def stage(self) -> None:
        """Bring the values to the variable's device, the first time. Raises OutOfMemory."""
        if not self._operands:
            self._writes = [with_unique_rows(write) for write in self._writes]
            self._operands = [self.variable.stage(write.take()) for write in self._writes]

    def capture(self, revision: int) -> None:
        """Take what `work_out` needs; `revision` is of the variable's last write. The lock is held.

        Raises RequestError VARIABLE_UNINITIALIZED, SHAPE_MISMATCH, REGION_INVALID.
        """
        if not self.variable.is_initialized():
            raise uninitialized(self.variable)
        self._base_revision = revision
        self._base = self._read()

    def work_out(self) -> Change:
        """The change. It is valid until another commit writes the variable after `capture`.

        Needs no lock. Raises RequestError SHAPE_MISMATCH, REGION_INVALID, OUT_OF_MEMORY.
        """
        if self._change is None or self.reads_first:
            self._change = self._worked_out()
        self._base = None
        return self._change

    def own(self) -> Change:
        """The change, with memory of its own if it is swapped in. Raises OutOfMemory."""
        self._change = to_swap(self.change)
        return self._change

    def current_change(self, revision: int) -> Change:
        """The change, worked out again if another commit wrote the variable since `capture`.

        The lock is held exclusively. Raises as `capture` and `work_out` do.
        """
        if self.reads_first and revision != self._base_revision:
            self.capture(revision)
            self.work_out()
            return self.own()
        return self.change

    def forget(self) -> None:
        """What was captured may be of a commit that was undone: it is captured anew."""
        self._base_revision = _UNKNOWN

    @property
    def change(self) -> Change:
        """What was worked out."""
        assert self._change is not None
        return self._change

    # Each way has its own.

    def _taken_bytes(self) -> int:
        return 0

    def _brought_bytes(self) -> int:
        return 0

    def _read(self) -> Value | None:
        return self.variable.read()

    def _worked_out(self) -> Change:
        raise NotImplementedError

    # They share the rest.

    def _replaced_bytes(self) -> int:
        if not self.variable.writes_in_place:
            return 0
        if all(write.region is not None for write in self._writes):
            return self._rows_bytes()
        whole = self._whole_bytes()
        return 0 if swaps(self.variable, whole) else whole

    def _rows_bytes(self) -> int:
        """Bytes of the rows that the regions touch."""
        shape = self._shape()
        if not shape:
            return self._whole_bytes()
        regions = [write.region for write in self._writes if write.region is not None]
        if len(regions) == 1:
            count = region_shape(regions[0], shape, variable=self.variable.spec.name)[0]
        else:
            count = touched_rows(regions, shape[0]).size
        return least_bytes(self.variable.spec.dtype, (count, *shape[1:]))

    def _shape(self) -> tuple[int, ...] | None:
        """The variable's shape: for one of any size that of its present value, if it has one."""
        shape = static_shape(self.variable)
        if shape is None and self.variable.is_initialized():
            return self.variable.shape()
        return shape

    def _whole_bytes(self) -> int:
        shape = self._shape()
        return 0 if shape is None else least_bytes(self.variable.spec.dtype, shape)

    def _check_shapes(self) -> None:
        """What the spec does not tell, the shape of the present value does."""
        if static_shape(self.variable) is None:
            present = self.variable.shape()
            for write in self._writes:
                check_shape(self.variable, write, present)

    def _written(self, write: Write, operand: Value, present: Callable[[Region], Value]) -> Value:
        """What a write of a region leaves there; `present` gives what is there before it."""
        if write.operation is Operation.SET:
            return operand
        assert write.region is not None
        return self.variable.combine(write.operation, present(write.region), operand)

    def _write_into(self, canvas: Canvas, write: Write, operand: Value) -> None:
        def present(region: Region) -> Value:
            return self.variable.stage(aligned_copy(canvas.read(region)))

        canvas.write(write.region, self._written(write, operand, present).numpy())
