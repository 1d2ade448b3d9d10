"""Fake models for tests of the wire."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.fakes import FakeFunction, FakeModel, FakeVariable
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import TensorSpec

INT64 = TensorSpec("int64", ())


def strings(*elements: bytes) -> np.ndarray[Any, Any]:
    """A string array of shape [n]."""
    array = np.empty(len(elements), object)
    array[:] = elements
    return array


def counter(
    *more: FakeVariable, functions: tuple[FakeFunction, ...] = (), **options: Any
) -> LiveModel:
    """The model `counter` of the real SavedModels, in numpy, and whatever else is asked for."""
    return LiveModel(counter_model(*more, functions=functions), **options)


def counter_version(
    version: int, *more: FakeVariable, functions: tuple[FakeFunction, ...] = (), **options: Any
) -> LiveModel:
    """The model `counter` as another version."""
    loaded = counter_model(*more, functions=functions)
    loaded.version = version
    return LiveModel(loaded, **options)


def counter_model(*more: FakeVariable, functions: tuple[FakeFunction, ...] = ()) -> FakeModel:
    """The same, as it is loaded."""
    count = FakeVariable("count", np.zeros((), np.int64))
    v = FakeVariable("v", np.ones(3, np.float32))

    def add(n: Any) -> dict[str, Any]:
        count.array = count.array + n  # type: ignore[operator]
        return {"count": count.array}

    def total(x: Any) -> dict[str, Any]:
        return {"output_0": np.sum(x, dtype=np.float32).reshape(())}

    own = [
        FakeFunction(
            "total",
            total,
            inputs={"x": TensorSpec("float32", (None,))},
            outputs={"output_0": TensorSpec("float32", ())},
        ),
        FakeFunction("add", add, inputs={"n": INT64}, outputs={"count": INT64}, writes=("count",)),
    ]
    return FakeModel([count, v, *more], [*own, *functions], name="counter")
