"""One run of a function: overload, staged inputs, bounded outputs, and writes.

Knows the ports and what a commit is made of. The model's lock is held while it runs: shared where
it changes nothing, exclusive where it may.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from varserve_service.core.arrays.regions import Rows, touched_rows
from varserve_service.core.arrays.shapes import least_bytes
from varserve_service.core.cancellation import Cancellation
from varserve_service.core.change.changes import HeldByVariable
from varserve_service.core.change.writes import check_initialized
from varserve_service.core.commit.partwise import PartwiseValue, is_large, read_by_parts
from varserve_service.core.commit.proposal import Proposal, Terms
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.ports.commits import Changed, CommitKind, CommitListener
from varserve_service.core.ports.function_messages import FunctionMessage
from varserve_service.core.ports.loaded_model import Constant, Function, Value, Variable
from varserve_service.core.ports.messages import Answer, sent_bytes

from .overloads import choose, least_output_bytes
from .parts import Parts

_MOST_ROWS = 0.5
"""A run that left a larger share of the rows as other bits has written the whole."""


class EarlierCopy:
    """A copy of a large variable that is written in place, kept up with what is written to it."""

    def __init__(self, variable: Variable, value: PartwiseValue) -> None:
        """Takes as long as the copy, part by part. Needs no lock. Raises OutOfMemory."""
        self._variable = variable
        self._value = value
        self._array = value.numpy()

    def present(self) -> Value:
        """What the variable holds now. The lock is held exclusively. Raises OutOfMemory."""
        later = self._value.later
        if later is None:
            return self._variable.read()
        array = self._array
        rows = touched_rows(later, len(array)) if later else None
        array.flags.writeable = True
        if rows is not None and rows.size:
            array[rows] = self._variable.read(Rows(rows)).numpy()
        return self._variable.stage(array)


@dataclass(frozen=True, slots=True, eq=False)
class _Replaced:
    """What a variable held before the run: all of it, or the rows that the run will write."""

    variable: Variable
    value: Value
    rows: Rows | None = None

    def put_back(self) -> None:
        self.variable.write(self.value, self.rows)

    def changed(self) -> Changed | None:
        """What the run did; None where the variable's present value has to be read as a whole."""
        variable, rows, value = self.variable, self.rows, self.value
        if rows is None:
            if not variable.writes_in_place or not is_large(variable):
                return None
            found = variable.differing_rows(value)
            if found is None or found.size > _MOST_ROWS * value.shape[0]:
                return None
            rows = Rows(found)
            # In memory of its own: the whole can go.
            value = variable.part(value, rows)
        return Changed(variable.spec, rows, variable.read(rows), value)


