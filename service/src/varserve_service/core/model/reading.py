"""Reading variables: checked first, all of them, and then taken as references under the lock.

Knows the ports.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from varserve_service.core.arrays.regions import region_shape
from varserve_service.core.change.writes import check_initialized
from varserve_service.core.commit.partwise import is_large, read_by_parts
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.ports.loaded_model import Value, Variable
from varserve_service.core.ports.messages import Admit, Entry, Read, Snapshot, sent_bytes
from varserve_service.core.values.casts import check_cast, sent_as

from .parts import Parts


class Reading:
    """Reads the present values of a model's variables."""

    def __init__(self, parts: Parts) -> None:
        self._loaded = parts.loaded
        self._lock = parts.lock
        self._revisions = parts.revisions
        self._variables = parts.variables
        self._history = parts.history

    def snapshot(
        self, reads: Sequence[Read], known: int | None, admit: Admit | None, deadline: float | None
    ) -> Snapshot:
        """Values at one revision; without those that were not written since `known`.

        Raises RequestError; see LiveModel.read.
        """
        found = [(self._variables.find(read.variable), read) for read in reads]
        for variable, read in found:
            check_cast(variable.spec, read.dtype)
        with self._lock.shared(deadline):
            # All are checked before the first is taken.
            checked = [
                (variable, read, self._check(variable, read, known, admit))
                for variable, read in found
            ]
            return Snapshot(self._revisions.header, self.entries(checked))

    def _check(
        self, variable: Variable, read: Read, known: int | None = None, admit: Admit | None = None
    ) -> bool:
        """Whether the value is to be taken: False when it is not newer than `known`.

        The lock is held. Raises RequestError VARIABLE_UNINITIALIZED, REGION_INVALID, and what
        `admit` raises.
        """
        spec = variable.spec
        check_initialized([variable])
        if known is not None and self._revisions.of(spec.path) <= known:
            return False
        if read.region is not None or admit is not None:
            shape = variable.shape()
            if read.region is not None:
                shape = region_shape(read.region, shape, variable=spec.name)
            if admit is not None:
                # A whole one, too, where its memory is written in place, unless it goes by parts.
                whole = variable.writes_in_place and not is_large(variable)
                admit(spec, read, shape, read.region is not None or whole)
        return True

    def entries(self, checked: Sequence[tuple[Variable, Read, bool]]) -> tuple[Entry, ...]:
        """The entries of a snapshot for reads that were checked; True: with its value.

        The lock is held.
        """
        whole = [
            variable
            for variable, read, take in checked
            if take and read.region is None and not is_large(variable)
        ]
        wholes = iter(self._loaded.read(whole))
        return tuple(
            self._entry(variable, read, self._value(variable, read, wholes) if take else None)
            for variable, read, take in checked
        )

    def _value(self, variable: Variable, read: Read, wholes: Iterator[Value]) -> Value:
        if read.region is None and is_large(variable):
            return read_by_parts(variable, self._lock, self._history, (), read.dtype)
        value = next(wholes) if read.region is None else variable.read(read.region)
        return sent_as(variable, value, read.dtype)

    def _entry(self, variable: Variable, read: Read, value: Value | None) -> Entry:
        return Entry(variable.spec.name, self._revisions.of(variable.spec.path), value)

    def back(self, variable: Variable, read: Read, max_bytes: int | None) -> dict[str, Value]:
        """The value after a write, by its name; kept with the answer, so in memory of its own.

        The lock is held. Raises RequestError VARIABLE_UNINITIALIZED, REGION_INVALID,
        MESSAGE_TOO_LARGE.
        """
        self._check(variable, read)
        value = sent_as(variable, variable.read(read.region), read.dtype)
        name = variable.spec.name
        nbytes = sent_bytes(value)
        if max_bytes is not None and nbytes > max_bytes:
            raise RequestError(
                Reason.MESSAGE_TOO_LARGE,
                f"variable {name!r}: the value to read back takes {nbytes} "
                f"bytes; expected at most {max_bytes} in one message",
                nbytes=nbytes,
            )
        if read.region is not None and not variable.writes_in_place:
            own = variable.part(variable.read(), read.region)
            value = sent_as(variable, own, read.dtype)
        return {name: value}
