"""Arguments of functions: from Python's to flat, named tensors and constants.

Owns which flat inputs a call has. Which overload fits, the service decides.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from varserve import structures, tensors
from varserve._client import errors, wording
from varserve.tensors import Array

from .specs import Constant, FlatNames, FunctionSpec, InputSpec, ParameterKind, TensorSpec


class Run(NamedTuple):
    """A call of a function. `repeatable`: it may arrive twice without harm.

    messages: the answer has what the function prints. linearizable: it runs on a state that is not
    older than any write that completed before.
    """

    function: str
    inputs: Mapping[str, Array]
    constants: Mapping[str, Constant]
    outputs: tuple[str, ...] = ()
    repeatable: bool = False
    messages: bool = False
    linearizable: bool = False

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
    messages: bool = False,
) -> Run:
    """A call of a function of which nothing is known: inputs are arrays of their dtypes."""
    arrays = {}
    for name, value in inputs.items():
        with errors.about(f"function {function!r}: input {name!r}", function=function, input=name):
            arrays[name] = tensors.as_array(value)
    given = {name: constant_of(value) for name, value in constants.items()}
    return Run(function, arrays, given, tuple(outputs), repeatable, messages)


def positional(spec: FunctionSpec, args: Sequence[Any], inputs: Collection[str]) -> dict[str, Any]:
    """The arguments that are given by position, by name. Raises InputMismatch.

    inputs: the names that are given beside them.
    """
    if not args:
        return {}
    names = [each.name for each in spec.parameters if each.kind is ParameterKind.POSITIONAL]
    rest = [each.name for each in spec.parameters if each.kind is ParameterKind.VARIADIC]
    if len(args) > len(names) and not rest:
        most = f"at most {len(names)} by position" if names else "its inputs by name"
        raise errors.InputMismatch(
            f"function {spec.name!r} takes {most}, found {len(args)}; "
            f"expected inputs: {', '.join(spec.inputs) or 'none'}",
            metadata={"function": spec.name},
        )
    given = dict(zip(names, args, strict=False))
    if len(args) > len(names):
        given[rest[0]] = tuple(args[len(names) :])
    for name in given:
        if any(each == name or each.startswith(f"{name}/") for each in inputs):
            raise errors.InputMismatch(
                f"function {spec.name!r}: input {name!r} is given twice",
                metadata={"function": spec.name, "input": name},
            )
    return given


def bind(
    spec: FunctionSpec, given: Mapping[str, Any]
) -> tuple[dict[str, Array], dict[str, Constant]]:
    """The flat tensors and constants of a call.

    Raises InputMismatch for an unknown name, and what `tensors.as_array` does for the values.
    """
    kinds = spec.inputs
    arrays: dict[str, Array] = {}
    constants: dict[str, Constant] = {}
    for name, value in _flat(spec, given).items():
        if name not in kinds:
            raise errors.InputMismatch(
                f"function {spec.name!r} has no input {name!r}{wording.suggestion(name, kinds)}",
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


def _flat(spec: FunctionSpec, given: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves of the arguments, named as the service names them: `batch/mask`, `z/0`.

    A list may be a tensor in one overload and a structure of tensors in another, or left out in a
    third. As in TensorFlow, it is the structure when its elements are tensors already, or are just
    the constants of that overload, and otherwise the tensor. What has names for its parts is never
    a tensor.
    """
    candidates: list[dict[str, Any]] = []
    for names in spec.flat_names:
        leaves = _leaves(given.items(), names)
        if leaves is not None:
            candidates.append(leaves)
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        # What they have in common speaks for none of them.
        common = set(candidates[0]).intersection(*candidates[1:])
        return min(candidates, key=lambda leaves: _unlikely(leaves, common, spec.inputs))
    # No overload has just these. What is said of it speaks of the names that there are.
    return dict(_closest(given.items(), FlatNames.of(spec.inputs)))


def _unlikely(
    leaves: Mapping[str, Any], common: Collection[str], kinds: Mapping[str, Sequence[InputSpec]]
) -> tuple[bool, bool, int]:
    converted = any(
        not _fits(kinds[name], value) for name, value in leaves.items() if name not in common
    )
    return converted, any(map(_is_structure, leaves.values())), len(leaves)


def _fits(inputs: Sequence[InputSpec], value: Any) -> bool:
    """Whether a value is one of these as it is, without becoming a tensor first."""
    return any(
        each.kind.matches(value) if isinstance(each.kind, Constant) else _is_tensor(value)
        for each in inputs
    )


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "dtype") or hasattr(value, "__array__")


def _leaves(items: Iterable[tuple[str, Any]], names: FlatNames) -> dict[str, Any] | None:
    """Leaves by name; None where these names have no place for a part."""
    found: dict[str, Any] = {}
    for name, value in items:
        if name in names.leaves:
            found[name] = value
            continue
        parts = structures.parts(value)
        if parts is None or (parts and name not in names.structures):
            return None
        below = _leaves(((structures.join(name, part), item) for part, item in parts), names)
        if below is None:
            return None
        found |= below
    return found


def _closest(items: Iterable[tuple[str, Any]], names: FlatNames) -> Iterator[tuple[str, Any]]:
    """Leaves by name, as far as any overload has a place for them."""
    for name, value in items:
        parts = structures.parts(value)
        if name in names.structures and name not in names.leaves and parts is not None:
            below = ((structures.join(name, part), item) for part, item in parts)
            yield from _closest(below, names)
        else:
            yield name, value


def _is_structure(value: Any) -> bool:
    """Whether a value is no tensor: it has named parts, or tensors in it, however deep."""
    if structures.parts(value) is None:
        return False
    if hasattr(type(value), "_fields") or not isinstance(value, Sequence):
        return True
    return any(_is_tensor(each) or _is_structure(each) for each in value)


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
    if _is_tensor(value):
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
