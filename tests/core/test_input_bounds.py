"""Bounds of inputs: a call outside them is refused before the function sees it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.fakes import FakeFunction, FakeModel
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model.input_bounds import InputBounds
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import TensorSpec

ANY = TensorSpec("float32", None)
SIZES = TensorSpec("int64", (None,))


def bounded(calls: list[Any], **bounds: InputBounds) -> LiveModel:
    """A model with `f(x, sizes)`, which notes its calls, under bounds by input."""

    def call(x: Any, sizes: Any) -> dict[str, Any]:
        calls.append((x, sizes))
        return {"y": np.zeros((), np.float32)}

    function = FakeFunction(
        "f", call, inputs={"x": ANY, "sizes": SIZES}, outputs={"y": TensorSpec("float32", ())}
    )
    return LiveModel(FakeModel([], [function]), input_bounds={"f": bounds})


@pytest.mark.parametrize(
    ("bounds", "fits", "problem"),
    [
        (InputBounds(min_rank=2), np.ones((1, 1)), (np.ones(3), "a rank of at least 2, found 1")),
        (InputBounds(max_rank=1), np.ones(3), (np.ones((1, 1)), "a rank of at most 1, found 2")),
        (InputBounds(max_elements=4), np.ones(4), (np.ones(5), "at most 4 elements, found 5")),
        (InputBounds(min_value=0), np.zeros(2), (np.full(2, -1), "values of at least 0, found -1")),
        (
            InputBounds(max_value=9),
            np.full(2, 9),
            (np.full(2, 10), "values of at most 9, found 10"),
        ),
        (
            InputBounds(max_value=9),
            np.ones(0),
            (np.full(1, np.nan), "values of at most 9, found nan"),
        ),
    ],
)
def test_each_bound(bounds: InputBounds, fits: Any, problem: tuple[Any, str]) -> None:
    """At the bound a call runs; beyond it the call is refused, named, and not run."""
    calls: list[Any] = []
    live = bounded(calls, x=bounds)
    sizes = np.zeros(1, np.int64)
    live.run("f", {"x": fits.astype(np.float32), "sizes": sizes}, {})
    wrong, said = problem
    with pytest.raises(RequestError) as caught:
        live.run("f", {"x": wrong.astype(np.float32), "sizes": sizes}, {})
    assert caught.value.reason is Reason.INPUT_MISMATCH
    assert f"function 'f', input 'x': expected {said}" in caught.value.message
    assert len(calls) == 1


def test_a_shape_that_is_a_value() -> None:
    """The dense shape of a sparse tensor is bounded by its values, before TensorFlow has it."""
    calls: list[Any] = []
    live = bounded(calls, sizes=InputBounds(min_value=0, max_value=1_000_000))
    x = np.ones(1, np.float32)
    for size in (2**62, -1):
        with pytest.raises(RequestError, match="input 'sizes'"):
            live.run("f", {"x": x, "sizes": np.array([size], np.int64)}, {})
    assert calls == []


def test_bounds_of_what_is_not_there() -> None:
    """A function or an input that the model does not have is refused when it is loaded."""
    with pytest.raises(RequestError, match=r"no input 'z'; expected sizes, x"):
        bounded([], z=InputBounds())
    with pytest.raises(RequestError, match="'g'"):
        LiveModel(FakeModel([], []), input_bounds={"g": {}})
