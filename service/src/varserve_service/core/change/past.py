"""What a variable was at an earlier revision, and what brings it back.

A value is taken back from what came later: from the whole value that the next whole write replaced,
or the present one, with what each region write in between replaced laid over it, newest first.
Taking it takes references under the model's lock, or copies of what is written in place; working it
out needs no lock. Knows the ports.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from varserve_service.core.arrays.buffers import aligned_copy
from varserve_service.core.arrays.regions import (
    Region,
    Rows,
    Slice,
    Slices,
    index_of,
    overlap,
    region_shape,
    touched_rows,
)
from varserve_service.core.arrays.shapes import least_bytes
from varserve_service.core.ports.commits import Changed
from varserve_service.core.ports.loaded_model import Value, Variable

from .changes import Change
from .writes import uninitialized

Array: TypeAlias = np.ndarray[Any, Any]


class Past:
    """A variable, or a region of it, as it was before later changes.

    A region is worked out from the rows that it touches alone.
    """

    def __init__(
        self, variable: Variable, later: Sequence[Changed], region: Region | None = None
    ) -> None:
        """`later`: all changes since then, oldest first. The lock is held, shared or not.

        Raises RequestError VARIABLE_UNINITIALIZED, REGION_INVALID.
        """
        self.variable = variable
        self._region = region
        first = next((at for at, changed in enumerate(later) if changed.region is None), None)
        self._base = None if first is None else later[first].previous
        if self._base is None and (first is not None or not variable.is_initialized()):
            raise uninitialized(variable)
        # To be laid over the base, the newest first. Not a copy: one call may ask for many parts.
        self._laid = later if first is None else later[:first]
        whole = variable.shape() if self._base is None else self._base.shape
        self._count = whole[0] if whole else 0
        self.shape = whole
        """Shape of the value."""
        self._rows: Array | None = None
        if region is not None:
            self.shape = region_shape(region, whole, variable=variable.spec.name)
            if whole:
                self._rows = touched_rows([region], self._count)
        self._of_rows = False  # so is the base
        spec, rows = variable.spec, self._rows
        laid_on = whole if rows is None else (rows.size, *whole[1:])
        self._nbytes = least_bytes(spec.dtype, laid_on)

    @property
    def taken_bytes(self) -> int:
        """Bytes that `take` copies."""
        return self._nbytes if self._base is None and self.variable.writes_in_place else 0

    @property
    def copied_bytes(self) -> int:
        """Bytes that working the value out takes, beside what is kept anyway."""
        return self._nbytes if self._laid else 0

    def take(self) -> None:
        """Take what there is now, where the value is taken back from that. The lock is held."""
        if self._base is None:
            self._of_rows = self._rows is not None and self.variable.writes_in_place
            rows = Rows(self._rows) if self._of_rows and self._rows is not None else None
            self._base = self.variable.read(rows)

    def value(self) -> Value:
        """The value, once it has been taken. Needs no lock. Raises OutOfMemory."""
        base, region = self._base, self._region
        assert base is not None
        if region is None or self._rows is None:
            whole = self._laid_over(base, None)
            return whole if region is None else self.variable.part(whole, region)
        if not self._of_rows:
            if not self._laid:
                return self.variable.part(base, region)
            base = self.variable.part(base, Rows(self._rows))
        rows = self._laid_over(base, self._rows)
        if isinstance(region, Rows):
            (places,), _ = overlap(region, self._rows, self._count)
            return self.variable.part(rows, Rows(places))
        inner = region.dimensions[1:]
        return self.variable.part(rows, Slices((Slice(), *inner))) if inner else rows

    def _laid_over(self, base: Value, rows: Array | None) -> Value:
        """`base` is the whole, or those rows of it."""
        if not self._laid:
            return base
        # Laid one by one, each would cost a copy of the whole.
        values = aligned_copy(base.numpy())
        for changed in reversed(self._laid):
            assert changed.region is not None
            assert changed.previous is not None
            previous = changed.previous.numpy()
            if rows is None:
                values[index_of(changed.region)] = previous
            else:
                place, found = overlap(changed.region, rows, self._count)
                values[place] = previous[found]
        return self.variable.stage(values)


@dataclass(frozen=True, slots=True, eq=False)
class Reversal:
    """What takes changes back, before it is worked out: regions of a variable, or all of it.

    `region` is what `past` is of.
    """

    variable: Variable
    regions: tuple[Changed, ...] = ()
    past: Past | None = None
    region: Region | None = None

    @property
    def copied_bytes(self) -> int:
        """Bytes that taking and working the change out take, beside what is kept anyway."""
        if self.past is not None:
            return self.past.taken_bytes + self.past.copied_bytes
        return sum(changed.previous.nbytes for changed in self.regions if changed.previous)

    def take(self) -> None:
        """Take what there is now. The lock is held, shared or not. Raises OutOfMemory."""
        if self.past is not None:
            self.past.take()

    def change(self) -> Change:
        """The change to make. Needs no lock. Raises OutOfMemory."""
        if self.past is not None:
            return Change(self.variable, self.region, self.past.value())
        if len(self.regions) == 1:
            return restored(self.variable, self.regions[0])
        return _merged(self.variable, self.regions)


def reversal(variable: Variable, later: Sequence[Changed]) -> Reversal:
    """What takes back the changes `later`, all since then and oldest first; at least one.

    A variable that is written in place gets back what was written alone: the whole may be many
    times larger. The lock is held, shared or not. Raises RequestError VARIABLE_UNINITIALIZED.
    """
    regions = [changed.region for changed in later if changed.region is not None]
    if not variable.writes_in_place or len(regions) < len(later):
        return Reversal(variable, past=Past(variable, later))
    if len(later) == 1 or all(isinstance(region, Rows) for region in regions):
        return Reversal(variable, regions=tuple(later))
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


def _merged(variable: Variable, later: Sequence[Changed]) -> Change:
    """What the first change of each row replaced, of all rows together."""
    indices = np.concatenate([c.region.indices for c in later if isinstance(c.region, Rows)])
    values = np.concatenate([c.previous.numpy() for c in later if c.previous is not None])
    rows, first = np.unique(indices, return_index=True)
    return Change(variable, Rows(rows), variable.stage(np.ascontiguousarray(values[first])))
