"""One run of a function: its overload, its staged inputs, its outputs within bounds, its writes.

Knows the ports and what a commit is made of. Whoever runs it holds the model's lock: shared where
it changes nothing, exclusive where it may.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from varserve_service.core.arrays.shapes import least_bytes
from varserve_service.core.change.writes import check_initialized
from varserve_service.core.commit.committer import Done
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.memory import ModelMemory
from varserve_service.core.ports.commits import Changed, CommitKind
from varserve_service.core.ports.loaded_model import (
    Constant,
    Function,
    LoadedModel,
    Value,
    Variable,
)
from varserve_service.core.ports.messages import sent_bytes
from varserve_service.core.ports.observer import Observer

from .overloads import choose, least_output_bytes


class Run:
    """A run whose inputs are checked and staged.

    `outputs`: names of the outputs to give; none: all. More than `max_output_bytes` of them is
    MESSAGE_TOO_LARGE. Raises RequestError.
    """

    def __init__(
        self,
        function: Function,
        inputs: Mapping[str, np.ndarray[Any, Any]],
        constants: Mapping[str, Constant],
        outputs: Sequence[str],
        max_output_bytes: int | None,
        variables: Mapping[str, Variable],
        loaded: LoadedModel,
        memory: ModelMemory,
        observer: Observer,
    ) -> None:
        spec = function.spec
        index = choose(spec, inputs, constants)
        self._overload = spec.overloads[index]
        self._name = spec.name
        self._outputs = outputs
        self._max_output_bytes = max_output_bytes
        self._read = loaded.read
        self._memory = memory
        self._observer = observer
        self._check_outputs()
        self._needed = [variables[path] for path in self._overload.reads]
        self._written = [variables[path] for path in self._overload.writes]
        staged = 0 if memory.is_host else sum(each.nbytes for each in inputs.values())
        with memory.device.reserve(staged, f"the input of function {spec.name!r}"):
            self._call = function.stage(index, inputs)

    @property
    def may_change(self) -> bool:
        """It is a commit, or changes state that is not a variable."""
        return bool(self._written) or self._overload.changes_other_state

    @property
    def name(self) -> str:
        """The function's name."""
        return self._name

    @property
    def written_bytes(self) -> dict[Variable, int]:
        """Bytes of the variables that it writes, as far as they are known beforehand."""
        return {v: least_bytes(v.spec.dtype, v.spec.shape) for v in self._written}

    def values(self) -> dict[str, Value]:
        """Run it; its outputs by name."""
        check_initialized(self._needed)
        began = time.monotonic()
        try:
            least = least_output_bytes(self._overload)
            with self._memory.device.reserve(least, f"function {self._name!r}"):
                values = self._call()
        finally:
            self._observer.ran(time.monotonic() - began)
        if self._outputs:
            values = {name: values[name] for name in self._outputs}
        nbytes = sum(map(sent_bytes, values.values()))
        if self._max_output_bytes is not None and nbytes > self._max_output_bytes:
            raise RequestError(
                Reason.MESSAGE_TOO_LARGE,
                f"function {self._name!r}: the outputs take {nbytes} bytes; expected at "
                f"most {self._max_output_bytes} in one message; use StreamRunFunction",
                nbytes=nbytes,
            )
        return values

    def make(self) -> Done:
        """Run it as what a commit is made of: what it writes is put back when it fails."""
        copied: Counter[str] = Counter()
        for variable in self._written:
            copied[variable.spec.device] += _copied_bytes(variable)
        with self._memory.reserve(copied, f"function {self._name!r}"):
            return self._make()

    def _make(self) -> Done:
        had_value = [variable for variable in self._written if variable.is_initialized()]
        preimages = dict(zip(had_value, self._read(had_value), strict=True))

        def undo() -> None:
            for variable in reversed(had_value):
                variable.write(preimages[variable])

        try:
            values = self.values()
            changed = [
                Changed(variable.spec, None, value, preimages.get(variable))
                for variable, value in zip(self._written, self._read(self._written), strict=True)
            ]
        except BaseException:
            undo()
            raise
        return Done(CommitKind.RUN, changed, values, undo)

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


def _copied_bytes(variable: Variable) -> int:
    """What a variable that is written takes beside itself, as far as it is known beforehand.

    What was there is kept, so that what is written is new memory; where it is written in place
    nevertheless, both what was there and what is are copies.
    """
    nbytes = least_bytes(variable.spec.dtype, variable.spec.shape)
    return 2 * nbytes if variable.writes_in_place else nbytes
