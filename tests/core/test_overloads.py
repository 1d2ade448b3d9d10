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
    same = InputSpec("n", Constant(2), optional=True)
    f = function((tensor((None, 3)), same), (tensor((2, 3)), same))
    assert choose(f, ONE, {}) == 1


@pytest.mark.parametrize(
    ("shapes", "given", "chosen"),
    [
        # Unknown ranks are the widest; of equal ranks a size is narrower than none.
        ([(None, None), None], (2, 3), 0),
        ([None, (None, None)], (2, 3), 1),
        ([(None, 3), (None, None), (2, None)], (2, 3), None),
        ([(None, 3), (None, None), (2, None), (2, 3)], (2, 3), 3),
        # What is of another rank does not fit, and is not compared.
        ([(2,), (None, None)], (2, 3), 1),
        ([(2, 3), (2, 3)], (2, 3), 0),
    ],
)
def test_which_shapes_are_narrower(
    shapes: list[PartialShape], given: tuple[int, ...], chosen: int | None
) -> None:
    """One that is at least as narrow as all others that fit, in each size."""
    f = function(*((tensor(shape),) for shape in shapes))
    inputs = {"x": np.zeros(given, np.float32)}
    if chosen is None:
        assert refusal(f, inputs, {}).reason is Reason.OVERLOAD_MISMATCH
    else:
        assert choose(f, inputs, {}) == chosen


def test_an_overload_of_more_inputs_is_not_narrower() -> None:
    """Of one that fits with fewer inputs it is another function."""
    more = (tensor((2, 3)), InputSpec("y", TensorSpec("float32", ()), optional=True))
    for overloads in ((more, (tensor((2, 3)),)), ((tensor((2, 3)),), more)):
        assert refusal(function(*overloads), ONE, {}).reason is Reason.OVERLOAD_MISMATCH


def test_inputs_that_are_optional_may_be_left_out() -> None:
    """A tensor; a constant that has no default fits whatever it is."""
    optional = InputSpec("y", TensorSpec("float32", ()), optional=True)
    assert choose(function((tensor(None), optional)), ONE, {}) == 0
    assert choose(function((tensor(None), training(True))), ONE, {}) == 0
    f = function((tensor(None), training(True)), (tensor((1,)), training(False, default=True)))
    error = refusal(f, ONE, {})
    assert "expected the constant True, which is not the default" in error.message


def test_what_is_said_of_constants() -> None:
    """What was expected and what was found, and no more than is readable."""
    f = function((training(True),))
    error = refusal(f, {}, {"training": Constant("x" * 500)})
    assert "expected the constant True, found 'x" in error.message
    assert len(error.message) < 300
    error = refusal(f, {}, {"n" * 500: Constant(1)})
    assert "expected inputs: training" in error.message
    assert len(error.message) < 300
    assert refusal(function(()), {}, {"n": Constant(1)}).message.endswith("expected inputs: none")
    both = refusal(function((tensor(None),)), ONE, {"x": Constant(1)})
    assert "given both as tensor and as constant" in both.message


def test_a_list_of_overloads_has_a_bound() -> None:
    """The first sixteen of however many there are."""
    f = function(*((tensor((size,)),) for size in range(40)))
    message = refusal(f, ONE, {}).message
    assert message.startswith("none of 40 overloads")
    assert message.count("x: float32 [") == 16
