"""What a commit does to one variable: checked, staged, and worked out before it is done.

Owns the rule that every write, whatever its operation, becomes a *change*: the value that a
variable, or a region of it, will have. A change is what is applied, undone and, with a journal,
made durable. Knows the ports and numpy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from .buffers import aligned_copy
from .errors import Reason, StateError
from .overloads import dtype_name, fits, least_bytes, shape_text
from .ports import Operation, Value, Variable
from .regions import Region, Rows, index_of, overlap, region_shape, touched_rows

Array: TypeAlias = np.ndarray[Any, Any]

_NOT_ADDABLE = ("bool", "string")
_FEW = 4
"""Writes of one variable in one commit that are each laid over the whole where that lives."""


@dataclass(frozen=True, slots=True, eq=False)
class Write:
    """One write as the caller asked for it.

    `variable` is a name or path. `value` is taken over: it may become the variable's memory.
    `if_revision_match`: only if the variable's last write was at this revision.
    """

    variable: str
    operation: Operation
    value: np.ndarray[Any, Any]
    region: Region | None = None
    if_revision_match: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class StagedWrite:
    """A write that was checked against the variable's spec and whose value is on its device."""

    variable: Variable
    operation: Operation
    region: Region | None
    operand: Value
    if_revision_match: int | None


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


def check(write: Write, variable: Variable) -> None:
    """Check what the variable's spec alone can tell.

    Raises StateError: DTYPE_MISMATCH, OPERATION_UNSUPPORTED, SHAPE_MISMATCH, REGION_INVALID.
    """
    spec = variable.spec
    if dtype_name(write.value) != spec.dtype:
        raise StateError(
            Reason.DTYPE_MISMATCH,
            f"variable {spec.name!r}: expected dtype {spec.dtype}, found {dtype_name(write.value)}",
            variable=spec.name,
        )
    if write.operation is not Operation.SET and spec.dtype in _NOT_ADDABLE:
        raise StateError(
            Reason.OPERATION_UNSUPPORTED,
            f"variable {spec.name!r} of dtype {spec.dtype} can only be SET, "
            f"found {write.operation.name}",
            variable=spec.name,
        )
    if write.operation is Operation.SET and isinstance(write.region, Rows):
        indices = write.region.indices
        if len(np.unique(indices)) != indices.size:
            raise StateError(
                Reason.REGION_INVALID,
                f"variable {spec.name!r}: expected each row once in a SET, found one twice",
                variable=spec.name,
            )
    static = static_shape(variable)
    if static is not None:
        check_shape(variable, write.operation, write.region, write.value.shape, static)
    elif write.region is None and not fits(write.value.shape, spec.shape):
        raise _shape_mismatch(variable, shape_text(spec.shape), write.value.shape)


def check_shape(
    variable: Variable,
    operation: Operation,
    region: Region | None,
    found: tuple[int, ...],
    present: tuple[int, ...],
) -> None:
    """Check the shape of an operand against the shape that the variable has.

    Raises StateError SHAPE_MISMATCH, REGION_INVALID.
    """
    spec = variable.spec
    if region is not None:
        expected = region_shape(region, present, variable=spec.name)
        if found != expected:
            raise _shape_mismatch(variable, f"{list(expected)} for this region", found)
    elif operation is Operation.SET:
        if not fits(found, spec.shape):
            raise _shape_mismatch(variable, shape_text(spec.shape), found)
    elif found != present:
        raise _shape_mismatch(variable, str(list(present)), found)


def _shape_mismatch(variable: Variable, expected: str, found: tuple[int, ...]) -> StateError:
    return StateError(
        Reason.SHAPE_MISMATCH,
        f"variable {variable.spec.name!r}: expected shape {expected}, found {list(found)}",
        variable=variable.spec.name,
    )


def static_shape(variable: Variable) -> tuple[int, ...] | None:
    """The shape that a variable has whatever its value; None for one of any size."""
    shape = variable.spec.shape
    if shape is None:
        return None
    sizes = tuple(size for size in shape if size is not None)
    return sizes if len(sizes) == len(shape) else None


def taken_bytes(found: Sequence[tuple[Write, Variable]], *, staged: bool) -> int:
    """Bytes that writes take, beside their own values, until they are worked out.

    `staged`: their values are copied to a device. As far as shapes are known beforehand: a whole of
    any shape counts for nothing.
    """
    nbytes = sum(write.value.nbytes for write, _ in found) if staged else 0
    return nbytes + sum(_worked_out_bytes(*each) for each in _by_variable(found))


