"""What a variable was at an earlier revision, and the change that brings it back.

An earlier value is worked out backwards: from the whole value that the next whole write replaced,
or from the present one, with what each region write in between replaced laid over it, newest first.
Taking the value that this begins with needs the model's lock; working it out needs none. Knows the
ports.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from varserve_service.core.arrays.buffers import aligned_copy
from varserve_service.core.arrays.patches import Array, Canvas, Part, fold
from varserve_service.core.arrays.regions import (
    Region,
    Rows,
    Slice,
    Slices,
    overlap,
    region_shape,
    touched_rows,
)
from varserve_service.core.arrays.shapes import least_bytes
from varserve_service.core.ports.commits import Changed
from varserve_service.core.ports.loaded_model import Value, Variable

from .changes import Change, to_swap
from .writes import uninitialized


class Past:
    """A variable, or a region of it, as it was before later changes.

    A region is worked out from the rows that it touches alone.
    """

    def __init__(
        self, variable: Variable, later: Sequence[Changed], region: Region | None = None
    ) -> None:
        """`later`: all changes since then, oldest first. The lock is held, shared or exclusively.

        Raises RequestError VARIABLE_UNINITIALIZED, REGION_INVALID.
        """
        self.variable = variable
        self._region = region
        first = next((at for at, changed in enumerate(later) if changed.region is None), None)
        self._base = None if first is None else later[first].previous
        if self._base is None and (first is not None or not variable.is_initialized()):
            raise uninitialized(variable)
        # Not a copy: one call may ask for many parts of one variable.
        self._region_writes = later if first is None else later[:first]
        whole = variable.shape() if self._base is None else self._base.shape
        self._count = whole[0] if whole else 0
        self.shape = whole
        """Shape of the value."""
        self._rows: Array | None = None
        if region is not None:
            self.shape = region_shape(region, whole, variable=variable.spec.name)
            if whole:
                self._rows = touched_rows([region], self._count)
        self._base_is_rows = False
        worked_on = whole if self._rows is None else (self._rows.size, *whole[1:])
        self._nbytes = least_bytes(variable.spec.dtype, worked_on)

    @property
    def taken_bytes(self) -> int:
        """Bytes that `take` copies."""
        return self._nbytes if self._base is None and self.variable.writes_in_place else 0

    @property
    def copied_bytes(self) -> int:
        """Bytes that working the value out takes, beside what is kept anyway."""
        return self._nbytes if self._region_writes else 0

    def take(self) -> None:
        """Take the present value, where the earlier one begins with it. The lock is held."""
        if self._base is None:
            rows = self._rows if self.variable.writes_in_place else None
            self._base_is_rows = rows is not None
            self._base = self.variable.read(None if rows is None else Rows(rows))

    def value(self) -> Value:
        """The earlier value, after `take`. Needs no lock. Raises OutOfMemory."""
        base, region = self._base, self._region
        assert base is not None
        if region is None or self._rows is None:
            whole = self._restored(base, None)
            return whole if region is None else self.variable.part(whole, region)
        if not self._base_is_rows:
            if not self._region_writes:
                return self.variable.part(base, region)
            base = self.variable.part(base, Rows(self._rows))
        rows = self._restored(base, self._rows)
        if isinstance(region, Rows):
            (places,), _ = overlap(region, self._rows, self._count)
            return self.variable.part(rows, Rows(places))
        inner = region.dimensions[1:]
        return self.variable.part(rows, Slices((Slice(), *inner))) if inner else rows

    def _restored(self, base: Value, rows: Array | None) -> Value:
        return with_replaced(self.variable, base, rows, self._count, self._region_writes)


def with_replaced(
    variable: Variable,
    base: Value,
    rows: Array | None,
    count: int,
    changes: Sequence[Changed],
) -> Value:
    """What changes of regions, oldest first, replaced, laid over what came after them.

    `base` is the whole, or those `rows` of it, of a value with `count` rows. Needs no lock. Raises
    OutOfMemory.
    """
    if not changes:
        return base
    # On the host: laid one by one on a device, each would cost a copy of the whole.
    canvas = Canvas(aligned_copy(base.numpy()), rows, count)
    for changed in reversed(changes):
        assert changed.previous is not None
        canvas.write(changed.region, changed.previous.numpy())
    return variable.stage(canvas.array)


@dataclass(frozen=True, slots=True, eq=False)
class Reversal:
    """What takes later changes of a variable back, before it is worked out.

    Either `past`, of `region` or the whole, or `replaced`: what regions held before the changes.
    """

    variable: Variable
    replaced: tuple[Changed, ...] = ()
    past: Past | None = None
    region: Region | None = None

    @property
    def copied_bytes(self) -> int:
        """Bytes that taking and working the change out take, beside what is kept anyway."""
        if self.past is not None:
            return self.past.taken_bytes + self.past.copied_bytes
        return sum(changed.previous.nbytes for changed in self.replaced if changed.previous)

    def take(self) -> None:
        """Take what the change begins with. The lock is held. Raises OutOfMemory."""
        if self.past is not None:
            self.past.take()

    def change(self) -> Change:
        """The change to make. Needs no lock. Raises OutOfMemory."""
        if self.past is not None:
            return to_swap(Change(self.variable, self.region, self.past.value()))
        if len(self.replaced) == 1:
            return restored(self.variable, self.replaced[0])
        # The oldest change of a row replaced what is to come back: it is laid last.
        rows, values = fold([_Replaced(changed) for changed in reversed(self.replaced)], None)
        assert isinstance(rows, Rows)
        return Change(self.variable, rows, self.variable.stage(np.ascontiguousarray(values)))


def reversal(variable: Variable, later: Sequence[Changed]) -> Reversal:
    """What takes back the changes `later`, all since then and oldest first; at least one.

    A variable that is written in place gets back only what was written: the whole may be many
    times larger. The lock is held. Raises RequestError VARIABLE_UNINITIALIZED.
    """
    regions = [changed.region for changed in later if changed.region is not None]
    if not variable.writes_in_place or len(regions) < len(later):
        return Reversal(variable, past=Past(variable, later))
    if len(later) == 1 or all(isinstance(region, Rows) for region in regions):
        return Reversal(variable, replaced=tuple(later))
    shape = variable.shape()
    touched = Rows(touched_rows(regions, shape[0])) if shape else None
    return Reversal(variable, past=Past(variable, later, touched), region=touched)


def restored(variable: Variable, changed: Changed) -> Change:
    """The change that takes back one that had a value before it, and is the variable's last.

    The lock is held. Raises OutOfMemory.
    """
    assert changed.previous is not None
    if changed.region is None or variable.writes_in_place:
        return Change(variable, changed.region, changed.previous)
    present, region = variable.read(), changed.region
    whole = variable.overlay(present, changed.previous, region)
    return Change(variable, region, changed.previous, whole, variable.part(present, region))


class _Replaced:
    """What a change replaced, as a patch."""

    def __init__(self, changed: Changed) -> None:
        assert changed.previous is not None
        self.part: Part = changed.region
        self.value = changed.previous.numpy()
