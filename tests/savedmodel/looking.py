"""Short ways for tests to look things up in a loaded model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np

from varserve_service.core.ports.loaded_model import Function, LoadedModel, Overload, Variable


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


@contextmanager
def traces() -> Iterator[list[Any]]:
    """Names of the functions that TensorFlow traces within the block."""
    from tensorflow.python.framework.func_graph import FuncGraph

    traced: list[Any] = []
    make = FuncGraph.__init__

    def count(self: Any, name: Any, *args: Any, **kwargs: Any) -> None:
        traced.append(name)
        make(self, name, *args, **kwargs)

    with mock.patch.object(FuncGraph, "__init__", count):
        yield traced
