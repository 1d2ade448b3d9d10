"""Gradients through loaded functions: as TensorFlow's own tape has them, or refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.ports.loaded_model import LoadedModel

from .looking_inside import look

Load = Callable[[str], LoadedModel]

ONES = np.ones((2, 2), np.float32)


def sums(model: LoadedModel, function: str, inputs: dict[str, np.ndarray], wrt: list[str]) -> dict:  # type: ignore[type-arg]
    """The sum of the absolute values of each gradient of `y`, by name."""
    found = look(model, function, inputs, gradients_of="y", wrt=wrt).gradients
    return {
        each.name: None if each.value is None else float(np.abs(each.value.numpy()).sum())
        for each in found
    }


def test_inputs_variables_and_inner_tensors(load: Load) -> None:
    """Two calls of one layer, for ones: 9 for the input, 36 and 12 for the variables."""
    found = sums(load("inner"), "twice", {"x": ONES}, ["x", "w", "b", "sum_of_both"])
    assert found == pytest.approx({"x": 9, "w": 36, "b": 12, "sum_of_both": 2}, rel=1e-5)


def test_a_gathered_table_has_a_dense_gradient(load: Load) -> None:
    """The gradient of a table of which rows are gathered has the table's shape."""
    ids = {"ids": np.array([1, 3], np.int32)}
    seen = look(load("inner"), "gather", ids, gradients_of="y", wrt=["table"])
    value = seen.gradients[0].value
    assert value is not None
    assert value.shape == (10, 2)
    assert np.flatnonzero(value.numpy().sum(axis=1)).tolist() == [1, 3]


def test_through_loops_maps_and_xla(load: Load) -> None:
    """A scan, a map and a compiled call have gradients; XLA is opened for them, with a note."""
    model = load("inner")
    assert sums(model, "scanned", {"x": np.ones((3, 3), np.float32)}, ["x"])["x"] > 0
    assert sums(model, "mapped", {"x": ONES}, ["x", "b"])["b"] > 0
    seen = look(model, "around_compiled", {"x": ONES}, gradients_of="y", wrt=["x"])
    assert seen.gradients[0].value is not None
    assert seen.notes


def test_inner_tensors_of_a_loop_have_a_gradient_for_each_iteration(load: Load) -> None:
    """A tensor in a loop has as many gradients as the loop has iterations."""
    seen = look(load("inner"), "loop", {"n": np.int32(3)}, gradients_of="s", wrt=["turns/square"])
    found = [(each.iteration, each.value) for each in seen.gradients]
    assert [(at, value.numpy().item()) for at, value in found if value] == [
        ((0,), 1.0),
        ((1,), 1.0),
        ((2,), 1.0),
    ]


def test_custom_gradients_that_were_saved(load: Load) -> None:
    """A gradient of the model's own is taken where it was saved: 40, not the usual 400."""
    x = np.ones(4, np.float32)
    assert sums(load("inner"), "clipped", {"x": x}, ["x", "b"]) == {"x": 40, "b": 40}


def test_custom_gradients_that_were_not_saved(load: Load) -> None:
    """Where the model's own gradient is missing the call is refused, with the way to save it."""
    load("inner")  # another model whose gradients are there
    with pytest.raises(RequestError, match="experimental_custom_gradients") as failed:
        sums(load("inner_without_gradients"), "clipped", {"x": np.ones(4, np.float32)}, ["x"])
    assert failed.value.reason is Reason.GRADIENT_UNAVAILABLE


def test_what_has_no_gradient(load: Load) -> None:
    """Integers, what was not run and what is no output are refused, each with its reason."""
    model = load("inner")
    with pytest.raises(RequestError) as failed:
        look(model, "loop", {"n": np.int32(3)}, gradients_of="s", wrt=["n"])
    assert failed.value.reason is Reason.GRADIENT_UNAVAILABLE
    assert sums(model, "branch", {"x": np.float32(2)}, ["b"]) == {"b": 2}
    with pytest.raises(RequestError) as failed:
        sums(model, "branch", {"x": np.float32(2)}, ["choose/of_else"])
    assert failed.value.reason is Reason.TENSOR_NOT_RUN
    with pytest.raises(RequestError, match="one of the outputs: y") as failed:
        look(model, "twice", {"x": ONES}, gradients_of="nothing", wrt=["x"])
    assert failed.value.reason is Reason.INPUT_MISMATCH


def test_a_gradient_leaves_the_function_as_it_is(load: Load) -> None:
    """Gradients do not make the loaded function's graph grow, however often they are asked for."""
    model = load("inner")
    from .looking import function

    concrete = function(model, "twice").callees[0].call.keep  # type: ignore[attr-defined]
    before = len(concrete.outputs)
    for _ in range(3):
        sums(model, "twice", {"x": ONES}, ["x", "w"])
    assert len(concrete.outputs) == before
