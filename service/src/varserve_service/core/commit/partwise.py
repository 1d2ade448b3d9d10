"""A large variable that is written in place, read part by part, as it was at one revision.

A whole read of such a variable is a copy, and would hold up everybody else for as long as that
takes. Here each part is read under a short shared lock, when it is needed; what was overwritten
since the revision is put back from what the commits in between replaced. Knows the ports.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from varserve_service.core.arrays.buffers import aligned_empty
from varserve_service.core.arrays.reductions import Counted, Reduced, added
from varserve_service.core.arrays.regions import Region, Rows, touched_rows
from varserve_service.core.arrays.shapes import least_bytes
from varserve_service.core.change.changes import HeldByVariable
from varserve_service.core.change.past import with_replaced
from varserve_service.core.ports.commits import Changed
from varserve_service.core.ports.loaded_model import Value, Variable

from .history import History
from .lock import ReadersWriterLock

PART_BYTES = 2**20
"""A part has at most so many bytes, but one row at least. Values of one part are read at once."""

_KEPT_PARTS = 6
"""Parts that are kept after they were read: those who hash and those who reduce a value look at the
same ones, some parts apart."""


def is_large(variable: Variable) -> bool:
    """A whole read of the variable is better done part by part. The lock is held."""
    if not variable.writes_in_place or variable.spec.dtype == "string":
        return False
    shape = variable.shape()
    return len(shape) > 0 and least_bytes(variable.spec.dtype, shape) > PART_BYTES


def read_by_parts(
    variable: Variable,
    lock: ReadersWriterLock,
    history: History,
    later: Sequence[Changed],
    dtype: str | None,
) -> PartwiseValue:
    """A large variable as it was before changes `later`, which are oldest first.

    `dtype`: what it is cast to; None: its own. The lock is held, shared or not.
    """
    value = PartwiseValue(variable, lock, later, dtype or variable.spec.dtype)
    history.attach(variable.spec.path, value)
    return value


def tell_readers(changed: Sequence[Changed], lock: ReadersWriterLock, history: History) -> None:
    """Variables have changed in memory, by what may become a commit or be undone.

    Who reads them by parts is told, and what is held by its variable alone is read from there from
    now on. The lock is held exclusively, since before the change.
    """
    history.tell_readers(changed)
    for each in changed:
        if isinstance(each.value, HeldByVariable):
            each.value.held(read_by_parts(each.value.variable, lock, history, (), None))


class PartwiseValue:
    """Implements Value over a variable that may be written meanwhile.

    One thread at a time gets parts of it. Besides what other values raise, each part may raise
    RequestError MODEL_NOT_READY, when the model is unloaded.
    """

    def __init__(
        self, variable: Variable, lock: ReadersWriterLock, later: Sequence[Changed], dtype: str
    ) -> None:
        """See `read_by_parts`."""
        self._variable = variable
        self._lock = lock
        self._dtype = dtype
        # The first change of the whole, and those before it: none after it matters.
        wholes = [number for number, changed in enumerate(later) if changed.region is None]
        self._whole = later[wholes[0]] if wholes else None
        self._later = list(later[: wholes[0]] if wholes else later)
        previous = None if self._whole is None else self._whole.previous
        self._shape = variable.shape() if previous is None else previous.shape
        row = self._cast(variable.read(Rows(np.zeros(1, np.int64))))
        self._row_bytes = row.nbytes
        self._row_size = math.prod(self._shape[1:])
        self._rows = max(1, PART_BYTES // max(1, row.nbytes))  # of a part
        # The changes that touch a part, by its number, as far as `_later` has been looked through.
        self._by_part: defaultdict[int, list[Changed]] = defaultdict(list)
        self._sorted = 0
        self._turn = threading.Lock()
        self._kept: OrderedDict[int, Value] = OrderedDict()  # parts by number, as they were read

    def overtaken(self, changed: Changed) -> None:
        """A commit has changed the variable. The lock is held exclusively."""
        if self._whole is None:
            if changed.region is None:
                self._whole = changed
            else:
                self._later.append(changed)

    @property
    def later(self) -> Sequence[Region] | None:
        """The regions that were written since; None: the whole was. The lock is held."""
        if self._whole is not None:
            return None
        return [changed.region for changed in self._later if changed.region is not None]

    @property
    def dtype(self) -> str:
        return self._dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def nbytes(self) -> int:
        return self._row_bytes * self._shape[0]

    def numpy(self) -> np.ndarray[Any, Any]:
        array: np.ndarray[Any, Any] | None = None
        for start, value in self.parts():
            part = value.numpy()
            if array is None:
                array = aligned_empty(self._shape, part.dtype)
            array[start : start + len(part)] = part
        assert array is not None
        array.flags.writeable = False
        return array

    def parts(self) -> Iterator[tuple[int, Value]]:
        """The number of the first row of each part, and the part, in order."""
        for number in range(-(-self._shape[0] // self._rows)):
            yield number * self._rows, self._part(number)

    def buffer(self, start: int, stop: int) -> memoryview:
        pieces = [
            self._part(number).buffer(first, last)
            for number, first, last in self._runs(start, stop, self._row_bytes)
        ]
        return pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))

    def reduce(self, start: int, stop: int) -> Sequence[Reduced]:
        return [
            reduced
            for number, first, last in self._runs(start, stop, self._row_size)
            for reduced in self._part(number).reduce(first, last)
        ]

    def count(self, start: int, stop: int, edges: np.ndarray[Any, Any]) -> Counted:
        # An empty run gives the counts their size.
        runs = self._runs(start, stop, self._row_size) or [(0, 0, 0)]
        return added([self._part(number).count(a, b, edges) for number, a, b in runs])

    def _runs(self, start: int, stop: int, row: int) -> list[tuple[int, int, int]]:
        """Parts that a run touches, and where in them it begins and ends; a row is `row` long."""
        size, runs = self._rows * row, []
        while start < stop:
            number = start // size
            end = min(stop, (number + 1) * size)
            runs.append((number, start - number * size, end - number * size))
            start = end
        return runs

    def _part(self, number: int) -> Value:
        with self._turn:
            part = self._kept.get(number)
            if part is None:
                while len(self._kept) >= _KEPT_PARTS:
                    self._kept.popitem(last=False)
                part = self._kept[number] = self._read(number)
            if (number + 1) * self._rows >= self._shape[0]:
                self._kept.clear()  # a commit of the history may hold this for long
            return part

    def _read(self, number: int) -> Value:
        start = number * self._rows
        rows = np.arange(start, min(start + self._rows, self._shape[0]), dtype=np.int64)
        with self._lock.shared_or_mine():
            seen, whole = len(self._later), self._whole
            base = self._variable.read(Rows(rows)) if whole is None else None
        if base is None:
            assert whole is not None
            assert whole.previous is not None
            base = self._variable.part(whole.previous, Rows(rows))
        self._sort(seen)
        changes = self._by_part.get(number, ())
        return self._cast(with_replaced(self._variable, base, rows, self._shape[0], changes))

    def _sort(self, seen: int) -> None:
        """Find which parts the changes up to here touch."""
        for changed in self._later[self._sorted : seen]:
            assert changed.region is not None
            touched = touched_rows([changed.region], self._shape[0]) // self._rows
            for number in np.unique(touched):
                self._by_part[int(number)].append(changed)
        self._sorted = max(self._sorted, seen)

    def _cast(self, value: Value) -> Value:
        return value if self._dtype == value.dtype else self._variable.cast(value, self._dtype)