class Run(Proposal):
    """A run whose inputs are checked and staged. One that may change something is a proposal."""

    kind = CommitKind.RUN
    made_once = True  # what a function does beside writing variables, it would do twice

    def __init__(
        self,
        parts: Parts,
        function: Function,
        inputs: Mapping[str, np.ndarray[Any, Any]],
        constants: Mapping[str, Constant],
        terms: Terms,
        *,
        outputs: Sequence[str],
        max_output_bytes: int | None,
        messages: bool = False,
        cancellation: Cancellation | None,
    ) -> None:
        """`outputs`: names of those to give; none: all. `max_output_bytes`: of all that is given.

        `messages`: the answer has what the function prints.

        Raises RequestError.
        """
        super().__init__(terms)
        self._parts = parts
        index = choose(function.spec, inputs, constants)
        parts.input_bounds.check(function.spec.name, inputs)
        self._overload = function.spec.overloads[index]
        self._name = function.spec.name
        self._outputs = outputs
        self._messages: list[FunctionMessage] = []
        self._max_output_bytes = max_output_bytes
        self._cancellation = cancellation
        self._check_outputs()
        self._reads = [parts.by_path[path] for path in self._overload.reads]
        self._writes = [parts.by_path[path] for path in self._overload.writes]
        self._replaced: list[_Replaced] = []
        self._copies: dict[Variable, EarlierCopy] = {}
        memory = parts.memory
        staged = 0 if memory.is_host else sum(array.nbytes for array in inputs.values())
        with memory.device.reserve(staged, f"the input of function {self._name!r}"):
            on_message = self._messages.append if messages else None
            self._staged = function.stage(index, inputs, on_message)

    def run(self, on_commit: CommitListener | None) -> Answer:
        """Run it, as a commit where it may change something. Raises RequestError."""
        parts, terms = self._parts, self.terms
        if not self._writes and not self._overload.changes_other_state:
            with parts.lock.shared(terms.deadline):
                parts.revisions.check(terms.conditions)
                values = self._values()
                return Answer(parts.revisions.header, values, tuple(self._messages))
        kept = [(v, least_bytes(v.spec.dtype, v.spec.shape)) for v in self._writes]
        with parts.committer.room_to_keep(kept, f"function {self._name!r}"):
            self._copy_beforehand()
            answer = parts.committer.commit(self, on_commit)
            if not self._messages:
                return answer
            # Not a part of the answer that is remembered: a repeated request runs nothing.
            return replace(answer, messages=tuple(self._messages))

    def _copy_beforehand(self) -> None:
        """Copy what is large and written in place before others have to wait for the run.

        Not where the rows that it will write are known beforehand.
        """
        parts, deadline = self._parts, self.terms.deadline
        for variable in self._writes:
            if not variable.writes_in_place or self._knows_rows(variable):
                continue
            with parts.lock.shared(deadline):
                if parts.committer.answered(self.terms.request) is not None:
                    return  # nothing will be run
                if not variable.is_initialized() or not is_large(variable):
                    continue
                value = read_by_parts(variable, parts.lock, parts.history, (), None)
            thing = f"what function {self._name!r} replaces"
            with parts.memory.of(variable.spec.device).reserve(value.nbytes, thing):
                self._copies[variable] = EarlierCopy(variable, value)

    def _knows_rows(self, variable: Variable) -> bool:
        """Whether the rows that it will write are known beforehand."""
        return variable.spec.path in self._overload.writes_rows

    def make(self) -> None:
        rows = self._rows()
        copied: Counter[str] = Counter()
        for variable in self._writes:
            if variable in rows:
                nbytes = least_bytes(
                    variable.spec.dtype, (rows[variable].indices.size, *variable.shape()[1:])
                )
                copied[variable.spec.device] += 2 * nbytes
            elif variable not in self._copies:
                copied[variable.spec.device] += _copied_bytes(variable)
        with self._parts.memory.reserve(copied, f"function {self._name!r}"):
            self._make(rows)

    def _rows(self) -> dict[Variable, Rows]:
        """The rows that it will write, of the large variables of which these are known."""
        large = [
            variable
            for variable in self._writes
            if self._knows_rows(variable) and variable.is_initialized() and is_large(variable)
        ]
        found = self._staged.written_rows() if large else {}
        rows = {}
        for variable in large:
            indices, count = found[variable.spec.path], variable.shape()[0]
            rows[variable] = Rows(indices[(indices >= 0) & (indices < count)])
        return rows

    def undo(self) -> None:
        for replaced in reversed(self._replaced):
            replaced.put_back()

    def _make(self, rows: Mapping[Variable, Rows]) -> None:
        had_value = [
            variable
            for variable in self._writes
            if variable.is_initialized() and variable not in rows and variable not in self._copies
        ]
        read = self._parts.loaded.read
        found = zip(had_value, read(had_value), strict=True)
        self._replaced = [_Replaced(variable, value) for variable, value in found]
        for variable, own in rows.items():
            self._replaced.append(_Replaced(variable, variable.read(own), own))
        for variable, copy in self._copies.items():
            self._replaced.append(_Replaced(variable, copy.present()))
        self._copies = {}
        try:
            self.values = self._values()
            self.changed = self._changes()
        except BaseException:
            self.undo()
            raise

    def _changes(self) -> list[Changed]:
        """What it did to each variable that it writes."""
        replaced = {each.variable: each for each in self._replaced}
        changes = {v: each.changed() for v, each in replaced.items()}
        wholes = [v for v in self._writes if changes.get(v) is None]
        small = [v for v in wholes if not (v.is_initialized() and is_large(v))]
        written = dict(zip(small, self._parts.loaded.read(small), strict=True))
        for variable in wholes:
            previous = replaced[variable].value if variable in replaced else None
            changes[variable] = Changed(
                variable.spec,
                None,
                written.get(variable) or HeldByVariable(variable),
                previous,
                separate=variable in written and variable.writes_in_place,
            )
        return [change for v in self._writes if (change := changes[v]) is not None]

    def _values(self) -> Mapping[str, Value]:
        """Run the function; its outputs by name."""
        check_initialized(self._reads)
        began = time.monotonic()
        try:
            least = least_output_bytes(self._overload)
            with self._parts.memory.device.reserve(least, f"function {self._name!r}"):
                values = self._parts.runs.run(
                    self._name, self._staged, self.terms.deadline, self._cancellation
                )
        finally:
            self._parts.observer.ran(time.monotonic() - began)
        if self._outputs:
            values = {name: values[name] for name in self._outputs}
        nbytes = sum(map(sent_bytes, values.values())) + sum(map(_message_bytes, self._messages))
        if self._max_output_bytes is not None and nbytes > self._max_output_bytes:
            raise RequestError(
                Reason.MESSAGE_TOO_LARGE,
                f"function {self._name!r}: the outputs take {nbytes} bytes; expected at "
                f"most {self._max_output_bytes} in one message; use StreamRunFunction",
                nbytes=nbytes,
            )
        return values

    def _check_outputs(self) -> None:
        names = [output.name for output in self._overload.outputs]
        for name in self._outputs:
            if name not in names:
                raise RequestError(
                    Reason.INPUT_MISMATCH,
                    f"function {self._name!r}: no output {name[:200]!r}; "
                    f"expected outputs: {', '.join(names) or 'none'}",
                    function=self._name,
                )


def _message_bytes(message: FunctionMessage) -> int:
    return 4 * len(message.text) + len(message.op) + 64


def _copied_bytes(variable: Variable) -> int:
    """What a variable that is written takes beside itself, as far as it is known beforehand.

    The previous value is kept, so that what is written is new memory. In place, both the previous
    value and the new one are copies.
    """
    nbytes = least_bytes(variable.spec.dtype, variable.spec.shape)
    return 2 * nbytes if variable.writes_in_place else nbytes
