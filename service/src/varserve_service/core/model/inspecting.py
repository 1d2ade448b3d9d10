"""Looking into functions: on which values they run, within which limits, and never as a commit.

Takes references under the model's lock and runs after it is released, on private copies: whatever
an inspection does, and however long it takes, nobody else sees or waits for it. Knows the ports.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from varserve_service.core.arrays.shapes import least_bytes
from varserve_service.core.change.writes import Write, check_initialized, check_write
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.inspection.ports import (
    InnerTensor,
    Inspectable,
    Inspected,
    Inspection,
    Inspector,
)
from varserve_service.core.inspection.selection import Catalogue
from varserve_service.core.ports.loaded_model import (
    Constant,
    Function,
    FunctionSpec,
    Operation,
    Overload,
    Value,
    Variable,
)
from varserve_service.core.ports.messages import Conditions, Header, Read

from .overloads import choose
from .parts import Parts
from .timeline import Timeline

_SHOWN = 200


@dataclass(frozen=True, slots=True, eq=False)
class Supposed:
    """The values that a run is to begin with.

    `assume`: values of variables, by name or path, for this run alone. `at_revision`: the others
    are as they were at this revision of `epoch`; None: as they are now.
    """

    assume: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    at_revision: int | None = None
    epoch: str = ""


@dataclass(frozen=True, slots=True)
class TensorList:
    """Inner tensors of one overload, in an order of computation."""

    header: Header
    tensors: tuple[InnerTensor, ...]


@dataclass(frozen=True, slots=True, eq=False)
class InspectionAnswer:
    """What an inspection saw, and the revision of the values that it saw it on."""

    header: Header
    inspected: Inspected


class Inspecting:
    """Looks into the functions of one model. Every method may be called from any thread.

    `deadline` is in seconds of `time.monotonic`; None waits for ever.
    """

    def __init__(self, parts: Parts, timeline: Timeline) -> None:
        self._parts = parts
        self._timeline = timeline
        self._catalogues: dict[tuple[str, int], Catalogue] = {}

    def tensors(
        self, function: str, patterns: Sequence[str] = (), *, overload: int = 0
    ) -> TensorList:
        """The inner tensors that names and glob patterns fit; all where there are none.

        `overload`: an index into the function's overloads. Raises RequestError: FUNCTION_NOT_FOUND,
        NAME_AMBIGUOUS, OVERLOAD_MISMATCH, TENSOR_NOT_FOUND, INSPECTION_UNSUPPORTED.
        """
        found = self._parts.functions.find(function)
        count = len(found.spec.overloads)
        if not 0 <= overload < count:
            raise RequestError(
                Reason.OVERLOAD_MISMATCH,
                f"function {found.spec.name!r} has {count} overloads; expected 0 to {count - 1}, "
                f"found {overload}",
                function=found.spec.name,
            )
        catalogue = self._catalogue(found, overload)
        header, tensors = self._parts.revisions.header, catalogue.tensors
        if not patterns:
            return TensorList(header, tuple(tensors))
        return TensorList(header, tuple(tensors[index] for index in catalogue.select(patterns)))

    def inspect(
        self,
        function: str,
        inputs: Mapping[str, np.ndarray[Any, Any]],
        constants: Mapping[str, Constant],
        inspection: Inspection,
        supposed: Supposed,
        *,
        cancelled: Callable[[], bool] = lambda: False,
        deadline: float | None = None,
    ) -> InspectionAnswer:
        """Run the overload that fits, and look at it as it runs. It is never a commit.

        `cancelled`: the caller has gone. Raises RequestError, among others: those of the
        look-up, OVERLOAD_MISMATCH and what the port's `inspect` raises; REVISION_COMPACTED,
        REVISION_IN_FUTURE, EPOCH_MISMATCH, VARIABLE_UNINITIALIZED.
        """
        found = self._parts.functions.find(function)
        spec = found.spec
        index = choose(spec, inputs, constants)
        self._parts.input_bounds.check(spec.name, inputs)
        overload = spec.overloads[index]
        used = [self._parts.by_path[path] for path in sorted({*overload.reads, *overload.writes})]
        names = {variable.spec.name: variable.spec.path for variable in used}
        names |= {variable.spec.path: variable.spec.path for variable in used}
        catalogue = self._catalogue(found, index)
        selection = catalogue.resolve(inspection, overload, names)
        assumed = self._assumed(spec, overload, supposed.assume)
        go_on = self._go_on(spec.name, cancelled, deadline)
        thing = f"function {spec.name!r}"
        with self._parts.memory.reserve(self._copies(overload, assumed), thing) as reserved:
            admit = partial(reserved.add, thing=thing, on=self._parts.loaded.device)
            limits = replace(self._parts.inspection_limits, admit=admit)
            header, values = self.values(used, overload.reads, assumed, supposed, deadline)
            inspected = self._inspector(found, index).inspect(
                inputs, values, selection, limits, go_on
            )
        return InspectionAnswer(header, inspected)

    def values(
        self,
        used: Sequence[Variable],
        reads: Sequence[str],
        assumed: Mapping[str, Value],
        supposed: Supposed,
        deadline: float | None,
    ) -> tuple[Header, dict[str, Value]]:
        """What each variable is to begin with, by path, and the revision that the rest are of."""
        others = [variable for variable in used if variable.spec.path not in assumed]
        if supposed.at_revision is not None:
            snapshot = self._timeline.read(
                [Read(variable.spec.path) for variable in others],
                supposed.at_revision,
                epoch=supposed.epoch,
                deadline=deadline,
            )
            entries = zip(others, snapshot.entries, strict=True)
            found = {v.spec.path: entry.value for v, entry in entries if entry.value is not None}
            return snapshot.header, {**found, **assumed}
        with self._parts.lock.shared(deadline):
            self._parts.revisions.check(Conditions(epoch=supposed.epoch))
            check_initialized([v for v in others if v.spec.path in reads])
            there = [variable for variable in others if variable.is_initialized()]
            present = zip(there, self._parts.loaded.read(there), strict=True)
            return self._parts.revisions.header, {
                v.spec.path: value for v, value in present
            } | dict(assumed)

    def _assumed(
        self, spec: FunctionSpec, overload: Overload, assume: Mapping[str, np.ndarray[Any, Any]]
    ) -> dict[str, Value]:
        """Assumed values, checked as a write would be, on their devices."""
        checked = []
        for name, array in assume.items():
            variable = self._parts.variables.find(name)
            check_write(Write(name, Operation.SET, array), variable)
            if variable.spec.path not in (*overload.reads, *overload.writes):
                raise RequestError(
                    Reason.INPUT_MISMATCH,
                    f"function {spec.name!r} does not read variable {name[:_SHOWN]!r}; a value "
                    "that is assumed for it would change nothing",
                    function=spec.name,
                    variable=name[:_SHOWN],
                )
            checked.append((variable, array))
        return {variable.spec.path: variable.stage(array) for variable, array in checked}

    def _copies(self, overload: Overload, assumed: Mapping[str, Value]) -> Counter[str]:
        """Bytes that the private variables take beside the model's own, by device.

        They share the memory of what they begin with, until they are written; what TensorFlow
        accesses sparsely it copies, when it is read and when it is accessed.
        """
        copies: Counter[str] = Counter()
        for path in {*overload.reads, *overload.writes}:
            variable = self._parts.by_path[path]
            nbytes = least_bytes(variable.spec.dtype, variable.spec.shape)
            times = 2 if variable.writes_in_place else int(path in overload.writes)
            copies[variable.spec.device] += times * nbytes
        return copies

    def _catalogue(self, function: Function, overload: int) -> Catalogue:
        key = (function.spec.path, overload)
        if key not in self._catalogues:
            tensors = self._inspector(function, overload).tensors()
            labelled = [replace(each, variables=self._labels(each.variables)) for each in tensors]
            self._catalogues[key] = Catalogue(function.spec.name, labelled)
        return self._catalogues[key]

    def _labels(self, paths: Sequence[str]) -> tuple[str, ...]:
        return tuple(self._timeline.display_names.get(path, path) for path in paths)

    def _inspector(self, function: Function, overload: int) -> Inspector:
        if not isinstance(function, Inspectable):
            raise RequestError(
                Reason.INSPECTION_UNSUPPORTED,
                f"function {function.spec.name!r} cannot be looked into",
                function=function.spec.name,
            )
        return function.inspector(overload)

    def _go_on(
        self, function: str, cancelled: Callable[[], bool], deadline: float | None
    ) -> Callable[[], None]:
        def go_on() -> None:
            if cancelled() or (deadline is not None and time.monotonic() >= deadline):
                raise RequestError(
                    Reason.DEADLINE_EXCEEDED,
                    f"the deadline passed while function {function!r} was inspected; nothing was "
                    "changed",
                    function=function,
                )

        return go_on
