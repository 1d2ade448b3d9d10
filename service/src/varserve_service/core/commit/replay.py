"""Replay: restoring the state that a journal kept into a freshly loaded model.

Every value is written as it was kept, so the state has the same bits on every device. Knows the
ports, that of the journal among them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from varserve_service.core.arrays.buffers import aligned_copy
from varserve_service.core.arrays.patches import Canvas, Elements
from varserve_service.core.arrays.regions import region_shape
from varserve_service.core.arrays.shapes import fits, shape_text
from varserve_service.core.change.changes import Change, HeldByVariable, kept_change
from varserve_service.core.errors import JournalError
from varserve_service.core.ports.commits import Changed, Commit
from varserve_service.core.ports.journal import KeptChange, KeptState
from varserve_service.core.ports.loaded_model import Value, Variable
from varserve_service.core.ports.messages import Answer, sent_bytes
from varserve_service.core.values.host_value import HostValue

from .history import History
from .idempotency import IdempotencyCache
from .lock import ReadersWriterLock
from .partwise import tell_readers
from .revisions import Revisions


def replay(
    journal: KeptState,
    variables: Mapping[str, Variable],
    revisions: Revisions,
    history: History,
    idempotency: IdempotencyCache[Answer],
    lock: ReadersWriterLock,
) -> None:
    """Bring a model that was just loaded to the last commit that was kept, with its past.

    `variables` are by path, and those that the journal was opened for; nobody else uses them yet.
    Raises JournalError when a value does not fit its variable or what was kept is damaged.
    """
    restored = {path: _Restored(variable) for path, variable in variables.items()}
    written: dict[str, int] = {}
    for base in journal.base():
        restored[base.change.path].write(base.change)
        written[base.change.path] = base.revision
    current = journal.horizon
    history.begin(current, written, journal.records())
    for kept in journal.commits():
        changed = tuple(restored[change.path].write(change) for change in kept.changes)
        current = kept.revision
        written.update(dict.fromkeys((change.path for change in kept.changes), current))
        tell_readers(changed, lock, history)
        history.add(Commit(current, kept.time, kept.kind, kept.origin, kept.request, changed))
    for variable in restored.values():
        variable.finish()
    revisions.restore(current, written)
    for kept_answer in journal.answers():
        values = {name: HostValue(array) for name, array in (kept_answer.values or {}).items()}
        nbytes = sum(map(sent_bytes, values.values()))
        header = revisions.header_at(kept_answer.revision)
        answer = None if kept_answer.values is None else Answer(header, values)
        idempotency.keep(kept_answer.request, answer, nbytes, kept_answer.time)
    journal.start()


class _Restored:
    """One variable while its values are put back.

    One that is written as a whole anyway is put together on the host first, or every region would
    cost a copy of all of it.
    """

    def __init__(self, variable: Variable) -> None:
        self._variable = variable
        self._value: Value | None = None  # the whole, as it was kept or loaded
        self._canvas: Canvas | None = None  # the whole, with later parts written into it

    def write(self, change: KeptChange) -> Changed:
        """Write a kept value; the result says what it was before."""
        variable, part = self._variable, change.part
        self._check(change)
        if isinstance(part, Elements):  # only ever of a base
            self._own_canvas().write(part, change.value)
            if variable.writes_in_place:
                variable.write(self._whole())
                self._value = None
            return Changed(variable.spec, None, self._whole(), None)
        if variable.writes_in_place:
            return self._write_in_place(kept_change(variable, part, change.value))
        if part is None:
            previous = self._whole() if self._has_value() else None  # and no canvas any more
            value = self._value = variable.stage(change.value)
        else:
            canvas = self._own_canvas()
            previous = variable.stage(np.array(canvas.read(part), order="C"))
            canvas.write(part, change.value)
            value = variable.stage(change.value)
        return Changed(variable.spec, part, value, previous)

    def _write_in_place(self, change: Change) -> Changed:
        variable, region, value = change.variable, change.region, change.value
        previous = None
        if change.owned is not None and variable.is_initialized():
            previous = variable.swap(change.owned)
        else:
            if variable.is_initialized():
                previous = variable.read(region)
            variable.write(change.owned or value, region)
        separate = not isinstance(value, HeldByVariable)
        return Changed(variable.spec, region, value, previous, separate=separate)

    def finish(self) -> None:
        """Make the variable what was put together."""
        if self._value is not None or self._canvas is not None:
            self._variable.write(self._whole())

    def _has_value(self) -> bool:
        known = self._value is not None or self._canvas is not None
        return known or self._variable.is_initialized()

    def _whole(self) -> Value:
        if self._canvas is not None:
            # Its memory is taken over: what is written next goes into a copy.
            self._value, self._canvas = self._variable.stage(self._canvas.array), None
        return self._variable.read() if self._value is None else self._value

    def _own_canvas(self) -> Canvas:
        if self._canvas is None:
            self._canvas = Canvas(aligned_copy(self._whole().numpy()))
            self._value = None
        return self._canvas

    def _check(self, change: KeptChange) -> None:
        spec, part = self._variable.spec, change.part
        expected = spec.shape
        if isinstance(part, Elements):
            expected = part.indices.shape
        elif part is not None:
            expected = region_shape(part, self._shape(), variable=spec.name)
        if not fits(change.value.shape, expected):
            raise JournalError(
                f"variable {spec.name!r}: expected a value of shape {shape_text(expected)} in the "
                f"journal, found {list(change.value.shape)}"
            )

    def _shape(self) -> tuple[int, ...]:
        if self._canvas is not None:
            shape: tuple[int, ...] = self._canvas.array.shape
            return shape
        return self._variable.shape() if self._value is None else self._value.shape
