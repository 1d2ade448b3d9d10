"""Choosing the overload of a function that fits the inputs of a call.

Knows the ports' specs and numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from varserve_service.core.arrays.shapes import (
    PartialShape,
    dtype_name,
    fits,
    least_bytes,
    shape_text,
)
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.ports.loaded_model import (
    Constant,
    FunctionSpec,
    InputSpec,
    Overload,
    TensorSpec,
)


def choose(
    function: FunctionSpec,
    inputs: Mapping[str, np.ndarray[Any, Any]],
    constants: Mapping[str, Constant],
) -> int:
    """The index of the one overload that fits these inputs.

    A constant that the call leaves out takes the function's default; where it has none, any value
    fits. Of several that fit, one whose shapes are all narrower is meant, as in TensorFlow.

    Raises RequestError: INPUT_MISMATCH, DTYPE_MISMATCH or SHAPE_MISMATCH from a function of one
    overload, OVERLOAD_MISMATCH with a list of them when of several none fits, or more than one.
    """
    overloads = function.overloads
    defaulted = {
        spec.name
        for overload in overloads
        for spec in overload.inputs
        if isinstance(spec.kind, Constant) and spec.optional
    }
    problems = [_problem(function, o, inputs, constants, defaulted) for o in overloads]
    fitting = [index for index, problem in enumerate(problems) if problem is None]
    if len(fitting) == 1:
        return fitting[0]
    for index in fitting:
        if all(_at_least_as_specific(overloads[index], overloads[other]) for other in fitting):
            return index
    if len(overloads) == 1 and problems[0] is not None:
        raise problems[0]
    if fitting:
        what = f"{len(fitting)} overloads of function {function.name!r} fit these inputs"
        listed = [f"({describe(overloads[index])})" for index in fitting]
    else:
        what = f"none of {len(overloads)} overloads of function {function.name!r} fits these inputs"
        listed = [
            f"({describe(overload)}): {problem.message if problem else ''}"
            for overload, problem in zip(overloads, problems, strict=True)
        ]
    raise RequestError(
        Reason.OVERLOAD_MISMATCH,
        f"{what}; expected exactly one: {'; '.join(listed[:16])}",
        function=function.name,
    )


def _at_least_as_specific(overload: Overload, other: Overload) -> bool:
    """Every tensor that fits `overload` fits `other`, and their constants are the same."""
    others = {spec.name: spec.kind for spec in other.inputs}
    for spec in overload.inputs:
        kind, than = spec.kind, others.get(spec.name)
        if isinstance(kind, Constant) or not isinstance(than, TensorSpec):
            if kind != than:
                return False
        elif not _within(kind.shape, than.shape):
            return False
    return len(overload.inputs) == len(others)


def _within(shape: PartialShape, other: PartialShape) -> bool:
    if other is None or shape is None:
        return other is None
    return len(shape) == len(other) and all(
        than is None or size == than for size, than in zip(shape, other, strict=True)
    )


def describe(overload: Overload) -> str:
    """An overload as messages write it: `x: float32 [?, 3], training = True`."""
    return ", ".join(
        f"{spec.name} = {constant_text(spec.kind)}"
        if isinstance(spec.kind, Constant)
        else f"{spec.name}: {spec.kind.dtype} {shape_text(spec.kind.shape)}"
        for spec in overload.inputs
    )


def constant_text(constant: Constant) -> str:
    """A constant as Python writes it."""
    return str(constant.value) if constant.is_repr else repr(constant.value)


def _problem(
    function: FunctionSpec,
    overload: Overload,
    inputs: Mapping[str, np.ndarray[Any, Any]],
    constants: Mapping[str, Constant],
    defaulted: set[str],
) -> RequestError | None:
    def error(reason: Reason, problem: str) -> RequestError:
        return RequestError(
            reason, f"function {function.name!r}: {problem}", function=function.name
        )

    specs = {spec.name: spec for spec in overload.inputs}
    for name in (*inputs, *constants):
        if name not in specs:
            expected = ", ".join(specs) or "none"
            return error(
                Reason.INPUT_MISMATCH, f"no input {name[:200]!r}; expected inputs: {expected}"
            )
        if name in inputs and name in constants:
            return error(
                Reason.INPUT_MISMATCH, f"input {name!r} is given both as tensor and as constant"
            )
    for spec in overload.inputs:
        problem = (
            _constant_problem(spec, spec.kind, inputs, constants, defaulted)
            if isinstance(spec.kind, Constant)
            else _tensor_problem(spec, spec.kind, inputs, constants)
        )
        if problem is not None:
            return error(*problem)
    return None


def _constant_problem(
    spec: InputSpec,
    expected: Constant,
    inputs: Mapping[str, np.ndarray[Any, Any]],
    constants: Mapping[str, Constant],
    defaulted: set[str],
) -> tuple[Reason, str] | None:
    if spec.name in inputs:
        return (
            Reason.INPUT_MISMATCH,
            f"input {spec.name!r}: expected the constant {constant_text(expected)}, found a tensor",
        )
    found = constants.get(spec.name)
    if found is None:
        if spec.optional or spec.name not in defaulted:
            return None
        return (
            Reason.INPUT_MISMATCH,
            f"input {spec.name!r}: expected the constant {constant_text(expected)}, "
            "which is not the default",
        )
    # True == 1 in Python, but they choose different overloads.
    if found == expected and type(found.value) is type(expected.value):
        return None
    return (
        Reason.INPUT_MISMATCH,
        f"input {spec.name!r}: expected the constant {constant_text(expected)}, "
        f"found {constant_text(found)[:200]}",
    )


def _tensor_problem(
    spec: InputSpec,
    expected: TensorSpec,
    inputs: Mapping[str, np.ndarray[Any, Any]],
    constants: Mapping[str, Constant],
) -> tuple[Reason, str] | None:
    array = inputs.get(spec.name)
    same_dtype = array is not None and dtype_name(array) == expected.dtype
    if array is not None and same_dtype and fits(array.shape, expected.shape):
        return None
    text = f"{expected.dtype} {shape_text(expected.shape)}"
    if spec.name in constants:
        return (
            Reason.INPUT_MISMATCH,
            f"input {spec.name!r}: expected {text}, found the constant "
            f"{constant_text(constants[spec.name])[:200]}",
        )
    if array is None:
        if spec.optional:
            return None
        return Reason.INPUT_MISMATCH, f"input {spec.name!r} is missing; expected {text}"
    if not same_dtype:
        return (
            Reason.DTYPE_MISMATCH,
            f"input {spec.name!r}: expected {text}, found dtype {dtype_name(array)}",
        )
    return (
        Reason.SHAPE_MISMATCH,
        f"input {spec.name!r}: expected {text}, found shape {list(array.shape)}",
    )


def least_output_bytes(overload: Overload) -> int:
    """Bytes that the outputs take, as far as their shapes are known before it runs."""
    return sum(least_bytes(each.tensor.dtype, each.tensor.shape) for each in overload.outputs)
