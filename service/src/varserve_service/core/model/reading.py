"""What is read of a model under its lock: checked first, and then taken as references.

Knows the ports. Whoever reads holds the model's lock, shared or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from varserve_service.core.arrays.regions import region_shape
from varserve_service.core.change.writes import check_initialized
from varserve_service.core.commit.revisions import Revisions
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.ports.loaded_model import LoadedModel, Value, Variable
from varserve_service.core.ports.messages import Admit, Entry, Read, sent_bytes
from varserve_service.core.values.casts import sent_as


class Reading:
    """Reads variables of a model, whose last writes are in `revisions`."""

    def __init__(self, loaded: LoadedModel, revisions: Revisions) -> None:
        self._loaded = loaded
        self._revisions = revisions

    def check(
        self, variable: Variable, read: Read, known: int | None = None, admit: Admit | None = None
    ) -> bool:
        """Whether the value is to be taken: False when it is not newer than `known`.

        Raises RequestError VARIABLE_UNINITIALIZED, REGION_INVALID, and what `admit` raises.
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
                # A whole one, too, where its memory is written in place.
                admit(spec, read, shape, read.region is not None or variable.writes_in_place)
        return True

    def entries(self, checked: Sequence[tuple[Variable, Read, bool]]) -> tuple[Entry, ...]:
        """The entries of a snapshot for reads that were checked; True: with its value."""
        whole = [variable for variable, read, take in checked if take and read.region is None]
        wholes = iter(self._loaded.read(whole))
        return tuple(
            self._entry(variable, read, self._value(variable, read, wholes) if take else None)
            for variable, read, take in checked
        )

    def _value(self, variable: Variable, read: Read, wholes: Iterator[Value]) -> Value:
        value = next(wholes) if read.region is None else variable.read(read.region)
        return sent_as(variable, value, read.dtype)

    def _entry(self, variable: Variable, read: Read, value: Value | None) -> Entry:
        return Entry(variable.spec.name, self._revisions.of(variable.spec.path), value)

    def back(self, variable: Variable, read: Read, max_bytes: int | None) -> dict[str, Value]:
        """The value after a write, by its name. Raises RequestError MESSAGE_TOO_LARGE as well.

        It is kept with the answer: a region is in memory of its own.
        """
        self.check(variable, read)
        (entry,) = self.entries([(variable, read, True)])
        value, name = entry.value, entry.variable
        assert value is not None
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
