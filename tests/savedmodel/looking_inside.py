"""A short way for tests to look into a function of a loaded model, as the core does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np

from varserve_service.core.inspection.ports import (
    Inspectable,
    Inspected,
    Inspection,
    InspectionLimits,
    Inspector,
    Iteration,
)
from varserve_service.core.inspection.selection import Catalogue
from varserve_service.core.ports.loaded_model import LoadedModel

from .looking import function

LIMITS = InspectionLimits()


def inspector(model: LoadedModel, name: str, overload: int = 0) -> Inspector:
    return cast(Inspectable, function(model, name)).inspector(overload)


def catalogue(model: LoadedModel, name: str) -> Catalogue:
    return Catalogue(name, inspector(model, name).tensors())


def look(
    model: LoadedModel,
    name: str,
    inputs: Mapping[str, Any],
    *,
    assume: Mapping[str, Any] | None = None,
    limits: InspectionLimits = LIMITS,
    go_on: Callable[[], None] = lambda: None,
    **asked: Any,
) -> Inspected:
    """Inspect the first overload on the model's present values, some of them assumed, by path."""
    spec = function(model, name).spec
    overload = spec.overloads[0]
    used = {*overload.reads, *overload.writes}
    variables = [v for v in model.variables if v.spec.path in used]
    values = {v.spec.path: v.read() for v in variables}
    for variable in variables:
        if assume and variable.spec.path in assume:
            array = np.array(assume[variable.spec.path], dtype=variable.spec.dtype)
            values[variable.spec.path] = variable.stage(array)
    names = {v.spec.name: v.spec.path for v in variables} | {p: p for p in values}
    asked = {key: tuple(v) if isinstance(v, list) else v for key, v in asked.items()}
    selection = catalogue(model, name).resolve(Inspection(**asked), overload, names)
    arrays = {key: np.array(value) for key, value in inputs.items()}
    return inspector(model, name).inspect(arrays, values, selection, limits, go_on)


def outputs(inspected: Inspected) -> dict[str, Any]:
    return {name: value.numpy().tolist() for name, value in inspected.outputs.items()}


def probes(inspected: Inspected) -> dict[str, list[tuple[Iteration, Any]]]:
    """What each probed tensor was: iteration and value, by name."""
    found: dict[str, list[tuple[Iteration, Any]]] = {}
    for probe in inspected.probes:
        assert probe.value is not None
        found.setdefault(probe.name, []).append((probe.iteration, probe.value.numpy().tolist()))
    return found
