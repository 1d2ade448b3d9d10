"""What a variable was at an earlier revision, and what brings it back.

A value is taken back from what came later: from the whole value that the next whole write replaced,
or the present one, with what each region write in between replaced laid over it, newest first.
Capturing it takes references under the model's lock; working it out needs no lock. Knows the ports.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .changes import Change, uninitialized
from .commits import Changed
from .ports import Value, Variable
from .regions import Region, Rows, index_of


@dataclass(frozen=True, slots=True, eq=False)
class Past:
    """A variable as it was: `base` with the previous values of `laid` over it, in this order."""

    variable: Variable
    base: Value
    laid: tuple[Changed, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the value."""
        return self.base.shape

    @property
    def copied_bytes(self) -> int:
        """Bytes that working the value out takes, beside what is kept anyway."""
        return self.base.nbytes if self.laid else 0

    def value(self, region: Region | None = None) -> Value:
        """The value, or a region that fits it. Raises OutOfMemory."""
        whole = self._whole()
        return whole if region is None else self.variable.part(whole, region)

    def _whole(self) -> Value:
        if not self.laid:
            return self.base
        # Laid one by one, each would cost a copy of the whole.
        whole = self.base.numpy().copy()
        for changed in self.laid:
            assert changed.region is not None
            assert changed.previous is not None
            whole[index_of(changed.region)] = changed.previous.numpy()
        return self.variable.stage(whole)


def capture(variable: Variable, later: Sequence[Changed]) -> Past:
    """The variable as it was before the changes `later`, which are all since then, oldest first.

    The lock is held, shared or not. Raises StateError VARIABLE_UNINITIALIZED.
    """
    for index, changed in enumerate(later):
        if changed.region is None:
            if changed.previous is None:
                raise uninitialized(variable)
            return Past(variable, changed.previous, tuple(reversed(later[:index])))
    if not variable.is_initialized():
        raise uninitialized(variable)
    return Past(variable, variable.read(), tuple(reversed(later)))


@dataclass(frozen=True, slots=True, eq=False)
class Reversal:
    """What takes changes back, before it is worked out: regions of a variable, or all of it."""

    variable: Variable
    regions: tuple[Changed, ...] = ()
    past: Past | None = None

    @property
    def copied_bytes(self) -> int:
        """Bytes that working the change out takes, beside what is kept anyway."""
        if self.past is not None:
            return self.past.copied_bytes
        return sum(changed.previous.nbytes for changed in self.regions if changed.previous)

    def change(self) -> Change:
        """The change to make. Needs no lock. Raises OutOfMemory."""
        if self.past is not None:
            return Change(self.variable, None, self.past.value())
        if len(self.regions) == 1:
            return restored(self.variable, self.regions[0])
        return _merged(self.variable, self.regions)


def reversal(variable: Variable, later: Sequence[Changed]) -> Reversal:
    """What takes back the changes `later`, all since then and oldest first; at least one.

    A variable that is written in place gets back the regions alone, where they are one region or
    lists of rows: the whole may be many times larger. The lock is held, shared or not. Raises
    StateError VARIABLE_UNINITIALIZED.
    """
    one_region = len(later) == 1 and later[0].region is not None
    if variable.writes_in_place and (one_region or all(isinstance(c.region, Rows) for c in later)):
        return Reversal(variable, regions=tuple(later))
    return Reversal(variable, past=capture(variable, later))


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
