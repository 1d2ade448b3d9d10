"""Arguments of functions: from Python's to flat, named tensors and constants.

Owns which flat inputs a call has. Which overload fits, the service decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from varserve import tensors
from varserve._client import errors
from varserve.tensors import Array

from .specs import Constant, FunctionKind, FunctionSpec, InputSpec, TensorSpec


class Run(NamedTuple):
    """A call of a function. `repeatable`: it may arrive twice without harm."""

    function: str
    inputs: Mapping[str, Array]
    constants: Mapping[str, Constant]
    outputs: tuple[str, ...] = ()
    repeatable: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of the inputs in a body."""
        return sum(tensors.body_length(each) for each in self.inputs.values())


class Given(NamedTuple):
    """A function with its inputs, to be run later. `model`: the name of its model."""

    model: str
    run: Run


def prepare_run(
    function: str,
    inputs: Mapping[str, Any],
    constants: Mapping[str, Any],
    outputs: Sequence[str],
    repeatable: bool,
) -> Run:
    """A call of a function of which nothing is known: inputs are arrays of their dtypes."""
    arrays = {}
    for name, value in inputs.items():
        with errors.about(f"function {function!r}: input {name!r}", function=function, input=name):
            arrays[name] = tensors.as_array(value)
    given = {name: constant_of(value) for name, value in constants.items()}
    return Run(function, arrays, given, tuple(outputs), repeatable)


def positional(
    spec: FunctionSpec, args: tuple[Any, ...], inputs: Mapping[str, Any]
) -> dict[str, Any]:
    if not args:
        return {}
    shortest = min(spec.arguments, key=len)
    names = shortest[: len(args)]
    ordered = spec.kind is not FunctionKind.SIGNATURE or len(shortest) == 1
    alike = all(each[: len(args)] == names for each in spec.arguments)
    if not ordered or len(names) < len(args) or not alike:
        raise errors.InputMismatch(
            f"function {spec.name!r} takes its inputs by name: {', '.join(spec.inputs)}",
            metadata={"function": spec.name},
        )
    for name in names:
        if name in inputs:
            raise errors.InputMismatch(f"function {spec.name!r}: input {name!r} is given twice")
    return dict(zip(names, args, strict=True))


def bind(
    spec: FunctionSpec, given: Mapping[str, Any]
) -> tuple[dict[str, Array], dict[str, Constant]]:
    """The flat tensors and constants of a call.

    Raises InputMismatch for an unknown name, and what `tensors.as_array` does for the values.
    """
    kinds = spec.inputs
    arrays: dict[str, Array] = {}
    constants: dict[str, Constant] = {}
    for name, value in _flat(given, kinds):
        if name not in kinds:
            raise errors.InputMismatch(
                f"function {spec.name!r} has no input {name!r}{errors.suggestion(name, kinds)}",
                metadata={"function": spec.name, "input": name},
            )
        constant = _constant(kinds[name], value)
        if constant is not None:
            constants[name] = constant
            continue
        thing = f"function {spec.name!r}: input {name!r}"
        with errors.about(thing, function=spec.name, input=name):
            arrays[name] = _array([each.kind for each in kinds[name]], value)
    return arrays, constants


def _flat(given: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The leaves of nested arguments, named as the service names them: `batch/mask`, `z/0`."""
    for name, value in given.items():
        nested = isinstance(value, (Mapping, list, tuple)) and name not in known
        if nested and any(each.startswith(f"{name}/") for each in known):
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            yield from _flat({f"{name}/{key}": item for key, item in items}, known)
        else:
            yield name, value


def _constant(inputs: Sequence[InputSpec], value: Any) -> Constant | None:
    known = [each.kind for each in inputs if isinstance(each.kind, Constant)]
    for constant in known:
        if constant.matches(value):
            return constant
    # No trace has this one. Where a tensor is possible it is one; else the service says what fits.
    if len(known) < len(inputs):
        return None
    return constant_of(value)


def constant_of(value: Any) -> Constant:
    """A Python value as a constant; one that the contract cannot make, as its repr()."""
    if value is None or type(value) in (bool, int, float, str):
        return Constant(value)
    return Constant(repr(value), is_repr=True)


def _array(kinds: Sequence[TensorSpec | Constant], value: Any) -> Array:
    dtypes = dict.fromkeys(
        tensors.dtype_name(kind.dtype) for kind in kinds if isinstance(kind, TensorSpec)
    )
    if len(dtypes) == 1:
        return tensors.as_array(value, next(iter(dtypes)))
    if hasattr(value, "dtype") or hasattr(value, "__array__"):
        return tensors.as_array(value)
    # A Python value fits several dtypes: the one of its own kind first.
    own = np.asarray(value).dtype.kind
    failure: tensors.TensorError | None = None
    for dtype in sorted(dtypes, key=lambda name: tensors.numpy_dtype(name).kind != own):
        try:
            return tensors.as_array(value, dtype)
        except tensors.TensorError as error:
            failure = failure or error
    raise failure or tensors.TensorError("INPUT_MISMATCH", "the input is no tensor")
