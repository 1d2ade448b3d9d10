"""How writes become changes: decided once for each variable, then carried out in steps.

A plan says what it will take (`cost`), brings its values to the device (`stage`), takes references
to what the variables hold (`capture`, under the lock), and works out what they will hold (no lock).
Which way a variable's writes go depends on three things: one write or several, a region or the
whole, and whether a region of the variable is written in place.

    writes of the variable            | reads first     | works out
    ----------------------------------+-----------------+------------------------------------------
    SETs of the whole                 | nothing         | nothing               Replace
    ADD, SUB of the whole             | the whole       | the sum               Combine
    one region, in place              | it, unless SET  | the sum, unless SET   Combine
    one region, elsewhere             | the whole       | a new whole           Overlay
    several regions, in place         | rows they touch | these rows            TouchedRows
    any others                        | the whole       | a new whole           OneByOne

Knows the ports and numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from varserve_service.core.arrays.buffers import aligned_copy
from varserve_service.core.arrays.patches import Array, Canvas
from varserve_service.core.arrays.regions import Region, Rows, region_shape, touched_rows
from varserve_service.core.arrays.shapes import least_bytes
from varserve_service.core.ports.loaded_model import Operation, Value, Variable

from .changes import Change, bytes_to_own, swaps, to_swap
from .writes import Write, check_shape, static_shape, uninitialized, with_unique_rows

FEW = 4
"""So many writes of one variable are laid over the whole where it lives; more, on the host."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes that writes take, as far as shapes are known beforehand.

    `taken`: beside the writes' own values, until all is worked out; without what `own` copies.
    `replaced`: copies of what is replaced in place, which the history keeps. `brought`: what comes
    to the host from a device.
    """

    taken: int = 0
    replaced: int = 0
    brought: int = 0


class Plan:
    """Writes that become one commit: one `VariablePlan` for each variable."""

    def __init__(self, writes: Iterable[tuple[Write, Variable]]) -> None:
        """All writes have been checked against their variables' specs."""
        groups: dict[str, tuple[Variable, list[Write]]] = {}
        for write, variable in writes:
            groups.setdefault(variable.spec.path, (variable, []))[1].append(write)
        self.parts = [_plan_of(variable, group) for variable, group in groups.values()]

    @property
    def variables(self) -> list[Variable]:
        """The variables that are written."""
        return [part.variable for part in self.parts]

    @property
    def reads_first(self) -> bool:
        """`capture` must come before `work_out`."""
        return any(part.reads_first for part in self.parts)

    def stage(self) -> None:
        """Bring all values to their variables' devices, the first time. Raises OutOfMemory."""
        for part in self.parts:
            part.stage()

    def capture(self, revision_of: Callable[[str], int]) -> None:
        """Take what working out needs. The lock is held. Raises as `VariablePlan.capture` does."""
        for part in self.parts:
            if part.reads_first:
                part.capture(revision_of(part.variable.spec.path))

    def work_out(self) -> None:
        """Work all changes out. Raises as `VariablePlan.work_out` does."""
        for part in self.parts:
            part.work_out()

    def own(self) -> None:
        """Give values that are swapped in memory of their own. Raises OutOfMemory."""
        for part in self.parts:
            part.own()

    def current_changes(self, revision_of: Callable[[str], int]) -> list[Change]:
        """The changes to be made now: those that were overtaken are worked out again.

        The lock is held exclusively. Raises as `capture` and `work_out` do.
        """
        return [part.current_change(revision_of(part.variable.spec.path)) for part in self.parts]

    @property
    def changes(self) -> list[Change]:
        """What was worked out."""
        return [part.change for part in self.parts]

    @property
    def values(self) -> Mapping[str, Value]:
        """What was worked out, by path of the variable."""
        return {change.variable.spec.path: change.value for change in self.changes}


class VariablePlan:
    """The writes to one variable, in their order, on their way to one change."""

    reads_first = True
    """The change depends on what the variable holds, and not on the writes alone."""

    def __init__(self, variable: Variable, writes: Sequence[Write]) -> None:
        self.variable = variable
        self._writes = writes
        self._operands: list[Value] = []
        self._base: Value | None = None
        self._base_revision = 0
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
        return 0 if self._owned_bytes() else self._whole_bytes()

    def _owned_bytes(self) -> int:
        """Bytes of the copy of a whole that is swapped in."""
        if not self.variable.writes_in_place:
            return 0
        if all(write.region is not None for write in self._writes):
            return 0
        whole = self._whole_bytes()
        return whole if swaps(self.variable, whole) else 0

    def _rows_bytes(self) -> int:
        """Bytes of the rows that the regions touch."""
        shape = static_shape(self.variable)
        if not shape:
            return self._whole_bytes()
        regions = [write.region for write in self._writes if write.region is not None]
        if len(regions) == 1:
            count = region_shape(regions[0], shape, variable=self.variable.spec.name)[0]
        else:
            count = touched_rows(regions, shape[0]).size
        return least_bytes(self.variable.spec.dtype, (count, *shape[1:]))

    def _whole_bytes(self) -> int:
        shape = static_shape(self.variable)
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


