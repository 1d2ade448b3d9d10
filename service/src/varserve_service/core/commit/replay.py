"""How state comes back after a restart: what a journal kept, put into a freshly loaded model.

Every value is written as it was kept, so the state has the same bits on any device. Knows the ports
and the journal's port.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from varserve_service.core.arrays.buffers import aligned_copy
from varserve_service.core.arrays.regions import index_of, region_shape
from varserve_service.core.errors import JournalError
from varserve_service.core.ports.commits import Changed, Commit
from varserve_service.core.ports.journal import Array, Elements, Journal, KeptChange
from varserve_service.core.ports.loaded_model import Value, Variable
from varserve_service.core.ports.messages import Answer, sent_bytes
from varserve_service.core.values.host_value import HostValue

from .history import History
from .idempotency import IdempotencyCache
from .revisions import Revisions


def replay(
    journal: Journal,
    variables: Mapping[str, Variable],
    revisions: Revisions,
    history: History,
    answers: IdempotencyCache[Answer],
    answer: Callable[[int, Mapping[str, Value]], Answer],
) -> None:
    """Bring a model that was just loaded to the last commit that was kept, with its past.

    `variables` are by path; nobody else uses them yet. `answer` makes one of a revision and values.
    Raises JournalError when a value does not fit its variable or what was kept is damaged.
    """
    restored = {path: _Restored(variable) for path, variable in variables.items()}
    written: dict[str, int] = {}
    for base in journal.base():
        _of(restored, base.change).write(base.change)
        written[base.change.path] = base.revision
    current = journal.horizon
    history.begin(current, written)
    for kept in journal.commits():
        changed = tuple(_of(restored, change).write(change) for change in kept.changes)
        current = kept.revision
        written.update(dict.fromkeys((change.path for change in kept.changes), current))
        history.add(Commit(current, kept.time, kept.kind, kept.origin, kept.request, changed))
    for each in restored.values():
        each.finish()
    revisions.restore(current, written)
    for known in journal.answers():
        values = {name: HostValue(array) for name, array in (known.values or {}).items()}
        nbytes = sum(map(sent_bytes, values.values()))
        first = None if known.values is None else answer(known.revision, values)
        answers.keep(known.request, first, nbytes, known.time)
    journal.start()


def _of(restored: Mapping[str, _Restored], change: KeptChange) -> _Restored:
    try:
        return restored[change.path]
    except KeyError:
        raise JournalError(
            f"variable {change.path!r} is in the journal, not in the model"
        ) from None


class _Restored:
    """One variable while its values are put back.

    One that is written as a whole anyway is put together on the host first, or every region would
    cost a copy of all of it.
    """

    def __init__(self, variable: Variable) -> None:
        self._variable = variable
        self._value: Value | None = None  # the whole, as it was kept or found
        self._own: Array | None = None  # the whole, with regions written into it

    def write(self, change: KeptChange) -> Changed:
        """Write a kept value; the result says what it was before."""
        self._check(change)
        if isinstance(change.part, Elements):
            self._write_elements(change.part, change.value)
            return Changed(self._variable.spec, None, self._whole(), None)  # only ever of a base
        if self._variable.writes_in_place:
            previous = self._variable.read(change.part) if self._has_value() else None
            value = self._variable.stage(change.value)
            self._variable.write(value, change.part)
        elif change.part is None:
            previous = self._whole() if self._has_value() else None
            value = self._value = self._variable.stage(change.value)
            self._own = None
        else:
            whole, index = self._owned(), index_of(change.part)
            previous = self._variable.stage(np.array(whole[index], order="C"))
            whole[index] = change.value
            value = self._variable.stage(change.value)
        return Changed(self._variable.spec, change.part, value, previous)

    def finish(self) -> None:
        """Make the variable what was put together."""
        if self._value is not None or self._own is not None:
            self._variable.write(self._whole())

    def _write_elements(self, part: Elements, value: Array) -> None:
        whole = self._owned()
        whole.reshape(-1)[part.indices] = value
        if self._variable.writes_in_place:
            self._variable.write(self._variable.stage(whole))
            self._own = None

    def _has_value(self) -> bool:
        known = self._value is not None or self._own is not None
        return known or self._variable.is_initialized()

    def _whole(self) -> Value:
        if self._own is not None:
            # Taken over: what is written next goes into a copy.
            self._value, self._own = self._variable.stage(self._own), None
        if self._value is not None:
            return self._value
        return self._variable.read()

    def _owned(self) -> Array:
        if self._own is None:
            self._own = aligned_copy(self._whole().numpy())
            self._value = None
        return self._own

    def _check(self, change: KeptChange) -> None:
        spec, part = self._variable.spec, change.part
        expected = change.value.shape
        if isinstance(part, Elements):
            expected = part.indices.shape
        elif part is not None:
            shape = self._own.shape if self._own is not None else self._shape()
            expected = region_shape(part, shape, variable=spec.name)
        if change.value.shape != expected:
            raise JournalError(
                f"variable {spec.name!r}: expected a value of shape {list(expected)} in the "
                f"journal, found {list(change.value.shape)}"
            )

    def _shape(self) -> tuple[int, ...]:
        return self._value.shape if self._value is not None else self._variable.shape()
