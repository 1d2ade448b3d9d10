"""How arguments become flat, named inputs: positions, structures, and lists of either kind."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import varserve
from varserve._client.values.arguments import bind, positional
from varserve._client.values.specs import (
    Constant,
    FunctionKind,
    FunctionSpec,
    InputSpec,
    Overload,
    Parameter,
    ParameterKind,
    TensorSpec,
)

VECTOR = TensorSpec(np.dtype("float32"), None)
ARRAY = np.ones(2, np.float32)
Pair = namedtuple("Pair", ["z", "a"])


def spec(*overloads: str, parameters: str = "") -> FunctionSpec:
    """Overloads by the names of their inputs; parameters as Python writes them: `x, *xs, bias`."""
    kind, found = ParameterKind.POSITIONAL, []
    for name in parameters.split(", "):
        if name.startswith("*"):
            found.append(Parameter(name[1:], ParameterKind.VARIADIC))
            kind = ParameterKind.KEYWORD
        elif name:
            found.append(Parameter(name, kind))
    made = [
        Overload(tuple(InputSpec(n, VECTOR, False) for n in names.split()), (), (), (), False)
        for names in overloads
    ]
    return FunctionSpec("f", "f", FunctionKind.FUNCTION, tuple(made), tuple(found))


def flat(function: FunctionSpec, *args: Any, **inputs: Any) -> dict[str, list[float]]:
    arrays, constants = bind(function, {**positional(function, args, inputs), **inputs})
    assert not constants
    return {name: array.tolist() for name, array in arrays.items()}


def test_positions() -> None:
    """Arguments by position take the parameters in order, and what is left goes to `*xs`."""
    function = spec("x xs/0 xs/1 bias", parameters="x, *xs, bias")
    expected = {"x": 1.0, "xs/0": 2.0, "xs/1": 3.0, "bias": 4.0}
    assert flat(function, 1, 2, 3, bias=4) == expected
    assert flat(function, **{"x": 1, "xs/0": 2, "xs/1": 3, "bias": 4}) == expected
    assert flat(function, x=1, xs=(2, 3), bias=4) == expected


@pytest.mark.parametrize(
    ("parameters", "args", "inputs", "said"),
    [
        ("x, y", (1, 2), {"x": 3}, "input 'x' is given twice"),
        ("x", (1, 2), {}, "at most 1 by position, found 2"),
        ("", (1,), {}, "takes its inputs by name"),
        ("*xs, x", (1,), {"xs/0": 3}, "input 'xs' is given twice"),
    ],
)
def test_positions_that_do_not_fit(
    parameters: str, args: tuple[int, ...], inputs: dict[str, int], said: str
) -> None:
    """An argument that is given twice, or has no place, is refused, and the error says which."""
    with pytest.raises(varserve.InputMismatch, match=said):
        positional(spec("x y xs/0", parameters=parameters), args, inputs)


def test_structures() -> None:
    """Dicts, lists, named tuples and what they hold are taken apart by their names."""
    function = spec("n/z n/a d/k/0 d/k/1", parameters="n, d")
    assert flat(function, Pair(1, 2), {"k": [3, (4)]}) == {
        "n/z": 1,
        "n/a": 2,
        "d/k/0": 3,
        "d/k/1": 4,
    }


def test_a_list_is_what_the_overload_takes() -> None:
    """A list of arrays is a structure where some overload has it, a list of numbers a tensor."""
    either = spec("x", "x/0", "x/0 x/1", parameters="x")
    assert list(flat(either, [ARRAY])) == ["x/0"]
    assert list(flat(either, [ARRAY, ARRAY])) == ["x/0", "x/1"]
    assert flat(either, [1.0, 2.0]) == {"x": [1, 2]}
    assert flat(either, [[1.0], [2.0]]) == {"x": [[1], [2]]}
    assert list(flat(spec("x", parameters="x"), [ARRAY, ARRAY])) == ["x"]
    assert flat(spec("x/0 x/1", parameters="x"), [1.0, 2.0]) == {"x/0": 1, "x/1": 2}


def test_constants_of_an_overload_are_no_tensor() -> None:
    """Just the constants of an overload mean that one, and other numbers are the tensor."""
    size = [
        InputSpec(f"size/{index}", Constant(value), False) for index, value in enumerate((2, 3))
    ]
    fixed = Overload((InputSpec("x", VECTOR, False), *size), (), (), (), False)
    free = spec("x size", parameters="x, size")
    either = replace(free, overloads=(*free.overloads, fixed))
    arrays, constants = bind(either, positional(either, (1.5, (2, 3)), ()))
    assert list(arrays) == ["x"]
    assert constants == {"size/0": Constant(2), "size/1": Constant(3)}
    assert flat(either, 1.5, (2, 4)) == {"x": 1.5, "size": [2, 4]}
    assert flat(either, 1.5, (2.0, 3.0)) == {"x": 1.5, "size": [2, 3]}
    assert flat(either, 1.5, np.float32([2, 3])) == {"x": 1.5, "size": [2, 3]}


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ({"a": 1.0}, "x/a"),
        (Pair(1.0, 2.0), "x/z x/a"),
        ([Pair(1.0, ARRAY)], "x/0/z x/0/a"),
        ([[ARRAY]], "x/0/0"),
        ([{"k": [1.0]}], "x/0/k/0"),
    ],
)
def test_a_structure_is_no_tensor(value: Any, names: str) -> None:
    """Where an overload has a tensor in the place of a structure, another one is meant."""
    either = spec("x", names, parameters="x")
    assert list(flat(either, value)) == names.split()


def test_composite_tensors() -> None:
    """What has the parts of a ragged or sparse tensor is taken apart, also without TensorFlow."""

    class RaggedTensor:
        flat_values = np.arange(3.0, dtype=np.float32)
        nested_row_splits = (np.array([0, 2, 3], np.float32),)

    function = spec("r/flat_values r/nested_row_splits/0", parameters="r")
    expected = {"r/flat_values": [0, 1, 2], "r/nested_row_splits/0": [0, 2, 3]}
    assert flat(function, RaggedTensor()) == expected
    either = spec("r", "r/flat_values r/nested_row_splits/0", parameters="r")
    assert flat(either, RaggedTensor()) == expected
    as_dict = {"flat_values": [0.0, 1.0, 2.0], "nested_row_splits": [[0.0, 2.0, 3.0]]}
    assert flat(function, as_dict) == expected


def test_an_unknown_part_is_named() -> None:
    """The error for a part that no overload has names it, with what there is."""
    with pytest.raises(varserve.InputMismatch, match="no input 'n/b'"):
        flat(spec("n/z n/a", parameters="n"), {"z": 1, "a": 2, "b": 3})
