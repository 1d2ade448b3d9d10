"""Short ways for tests to look things up in a loaded model."""

from __future__ import annotations

from typing import Any

import numpy as np

from varserve_service.core.ports import Function, LoadedModel, Overload, Variable


def variable(model: LoadedModel, path: str) -> Variable:
    return next(found for found in model.variables if found.spec.path == path)


def function(model: LoadedModel, name: str) -> Function:
    return next(found for found in model.functions if found.spec.name == name)


def overloads(model: LoadedModel, name: str) -> tuple[Overload, ...]:
    return function(model, name).spec.overloads


def run(model: LoadedModel, name: str, overload: int = 0, **inputs: Any) -> dict[str, Any]:
    """Run with inputs as arrays; `a__b` stands for the input `a/b`."""
    arrays = {key.replace("__", "/"): np.asarray(value) for key, value in inputs.items()}
    outputs = function(model, name).stage(overload, arrays)()
    return {key: value.numpy() for key, value in outputs.items()}


def names(model: LoadedModel) -> dict[str, str]:
    """Name of each variable by its path."""
    return {found.spec.path: found.spec.name for found in model.variables}