def _worked_out_bytes(variable: Variable, writes: Sequence[Write]) -> int:
    if all(write.region is None and write.operation is Operation.SET for write in writes):
        return 0
    in_place = variable.writes_in_place
    if len(writes) > 1:
        if in_place and all(write.region is not None for write in writes):
            return 2 * _rows_bytes(variable, writes)
        return _whole_bytes(variable) * (2 if in_place else 1)
    (write,) = writes
    # What is there is a copy, but for a whole that is not written in place; and so is a sum.
    copies = 2 if in_place or write.region is not None else 1
    if write.operation is Operation.SET:
        copies = 0 if in_place else 1
    overlaid = _whole_bytes(variable) if write.region is not None and not in_place else 0
    return copies * write.value.nbytes + overlaid


def brought_bytes(found: Sequence[tuple[Write, Variable]]) -> int:
    """Bytes that come to the host from a device, where several writes are worked out there.

    As far as shapes are known beforehand.
    """
    total = 0
    for variable, writes in _by_variable(found):
        in_rows = variable.writes_in_place and all(write.region is not None for write in writes)
        if in_rows and len(writes) > 1:
            total += _rows_bytes(variable, writes)
        elif len(writes) > _FEW and any(write.region is not None for write in writes):
            total += _whole_bytes(variable)
    return total


def replaced_bytes(found: Sequence[tuple[Write, Variable]]) -> int:
    """Bytes of what writes replace, where that is copied as they are done: in place, that is.

    Of a region the rows that it touches are. As far as shapes are known beforehand.
    """
    return sum(
        _rows_bytes(variable, writes)
        if all(write.region is not None for write in writes)
        else _whole_bytes(variable)
        for variable, writes in _by_variable(found)
        if variable.writes_in_place
    )


def preimage_bytes(change: Change) -> int:
    """Bytes of what a change replaces, where that is copied as it is done."""
    variable = change.variable
    if not variable.writes_in_place:
        return 0
    shape = variable.shape()
    if change.region is not None and shape:
        count = region_shape(change.region, shape, variable=variable.spec.name)[0]
        shape = (count, *shape[1:])  # all of the rows are gathered
    return least_bytes(variable.spec.dtype, shape)


def _by_variable(
    found: Sequence[tuple[Write, Variable]],
) -> list[tuple[Variable, list[Write]]]:
    groups: dict[str, tuple[Variable, list[Write]]] = {}
    for write, variable in found:
        groups.setdefault(variable.spec.path, (variable, []))[1].append(write)
    return list(groups.values())


def _rows_bytes(variable: Variable, writes: Sequence[Write]) -> int:
    shape = static_shape(variable)
    if not shape:
        return _whole_bytes(variable)
    regions = [write.region for write in writes if write.region is not None]
    if len(regions) == 1:
        count = region_shape(regions[0], shape, variable=variable.spec.name)[0]
    else:
        count = touched_rows(regions, shape[0]).size
    return least_bytes(variable.spec.dtype, (count, *shape[1:]))


def _whole_bytes(variable: Variable) -> int:
    shape = static_shape(variable)
    return 0 if shape is None else least_bytes(variable.spec.dtype, shape)


def stage(write: Write, variable: Variable) -> StagedWrite:
    """Bring a checked write's value to the variable's device. Raises OutOfMemory."""
    region, array = write.region, write.value
    if isinstance(region, Rows) and write.operation is not Operation.SET:
        region, array = _without_duplicates(region, array)
    return StagedWrite(
        variable, write.operation, region, variable.stage(array), write.if_revision_match
    )


def _without_duplicates(
    rows: Rows, values: np.ndarray[Any, Any]
) -> tuple[Rows, np.ndarray[Any, Any]]:
    """The same addition with each row named once: what is added to a row twice is summed up."""
    unique, inverse = np.unique(rows.indices, return_inverse=True)
    if unique.size == rows.indices.size:
        return rows, values
    summed = np.zeros((unique.size, *values.shape[1:]), dtype=values.dtype)
    np.add.at(summed, inverse, values)  # one after the other, as a loop would, but for its time
    return Rows(unique), summed


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

    Raises StateError VARIABLE_UNINITIALIZED, SHAPE_MISMATCH, REGION_INVALID.
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
    StateError VARIABLE_UNINITIALIZED, SHAPE_MISMATCH, REGION_INVALID, OUT_OF_MEMORY.
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
        elif len(writes) <= _FEW:
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


def check_initialized(variables: Iterable[Variable]) -> None:
    """Raises StateError VARIABLE_UNINITIALIZED for the first that has no value."""
    for variable in variables:
        if not variable.is_initialized():
            raise uninitialized(variable)


def uninitialized(variable: Variable) -> StateError:
    """The error for a variable that has no value yet."""
    return StateError(
        Reason.VARIABLE_UNINITIALIZED,
        f"variable {variable.spec.name!r} has no value yet; a SET of the whole gives it one",
        variable=variable.spec.name,
    )
