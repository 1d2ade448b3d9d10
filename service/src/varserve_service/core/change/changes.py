"""What a commit does to one variable, worked out before it is done.

Owns the rule that every write, whatever its operation, becomes a *change*: the value that a
variable, or a region of it, will have. A change is what is applied, undone and, with a journal,
made durable. Knows the ports and numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from varserve_service.core.arrays.buffers import aligned_copy
from varserve_service.core.arrays.regions import Region, Rows, index_of, overlap, touched_rows
from varserve_service.core.ports.loaded_model import Operation, Value, Variable

from .writes import StagedWrite, check_shape, static_shape, uninitialized

Array: TypeAlias = np.ndarray[Any, Any]

FEW = 4
"""Writes of one variable in one commit that are each laid over the whole where that lives."""


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """The value that a region of a variable, or all of it, will have.

    `whole` is the whole value with the region in it, where the variable is written as a whole, and
    `replaced` what the region held: in memory of its own, since the history keeps it.
    """

    variable: Variable
    region: Region | None
    value: Value
    whole: Value | None = None
    replaced: Value | None = None

    def previous(self, preimage: Value | None) -> Value | None:
        """What the region holds before the change; None for a variable without a value.

        `preimage`: what is there of what is `written`.
        """
        return preimage if self.whole is None else self.replaced

    @property
    def written(self) -> Region | None:
        """The region that is written when it is made; None: the whole."""
        return None if self.whole is not None else self.region


@dataclass(frozen=True, slots=True, eq=False)
class Base:
    """What a variable held when a change was worked out: references, taken under the lock.

    `part` is of the region that is written, or of those `rows` that several writes touch: `places`
    has the index of each write's region among them.
    """

    part: Value | None
    whole: Value | None
    rows: Array | None = None
    places: Sequence[Any] = ()


def needs_base(writes: Sequence[StagedWrite]) -> bool:
    """The change depends on what the variable holds, and not on the writes alone."""
    return (
        len(writes) > 1
        or writes[0].region is not None
        or (writes[0].operation is not Operation.SET)
    )


def capture(writes: Sequence[StagedWrite]) -> Base:
    """Take what `work_out` needs; all writes are to one variable. The lock is held, shared or not.

    Raises RequestError VARIABLE_UNINITIALIZED, SHAPE_MISMATCH, REGION_INVALID.
    """
    first = writes[0]
    variable = first.variable
    whole_set = first.operation is Operation.SET and first.region is None
    if not variable.is_initialized():
        if whole_set:
            return Base(None, None)
        raise uninitialized(variable)
    if len(writes) > 1:
        return _capture_many(writes)
    if not whole_set and static_shape(variable) is None:
        check_shape(variable, first.operation, first.region, first.operand.shape, variable.shape())
    if first.region is not None and not variable.writes_in_place:
        return Base(None, variable.read())
    return Base(None if first.operation is Operation.SET else variable.read(first.region), None)


def _capture_many(writes: Sequence[StagedWrite]) -> Base:
    first, variable = writes[0], writes[0].variable
    if first.operation is Operation.SET and first.region is None:
        return Base(None, None)
    shape = variable.shape()
    regions = [write.region for write in writes if write.region is not None]
    if not (variable.writes_in_place and shape and len(regions) == len(writes)):
        return Base(None, variable.read())
    for write in writes:
        check_shape(variable, write.operation, write.region, write.operand.shape, shape)
    rows = touched_rows(regions, shape[0])
    places = [overlap(region, rows, shape[0])[0] for region in regions]
    return Base(variable.read(Rows(rows)), None, rows, places)


def work_out(writes: Sequence[StagedWrite], base: Base) -> Change:
    """The change that these writes, all to one variable and in this order, amount to.

    Needs no lock. True as long as nothing has written the variable since `base` was taken. Raises
    RequestError VARIABLE_UNINITIALIZED, SHAPE_MISMATCH, REGION_INVALID, OUT_OF_MEMORY.
    """
    if base.rows is not None:
        return _work_out_rows(writes, base)
    if len(writes) > 1:
        return _work_out_many(writes, base.whole)
    (write,) = writes
    variable, value = write.variable, write.operand
    if base.whole is None or write.region is None:
        if base.part is not None:
            value = variable.combine(write.operation, base.part, value)
        return Change(variable, write.region, value)
    replaced = variable.part(base.whole, write.region)
    if write.operation is not Operation.SET:
        value = variable.combine(write.operation, replaced, value)
    overlaid = variable.overlay(base.whole, value, write.region)
    return Change(variable, write.region, value, overlaid, replaced)


def _work_out_rows(writes: Sequence[StagedWrite], base: Base) -> Change:
    """Of a variable that is written in place: the whole may be a thousand times these rows."""
    assert base.part is not None
    assert base.rows is not None
    variable, values = writes[0].variable, aligned_copy(base.part.numpy())
    for write, place in zip(writes, base.places, strict=True):
        value = write.operand
        if write.operation is not Operation.SET:
            present = variable.stage(aligned_copy(values[place]))
            value = variable.combine(write.operation, present, value)
        values[place] = value.numpy()
    return Change(variable, Rows(base.rows), variable.stage(values))


def _work_out_many(writes: Sequence[StagedWrite], whole: Value | None) -> Change:
    # Rare, so it is plain: each write sees, as a whole, what those before it left.
    variable = writes[0].variable
    own: Array | None = None  # the whole, with regions written into it
    for write in writes:
        if write.region is None and write.operation is Operation.SET:
            whole, own = write.operand, None
            continue
        if whole is None:
            raise uninitialized(variable)
        check_shape(variable, write.operation, write.region, write.operand.shape, whole.shape)
        if write.region is None:
            present = whole if own is None else variable.stage(own)
            whole, own = variable.combine(write.operation, present, write.operand), None
        elif len(writes) <= FEW:
            whole = _overlaid(write, whole)
        else:
            # A copy of the whole for each would keep a thread for minutes, deadline or not.
            own = aligned_copy(whole.numpy()) if own is None else own
            _write_into(own, write)
    if whole is None:
        raise uninitialized(variable)
    return Change(variable, None, whole if own is None else variable.stage(own))


def _overlaid(write: StagedWrite, whole: Value) -> Value:
    assert write.region is not None
    variable, value = write.variable, write.operand
    if write.operation is not Operation.SET:
        value = variable.combine(write.operation, variable.part(whole, write.region), value)
    return variable.overlay(whole, value, write.region)


def _write_into(own: Array, write: StagedWrite) -> None:
    assert write.region is not None
    variable, value, index = write.variable, write.operand, index_of(write.region)
    if write.operation is not Operation.SET:
        present = variable.stage(aligned_copy(own[index]))
        value = variable.combine(write.operation, present, value)
    own[index] = value.numpy()
