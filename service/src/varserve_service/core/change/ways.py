"""The ways in which the writes to one variable become its change.

    writes of the variable            | reads first     | works out
    ----------------------------------+-----------------+------------------------------------------
    SETs of the whole                 | nothing         | nothing               Replace
    ADD, SUB of the whole             | the whole       | the sum               Combine
      of a large one, in place        | it, by parts    | the sum               AddByParts
    one region, in place              | it, unless SET  | the sum, unless SET   Combine
    one region, elsewhere             | the whole       | a new whole           Overlay
    several regions, in place         | rows they touch | these rows            TouchedRows
    any others                        | the whole       | a new whole           OneByOne

Knows the ports and numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from varserve_service.core.arrays.buffers import aligned_copy
from varserve_service.core.arrays.patches import Array, Canvas
from varserve_service.core.arrays.regions import (
    Region,
    Rows,
    Slice,
    Slices,
    touched_rows,
)
from varserve_service.core.ports.loaded_model import Operation, Value, Variable

from .changes import Change, HeldByVariable, swaps
from .variable_plan import ByParts, ReadByParts, VariablePlan
from .writes import Write, check_shape

FEW = 4
"""So many writes of one variable are laid over the whole where it lives; more, on the host."""


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


class AddByParts(VariablePlan):
    """A whole, added to one that is large and written in place.

    What is there is neither copied as a whole nor kept from others while the sum is worked out.
    The caller's value stays until the commit, for the rows that others write meanwhile.
    """

    _base_by_parts: ByParts | None = None

    def __init__(
        self, variable: Variable, writes: Sequence[Write], read_by_parts: ReadByParts
    ) -> None:
        super().__init__(variable, writes)
        self._read_by_parts = read_by_parts

    def _taken_bytes(self) -> int:
        return self.value_bytes

    def _read(self) -> Value | None:
        self._check_shapes()
        self._base_by_parts = self._read_by_parts(self.variable)
        self._change = None
        return None

    def work_out(self) -> Change:
        if self._change is None:
            self._change = self._worked_out()
        return self._change

    def _worked_out(self) -> Change:
        base = self._base_by_parts
        assert base is not None
        array = self.variable.blank(base.shape)
        for start, part in base.parts():
            rows = Slices((Slice(start, start + part.shape[0]),))
            array[start : start + part.shape[0]] = self._sum(part, rows).numpy()
        return Change(self.variable, None, self.variable.stage(array))

    def _sum(self, present: Value, region: Region) -> Value:
        added = self.variable.part(self._operands[0], region)
        return self.variable.combine(self._writes[0].operation, present, added)

    def current_change(self, revision: int) -> Change:
        change, base = self.change, self._base_by_parts
        assert base is not None
        if revision == self._base_revision:
            return change
        later = base.later
        if later is None or change.owned is None:
            self.capture(revision)
            self.work_out()
            return self.own()
        rows = Rows(touched_rows(later, base.shape[0]))
        summed = self._sum(self.variable.read(rows), rows)
        owned = self.variable.own_with(change.owned, summed, rows)
        return Change(self.variable, None, HeldByVariable(self.variable, owned), owned=owned)


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


def plan_of(
    variable: Variable, writes: Sequence[Write], read_by_parts: ReadByParts
) -> VariablePlan:
    """The way that these writes go; see the table above."""
    if all(_sets_whole(write) for write in writes):
        return Replace(variable, writes)
    if len(writes) == 1:
        (write,) = writes
        if write.region is None and swaps(variable, write.value.nbytes):
            return AddByParts(variable, writes, read_by_parts)
        in_place = write.region is None or variable.writes_in_place
        return (Combine if in_place else Overlay)(variable, writes)
    if variable.writes_in_place and all(write.region is not None for write in writes):
        return TouchedRows(variable, writes)
    return OneByOne(variable, writes)


def _sets_whole(write: Write) -> bool:
    return write.operation is Operation.SET and write.region is None
