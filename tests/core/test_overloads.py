"""Which overload a call means."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from varserve_service.core.arrays.shapes import PartialShape
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model.overloads import choose
from varserve_service.core.ports.loaded_model import (
    Constant,
    FunctionKind,
    FunctionSpec,
    InputSpec,
    Overload,
    TensorSpec,
)

ONE = {"x": np.zeros((2, 3), np.float32)}


def tensor(shape: PartialShape, dtype: str = "float32", name: str = "x") -> InputSpec:
    return InputSpec(name, TensorSpec(dtype, shape))


def training(value: Any, default: bool = False) -> InputSpec:
    return InputSpec("training", Constant(value), optional=default)


def function(*overloads: tuple[InputSpec, ...]) -> FunctionSpec:
    made = tuple(Overload(inputs, ()) for inputs in overloads)
    return FunctionSpec("f", "f", FunctionKind.FUNCTION, made)


def refusal(*args: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        choose(*args)
    return caught.value


def test_a_constant_chooses_the_overload() -> None:
    """A constant that is given chooses; one left out takes the default."""
    f = function((tensor(None), training(True)), (tensor(None), training(False, default=True)))
    assert choose(f, ONE, {"training": Constant(True)}) == 0
    assert choose(f, ONE, {"training": Constant(False)}) == 1
    assert choose(f, ONE, {}) == 1


def test_true_is_not_one() -> None:
    """True and 1 are equal in Python and choose different overloads."""
    f = function((tensor(None), training(True)), (tensor(None), training(1)))
    assert choose(f, ONE, {"training": Constant(1)}) == 1
    assert choose(f, ONE, {"training": Constant(True)}) == 0


def test_the_narrower_of_two_shapes_is_meant() -> None:
    """Where several overloads fit, the one with the narrower shapes is taken."""
    f = function((tensor(None),), (tensor((None, 3)),), (tensor((2, 3)),), (tensor((5, 3)),))
    assert choose(f, ONE, {}) == 2
    assert choose(f, {"x": np.zeros((7, 3), np.float32)}, {}) == 1
    assert choose(f, {"x": np.zeros((7,), np.float32)}, {}) == 0


def test_two_of_which_none_is_narrower_are_refused_with_a_list() -> None:
    """Two overloads that fit and overlap are an error that lists them."""
    f = function((tensor((None, 3)),), (tensor((2, None)),))
    error = refusal(f, ONE, {})
    assert error.reason is Reason.OVERLOAD_MISMATCH
    assert "x: float32 [?, 3]" in error.message
    assert "x: float32 [2, ?]" in error.message


def test_none_that_fits_is_refused_with_a_list() -> None:
    """No overload that fits is an error that lists all and why not."""
    f = function((tensor((1,)),), (tensor(None, "int32"),))
    error = refusal(f, ONE, {})
    assert error.reason is Reason.OVERLOAD_MISMATCH
    assert "found shape [2, 3]" in error.message
    assert "found dtype float32" in error.message


@pytest.mark.parametrize(
    ("inputs", "constants", "reason"),
    [
        ({}, {}, Reason.INPUT_MISMATCH),
        (ONE | {"y": ONE["x"]}, {}, Reason.INPUT_MISMATCH),
        (ONE, {"y": Constant(1)}, Reason.INPUT_MISMATCH),
        ({}, {"x": Constant(1)}, Reason.INPUT_MISMATCH),
        (ONE, {"x": Constant(1)}, Reason.INPUT_MISMATCH),
        ({"x": np.zeros((2, 3), np.float64)}, {}, Reason.DTYPE_MISMATCH),
        ({"x": np.zeros((2, 4), np.float32)}, {}, Reason.SHAPE_MISMATCH),
        ({"x": np.zeros((2, 3, 1), np.float32)}, {}, Reason.SHAPE_MISMATCH),
        ({"x": np.array([b""], object)}, {}, Reason.DTYPE_MISMATCH),
    ],
)
def test_a_function_of_one_overload_says_what_is_wrong(
    inputs: Any, constants: Any, reason: Reason
) -> None:
    """Where there is no choice, the error names the input that does not fit."""
    error = refusal(function((tensor((None, 3)),)), inputs, constants)
    assert error.reason is reason
    assert "function 'f'" in error.message


def test_a_tensor_is_no_constant() -> None:
    """A tensor where the overload has a constant is refused with the constant that it expects."""
    f = function((tensor(None), training(True)))
    error = refusal(f, ONE | {"training": np.zeros(1, bool)}, {"training": Constant(True)})
    assert error.reason is Reason.INPUT_MISMATCH
    error = refusal(f, ONE | {"training": np.zeros(1, bool)}, {})
    assert error.reason is Reason.INPUT_MISMATCH
    assert error.message.endswith("expected the constant True, found a tensor")


def test_overloads_of_other_constants_or_inputs_are_not_narrower() -> None:
    """Only shapes are; where something else differs too, the caller has to say what is meant."""
    twice = Constant(2), Constant(3)
    f = function(*((tensor((None, 3)), InputSpec("n", each, optional=True)) for each in twice))
    assert refusal(f, ONE, {}).reason is Reason.OVERLOAD_MISMATCH
    assert choose(f, ONE, {"n": Constant(3)}) == 1