class Replace(VariablePlan):
    """SETs of the whole: the last one counts."""

    reads_first = False

    def _worked_out(self) -> Change:
        return Change(self.variable, None, self._operands[-1])


class Combine(VariablePlan):
    """One write of what is written as it is: the whole, or a region in place."""

    def _taken_bytes(self) -> int:
        if not self._is_sum:
            return 0
        # The sum, and a copy of what is there where that is written over.
        return (2 if self.variable.writes_in_place else 1) * self.value_bytes

    def _read(self) -> Value | None:
        self._check_shapes()
        return self.variable.read(self._writes[0].region) if self._is_sum else None

    def _worked_out(self) -> Change:
        (write,), (value,) = self._writes, self._operands
        if self._base is not None:
            value = self.variable.combine(write.operation, self._base, value)
        return Change(self.variable, write.region, value)

    @property
    def _is_sum(self) -> bool:
        return self._writes[0].operation is not Operation.SET


class Overlay(VariablePlan):
    """One region of a variable that is written as a whole."""

    def _taken_bytes(self) -> int:
        # What is replaced, the sum where it is one, and the new whole.
        copies = 1 if self._writes[0].operation is Operation.SET else 2
        return copies * self.value_bytes + self._whole_bytes()

    def _read(self) -> Value | None:
        self._check_shapes()
        return self.variable.read()

    def _worked_out(self) -> Change:
        (write,), (value,), base = self._writes, self._operands, self._base
        assert base is not None
        assert write.region is not None
        replaced = self.variable.part(base, write.region)
        value = self._written(write, value, lambda _: replaced)
        whole = self.variable.overlay(base, value, write.region)
        return Change(self.variable, write.region, value, whole, replaced)


class TouchedRows(VariablePlan):
    """Several regions in place: the whole may be a thousand times the rows that they touch."""

    _rows: Array | None = None
    _count = 0

    def _taken_bytes(self) -> int:
        return 2 * self._rows_bytes()

    def _brought_bytes(self) -> int:
        return self._rows_bytes()

    def _read(self) -> Value | None:
        self._check_shapes()
        shape = self.variable.shape()
        if not shape:  # A scalar has no rows.
            return self.variable.read()
        regions = [write.region for write in self._writes if write.region is not None]
        self._rows, self._count = touched_rows(regions, shape[0]), shape[0]
        return self.variable.read(Rows(self._rows))

    def _worked_out(self) -> Change:
        assert self._base is not None
        canvas = Canvas(aligned_copy(self._base.numpy()), self._rows, self._count)
        for write, operand in zip(self._writes, self._operands, strict=True):
            self._write_into(canvas, write, operand)
        region = None if self._rows is None else Rows(self._rows)
        return Change(self.variable, region, self.variable.stage(canvas.array))


class OneByOne(VariablePlan):
    """Any writes, one after the other. Each sees, as a whole, what those before it left."""

    def __init__(self, variable: Variable, writes: Sequence[Write]) -> None:
        super().__init__(variable, writes)
        self.reads_first = not _sets_whole(writes[0])

    def _taken_bytes(self) -> int:
        return self._whole_bytes() * (2 if self.variable.writes_in_place else 1)

    def _brought_bytes(self) -> int:
        many = len(self._writes) > FEW and any(w.region is not None for w in self._writes)
        return self._whole_bytes() if many else 0

    def _worked_out(self) -> Change:
        whole = self._base
        canvas: Canvas | None = None  # the whole, on the host, once regions are written into it
        for write, operand in zip(self._writes, self._operands, strict=True):
            if _sets_whole(write):
                whole, canvas = operand, None
                continue
            assert whole is not None
            check_shape(self.variable, write, whole.shape)
            if write.region is None:
                present = whole if canvas is None else self.variable.stage(canvas.array)
                whole = self.variable.combine(write.operation, present, operand)
                canvas = None
            elif len(self._writes) <= FEW:
                value = self._written(write, operand, partial(self.variable.part, whole))
                whole = self.variable.overlay(whole, value, write.region)
            else:
                # A copy of the whole for each would keep a thread for minutes, deadline or not.
                canvas = canvas or Canvas(aligned_copy(whole.numpy()))
                self._write_into(canvas, write, operand)
        assert whole is not None
        result = whole if canvas is None else self.variable.stage(canvas.array)
        return Change(self.variable, None, result)


def _plan_of(variable: Variable, writes: Sequence[Write]) -> VariablePlan:
    """The way that these writes go; see the table above."""
    if all(_sets_whole(write) for write in writes):
        return Replace(variable, writes)
    if len(writes) == 1:
        in_place = writes[0].region is None or variable.writes_in_place
        return (Combine if in_place else Overlay)(variable, writes)
    if variable.writes_in_place and all(write.region is not None for write in writes):
        return TouchedRows(variable, writes)
    return OneByOne(variable, writes)


def _sets_whole(write: Write) -> bool:
    return write.operation is Operation.SET and write.region is None
