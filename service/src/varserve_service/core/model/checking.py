"""Checks that commits carry: a function that runs with the new values before anybody sees them.

Runs it on private copies, without the model's lock. What was checked is what becomes the commit: if
somebody writes a variable that the check looked at before the commit is made, it is checked again.
Knows the ports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from varserve_service.core.arrays.shapes import least_bytes, shape_text
from varserve_service.core.change.changes import Change
from varserve_service.core.change.plan import Plan
from varserve_service.core.change.writes import check_initialized
from varserve_service.core.errors import FunctionFailed, Reason, RequestError
from varserve_service.core.inspection.ports import Inspectable, Inspector
from varserve_service.core.ports.loaded_model import Constant, Value

from .overloads import choose
from .parts import Parts

_SHOWN_ELEMENTS = 8
_SHOWN_OUTPUTS = 16


class Overtaken(Exception):
    """Somebody wrote what the check had looked at, before the commit was made."""


@dataclass(frozen=True, slots=True, eq=False)
class Check:
    """A function with its inputs, which must not fail and whose boolean outputs must be true."""

    function: str
    inputs: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    constants: Mapping[str, Constant] = field(default_factory=dict)


class PlanCheck:
    """A check of one plan. Raises RequestError for a function or inputs that do not fit."""

    def __init__(self, parts: Parts, check: Check, plan: Plan) -> None:
        self._parts = parts
        self._check = check
        self._plan = plan
        function = parts.functions.find(check.function)
        self._name = function.spec.name
        index = choose(function.spec, check.inputs, check.constants)
        parts.input_bounds.check(self._name, check.inputs)
        overload = function.spec.overloads[index]
        if not isinstance(function, Inspectable):
            raise RequestError(
                Reason.INSPECTION_UNSUPPORTED,
                f"function {self._name!r} cannot check a commit",
                function=self._name,
            )
        self._inspector: Inspector = function.inspector(index)
        self._reads = set(overload.reads)
        self._used = [parts.by_path[path] for path in sorted({*overload.reads, *overload.writes})]
        self._seen: Mapping[str, int] = {}

    def run(self, deadline: float | None) -> None:
        """Run it with what the plan has worked out. Raises RequestError CHECK_FAILED."""
        changes = {change.variable.spec.path: change for change in self._plan.changes}
        with self._parts.memory.device.reserve(self._copied(), self._thing):
            values = self._values(changes, deadline)
            inputs = {name: array.copy() for name, array in self._check.inputs.items()}
            try:
                outputs = self._inspector.run(inputs, values).outputs
            except FunctionFailed as error:
                raise self._failed(error.message, {}) from error
        untrue = [name for name, value in outputs.items() if _is_untrue(value)]
        if untrue:
            raise self._failed(f"its output {untrue[0]!r} is not true", outputs)

    def still_holds(self) -> None:
        """The exclusive lock is held. Raises Overtaken."""
        revision_of = self._parts.revisions.of
        if any(revision_of(path) != revision for path, revision in self._seen.items()):
            raise Overtaken

    @property
    def _thing(self) -> str:
        return f"the check by function {self._name!r}"

    def _values(self, changes: Mapping[str, Change], deadline: float | None) -> dict[str, Value]:
        """What each variable that the function uses would hold after the commit."""
        parts = self._parts
        with parts.lock.shared(deadline):
            others = [v for v in self._used if _whole(changes.get(v.spec.path)) is None]
            check_initialized([v for v in others if v.spec.path in self._reads])
            there = [variable for variable in others if variable.is_initialized()]
            present = dict(zip(there, parts.loaded.read(there), strict=True))
            written = {change.variable for change in changes.values()}
            looked_at = {*self._used, *written}
            self._seen = {v.spec.path: parts.revisions.of(v.spec.path) for v in looked_at}
        values = {variable.spec.path: value for variable, value in present.items()}
        for variable in self._used:
            change = changes.get(variable.spec.path)
            whole = _whole(change)
            if whole is not None:
                values[variable.spec.path] = whole
            elif change is not None and change.region is not None:
                base = values[variable.spec.path]
                values[variable.spec.path] = variable.overlay(base, change.value, change.region)
        return values

    def _copied(self) -> int:
        """Bytes of the wholes that have to be put together, or are copied when they are read."""
        return sum(
            2 * least_bytes(variable.spec.dtype, variable.spec.shape)
            for variable in self._used
            if variable.writes_in_place
        )

    def _failed(self, problem: str, outputs: Mapping[str, Value]) -> RequestError:
        shown = {name: _text(value) for name, value in list(outputs.items())[:_SHOWN_OUTPUTS]}
        given = f"; it gave {', '.join(f'{k} = {v}' for k, v in shown.items())}" if shown else ""
        return RequestError(
            Reason.CHECK_FAILED,
            f"the check by function {self._name!r} did not pass: {problem}{given}; nothing was "
            "changed",
            function=self._name,
            **{f"output/{name}": text for name, text in shown.items()},
        )


def _whole(change: Change | None) -> Value | None:
    """The whole value that a change leaves, where it has it."""
    if change is None:
        return None
    return change.value if change.region is None else change.whole


def _is_untrue(value: Value) -> bool:
    return value.dtype == "bool" and not bool(np.all(value.numpy()))


def _text(value: Value) -> str:
    """An output as a message shows it."""
    if int(np.prod(value.shape, dtype=object)) > _SHOWN_ELEMENTS:
        return f"{value.dtype} {shape_text(value.shape)}"
    return " ".join(str(value.numpy().tolist()).split())
