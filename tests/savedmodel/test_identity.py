"""Which variables are one and the same: each that is listed is alive, and no state is hidden."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from varserve_service.core.errors import FunctionFailed
from varserve_service.core.ports.loaded_model import LoadedModel, OmissionKind, Variable

from .looking import function

Load = Callable[[str], LoadedModel]


def by_name(model: LoadedModel) -> dict[str, Variable]:
    return {variable.spec.name: variable for variable in model.variables}


def left_out(model: LoadedModel) -> dict[str, str]:
    return {omission.path: omission.reason for omission in model.omissions}


def test_a_train_step_over_keras_has_each_variable_once(load: Load) -> None:
    """Of a Keras variable and what it wraps, the one that functions use is listed."""
    model = load("keras_3_step")
    names = [variable.spec.name.removeprefix("net/") for variable in model.variables]
    assert len(names) == len(set(names)) == 4 + 2 + 4 + 3
    assert {variable.spec.path for variable in model.variables} >= {
        *(f"weights/{n}" for n in range(4)),
        *(f"state/{n}" for n in range(2, 6)),
    }
    reasons = left_out(model)
    assert len(reasons) == 4 + 2 + 4
    assert all("that no function uses" in reason for reason in reasons.values())
    assert {omission.kind for omission in model.omissions} == {OmissionKind.VARIABLE}


def test_state_that_no_function_uses_is_listed(load: Load) -> None:
    """A private attribute, equal in name, type and value to a variable in use, is its own state."""
    model = load("keras_3_step")
    paths = {variable.spec.path for variable in model.variables}
    assert {"own", "_shadow", "spare"} <= paths
    target = load("keras_3_target")
    assert len(target.variables) == 8
    assert not target.omissions


@pytest.mark.parametrize("name", ["keras_3", "keras_3_step", "keras_3_target", "counter", "tf1"])
def test_each_listed_variable_that_a_function_reads_is_alive(load: Load, name: str) -> None:
    """A write to a variable that a function reads changes what the function gives."""
    model = load(name)
    read = {path for f in model.functions for o in f.spec.overloads for path in o.reads}
    assert read
    random = np.random.default_rng(1)
    for variable in model.variables:
        if variable.spec.path not in read or "iteration" in variable.spec.name:
            continue
        before = outputs(model, variable.spec.path)
        value = random.uniform(1, 2, variable.shape()).astype(variable.spec.dtype)
        old = variable.read()
        variable.write(variable.stage(value + 1))
        after = outputs(model, variable.spec.path)
        variable.write(old)
        assert any(not np.array_equal(before[key], after[key], equal_nan=True) for key in before), (
            variable.spec
        )


def outputs(model: LoadedModel, path: str) -> dict[str, np.ndarray]:
    """What the functions give that read a variable; what they write is put back."""
    found = {}
    values = [(each, each.read()) for each in model.variables]
    for candidate in model.functions:
        overload = candidate.spec.overloads[0]
        if path not in overload.reads:
            continue
        name = candidate.spec.name
        shapes = [(i.name, i.kind.dtype, i.kind.shape) for i in overload.inputs]
        inputs = {
            key: np.linspace(0.5, 1, int(np.prod([s or 3 for s in shape])))
            .reshape([s or 3 for s in shape])
            .astype(dtype)
            for key, dtype, shape in shapes
        }
        try:
            result = function(model, name).stage(0, inputs)()
        except FunctionFailed:  # It is made to fail.
            result = {}
        found |= {f"{name} {key}": value.numpy().copy() for key, value in result.items()}
        found |= {
            f"{name} writes {each.spec.path}": each.read().numpy().copy()
            for each in model.variables
            if each.spec.path in overload.writes
        }
        for each, value in values:
            each.write(value)
    return found
