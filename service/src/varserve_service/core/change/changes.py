"""Changes of variables, which are made all or none.

Every write, whatever its operation, becomes a *change*: the value that a variable, or a region of
it, will have. Changes are made, undone and, with a journal, made durable. Knows the ports.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from varserve_service.core.arrays.reductions import Counted, Reduced
from varserve_service.core.arrays.regions import Region, region_shape
from varserve_service.core.arrays.shapes import least_bytes
from varserve_service.core.ports.commits import Changed
from varserve_service.core.ports.loaded_model import LoadedModel, OwnedValue, Value, Variable

_SWAPPED_BYTES = 4 * 2**20
"""Writing more than this over what is there would hold up others; less, swapping costs more."""


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """The value that a region of a variable, or all of it, will have.

    `whole` is the whole value with the region in it, where the variable is written as a whole, and
    `replaced` what the region held: in memory of its own, since the history keeps it. `owned` is a
    large whole value for a variable that is written in place, in memory without other references:
    it is swapped in, and `value` is a HeldByVariable.
    """

    variable: Variable
    region: Region | None
    value: Value
    whole: Value | None = None
    replaced: Value | None = None
    owned: OwnedValue | None = None

    @property
    def written(self) -> Region | None:
        """The region that is written when the change is made; None: the whole."""
        return None if self.whole is not None else self.region

    @property
    def replaced_bytes(self) -> int:
        """Bytes that are copied when the change is made, of what it replaces: in place, that is."""
        variable = self.variable
        if not variable.writes_in_place or self.owned is not None:
            return 0
        shape = variable.shape()
        if self.region is not None and shape:
            count = region_shape(self.region, shape, variable=variable.spec.name)[0]
            shape = (count, *shape[1:])  # all of the rows are gathered
        return least_bytes(variable.spec.dtype, shape)


class HeldByVariable:
    """Implements Value: what a variable holds after a commit, whose memory it holds alone.

    The variable writes rows of that memory in place, so that the value is read from it as of that
    moment. Before the commit it is the value that is `owned`, if there is one.
    """

    def __init__(self, variable: Variable, owned: OwnedValue | None = None) -> None:
        self.variable = variable
        """The variable."""
        self._value: Value | None = owned

    def held(self, present: Value) -> None:
        """It is the variable's now. `present` reads what that holds, whatever is written later."""
        self._value = present

    @property
    def _now(self) -> Value:
        assert self._value is not None
        return self._value

    @property
    def dtype(self) -> str:
        return self._now.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self._now.shape

    @property
    def nbytes(self) -> int:
        return self._now.nbytes

    def numpy(self) -> np.ndarray[Any, Any]:
        return self._now.numpy()

    def buffer(self, start: int, stop: int) -> memoryview:
        return self._now.buffer(start, stop)

    def reduce(self, start: int, stop: int) -> Sequence[Reduced]:
        return self._now.reduce(start, stop)

    def count(self, start: int, stop: int, edges: np.ndarray[Any, Any]) -> Counted:
        return self._now.count(start, stop, edges)


def swaps(variable: Variable, nbytes: int) -> bool:
    """Whether a whole value of so many bytes is swapped in, and not written over what is there."""
    return variable.writes_in_place and nbytes > _SWAPPED_BYTES


def bytes_to_own(change: Change) -> int:
    """Bytes that `to_swap` copies."""
    if change.owned is not None or change.written is not None:
        return 0
    variable, nbytes = change.variable, change.value.nbytes
    return nbytes if swaps(variable, nbytes) and not variable.is_alone(change.value) else 0


def to_swap(change: Change) -> Change:
    """The same change, with an owned value where it is to be swapped in. Raises OutOfMemory.

    Needs no lock.
    """
    if change.owned is not None or change.written is not None:
        return change
    variable = change.variable
    if not swaps(variable, change.value.nbytes):
        return change
    owned = variable.own(change.value)
    if variable.spec.dtype == "string":  # They cannot be read by parts: the value is kept as well.
        return replace(change, owned=owned)
    return replace(change, value=HeldByVariable(variable, owned), owned=owned)


def kept_change(variable: Variable, region: Region | None, array: np.ndarray[Any, Any]) -> Change:
    """The change to a value that a journal kept. Needs no lock. Raises OutOfMemory.

    A region of a variable that is not written in place has no `whole` yet.
    """
    if region is not None or array.dtype.hasobject or not swaps(variable, array.nbytes):
        return to_swap(Change(variable, region, variable.stage(array)))
    own = variable.blank(array.shape)
    own[...] = array
    change = Change(variable, None, variable.stage(own))
    del own  # so that the value is alone
    return to_swap(change)


class ChangeSet:
    """Changes to different variables, made all or none. The model's lock is held exclusively."""

    def __init__(self, changes: Sequence[Change], loaded: LoadedModel) -> None:
        self._changes = changes
        self._loaded = loaded
        self._preimages: list[Value | None] = []

    def make(self) -> list[Changed]:
        """Make them. Raises OutOfMemory, with nothing changed."""
        self._preimages = self._read_preimages()
        try:
            for number, change in enumerate(self._changes):
                if change.written is not None:
                    change.variable.write(change.value, change.written)
                elif self._is_swapped(change):
                    assert change.owned is not None
                    self._preimages[number] = change.variable.swap(change.owned)
            wholes = [c for c in self._changes if c.written is None and not self._is_swapped(c)]
            self._loaded.write([(c.variable, c.whole or c.owned or c.value) for c in wholes])
        except BaseException:
            self.undo()
            raise
        return [
            Changed(
                c.variable.spec,
                c.region,
                c.value,
                preimage if c.whole is None else c.replaced,
                separate=c.variable.writes_in_place and not isinstance(c.value, HeldByVariable),
            )
            for c, preimage in zip(self._changes, self._preimages, strict=True)
        ]

    def undo(self) -> None:
        """Write what was there before; also where nothing was written yet, which costs no more."""
        pairs = zip(reversed(self._changes), reversed(self._preimages), strict=True)
        for change, preimage in pairs:
            if preimage is not None:  # A variable cannot lose its value again.
                change.variable.write(preimage, change.written)

    def _is_swapped(self, change: Change) -> bool:
        return change.owned is not None and change.variable.is_initialized()

    def _read_preimages(self) -> list[Value | None]:
        """What undoing each change needs; None for a variable without a value."""
        # What writes a region has a value: its change was worked out from it.
        whole = [
            c.variable
            for c in self._changes
            if c.written is None and c.variable.is_initialized() and not self._is_swapped(c)
        ]
        wholes = dict(zip(whole, self._loaded.read(whole), strict=True))
        return [
            wholes.get(c.variable) if c.written is None else c.variable.read(c.written)
            for c in self._changes
        ]
