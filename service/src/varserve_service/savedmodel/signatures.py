"""Signatures: a concrete function as an overload, with inputs and outputs by flat name.

Owns which flat name belongs to which argument of the graph. Knows nothing of running.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import tensorflow as tf

from varserve_service.core.arrays.shapes import PartialShape
from varserve_service.core.ports.loaded_model import (
    Constant,
    InputSpec,
    OutputSpec,
    Overload,
    Parameter,
    ParameterKind,
    TensorSpec,
)

from .dtypes import SUPPORTED
from .flat_names import constant, flatten
from .functions import Callee, CallEffects
from .runtime import argument_specs, flat_call, keyword_order, result_specs

_KINDS = {
    inspect.Parameter.POSITIONAL_ONLY: ParameterKind.POSITIONAL,
    inspect.Parameter.POSITIONAL_OR_KEYWORD: ParameterKind.POSITIONAL,
    inspect.Parameter.VAR_POSITIONAL: ParameterKind.VARIADIC,
    inspect.Parameter.KEYWORD_ONLY: ParameterKind.KEYWORD,
}


class Undescribable(Exception):
    """Why a concrete function cannot be described, for people."""


def describe(
    concrete: Any,
    parameters: Sequence[Any],
    defaults: Mapping[str, Any],
    effects: Callable[[Any], CallEffects],
) -> Callee:
    """A concrete function as an overload. Raises Undescribable.

    `parameters` are those of the Python function, as far as they are known; `defaults` the values
    of those that a call may leave out, by name.
    """
    default_leaves = dict(_flat("", dict(defaults)))
    inputs: list[InputSpec] = []
    feeds: list[str] = []
    default_tensors: dict[str, tf.Tensor] = {}
    for name, leaf in _arguments(concrete, parameters):
        default = default_leaves.get(name, _NOTHING)
        if isinstance(leaf, tf.TensorSpec):
            _check_dtype("input", name, leaf.dtype)
            tensor = _default_tensor(default, leaf)
            if tensor is not None:
                default_tensors[name] = tensor
            kind = TensorSpec(leaf.dtype.name, partial_shape(leaf.shape))
            inputs.append(InputSpec(name, kind, optional=tensor is not None))
            feeds.append(name)
        elif isinstance(leaf, tf.TypeSpec):
            raise Undescribable(f"its input {name!r} is a {leaf.value_type.__name__}")
        else:
            value = constant(leaf)
            optional = default is not _NOTHING and _same(constant(default), value)
            inputs.append(InputSpec(name, value, optional=optional))
    captures = tuple(concrete.captured_inputs)
    _check_inputs(concrete, inputs, feeds, len(captures))
    outputs = _outputs(concrete)
    found = effects(concrete)
    overload = Overload(
        tuple(inputs),
        outputs,
        found.reads,
        found.writes,
        found.changes_other_state,
        found.rows.paths if found.rows is not None else (),
    )
    return Callee(
        overload=overload,
        call=flat_call(concrete),
        feeds=tuple(feeds),
        defaults=default_tensors,
        captures=captures,
        endless=found.endless,
        rows=found.rows,
    )


def distinct(callees: Sequence[Callee]) -> list[Callee]:
    """One overload for each way to call, so that a call which leaves inputs out fits one.

    An input that another overload has as a constant, with the default for its value, is not
    optional as a tensor: leaving it out means the constant.
    """
    constants = {
        spec.name
        for callee in callees
        for spec in callee.overload.inputs
        if spec.optional and isinstance(spec.kind, Constant)
    }
    kept: dict[tuple[object, ...], Callee] = {}
    for callee in callees:
        inputs = tuple(
            replace(spec, optional=False)
            if isinstance(spec.kind, TensorSpec) and spec.name in constants
            else spec
            for spec in callee.overload.inputs
        )
        key = tuple((spec, type(getattr(spec.kind, "value", None))) for spec in inputs)
        kept.setdefault(key, replace(callee, overload=replace(callee.overload, inputs=inputs)))
    return list(kept.values())


def function_parameters(node: Any) -> tuple[Parameter, ...]:
    """The arguments of a restored function, as Python gives them."""
    if node.function_type is None or getattr(node, "structured_input_signature", ()) is None:
        # A function without a structure takes its tensors by position or by name.
        names = node._arg_keywords or ()
        return tuple(Parameter(name, ParameterKind.POSITIONAL) for name in names)
    parameters = node.function_type.parameters.values()
    return tuple(
        Parameter(each.name, _KINDS[each.kind]) for each in parameters if each.kind in _KINDS
    )


def signature_parameters(overloads: Sequence[Overload]) -> tuple[Parameter, ...]:
    """The arguments of a signature: by name, but for one that is alone."""
    names = [spec.name for spec in overloads[0].inputs]
    kind = ParameterKind.POSITIONAL if len(names) == 1 else ParameterKind.KEYWORD
    return tuple(Parameter(name, kind) for name in names)


def partial_shape(shape: tf.TensorShape) -> PartialShape:
    """A static shape of TensorFlow's in the core's words."""
    return None if shape.rank is None else tuple(shape.as_list())


_NOTHING = object()


def _same(left: Constant, right: Constant) -> bool:
    # True == 1 in Python, and both are constants that tell overloads apart.
    return left == right and type(left.value) is type(right.value)


def _flat(name: str, value: Any) -> list[tuple[str, Any]]:
    try:
        return flatten(name, value)
    except (TypeError, ValueError) as error:
        raise Undescribable(str(error)) from error


def _arguments(concrete: Any, parameters: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """The leaves of the arguments, in the order in which the graph takes its tensors."""
    if concrete.structured_input_signature is None:
        # A function that was cut out of a graph: it has the names of its inputs, and no structure.
        yield from zip(
            concrete._arg_keywords or (),
            (tf.TensorSpec(each.shape, each.dtype) for each in argument_specs(concrete)),
            strict=False,
        )
        return
    args, kwargs = concrete.structured_input_signature
    names = _argument_names(len(args), parameters)
    for name, argument in zip(names, args, strict=True):
        yield from _flat(name, argument)
    for key in keyword_order(concrete, kwargs):
        yield from _flat(str(key), kwargs[key])


def _argument_names(count: int, parameters: Sequence[Any]) -> list[str]:
    """Names for so many positional arguments: `x`, `y`, and for those of *rest `rest/0`, ..."""
    names = [
        parameter.name
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ][:count]
    rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "args")
    return names + [f"{rest}/{index}" for index in range(count - len(names))]


def _check_dtype(role: str, name: str, dtype: tf.DType) -> None:
    if dtype.name not in SUPPORTED:
        raise Undescribable(
            f"its {role} {name!r} is of type {dtype.name}, which varserve does not carry"
        )


def _check_inputs(
    concrete: Any, inputs: Sequence[InputSpec], feeds: Sequence[str], captures: int
) -> None:
    """Each tensor input has a name of its own, and the type of the argument that it becomes."""
    kinds = {spec.name: spec.kind for spec in inputs}
    if len(kinds) != len(inputs):
        raise Undescribable("two of its inputs have one flat name")
    arguments = argument_specs(concrete)
    arguments = arguments[: len(arguments) - captures]
    if len(feeds) != len(arguments):
        raise Undescribable(f"its graph takes {len(arguments)} tensors, its signature {len(feeds)}")
    for name, argument in zip(feeds, arguments, strict=True):
        kind = kinds[name]
        assert isinstance(kind, TensorSpec)
        if kind.dtype != argument.dtype.name or not argument.shape.is_compatible_with(kind.shape):
            raise Undescribable(
                f"its input {name!r} is {kind.dtype} in its signature, and "
                f"{argument.dtype.name} {argument.shape} in its graph"
            )


def _default_tensor(default: Any, spec: tf.TensorSpec) -> tf.Tensor | None:
    if default is _NOTHING or default is None or isinstance(default, tf.TypeSpec):
        return None
    try:
        with tf.device("CPU:0"):
            tensor = tf.convert_to_tensor(default, spec.dtype)
    except (TypeError, ValueError, tf.errors.OpError):
        return None
    return tensor if spec.shape.is_compatible_with(tensor.shape) else None


def _outputs(concrete: Any) -> tuple[OutputSpec, ...]:
    """The outputs in the order of the graph: of a tuple by place, of a dict by sorted key."""
    tensors = result_specs(concrete)
    _check_outputs(concrete.structured_outputs, tensors)
    try:
        names = _output_names(concrete.structured_outputs)
    except Undescribable:
        names = []
    if len(names) != len(tensors) or len(set(names)) != len(names):
        names = [f"output_{index}" for index in range(len(tensors))]
    for name, tensor in zip(names, tensors, strict=True):
        _check_dtype("output", name, tensor.dtype)
    return tuple(
        OutputSpec(name, TensorSpec(tensor.dtype.name, partial_shape(tensor.shape)))
        for name, tensor in zip(names, tensors, strict=True)
    )


def _check_outputs(structure: Any, tensors: Sequence[Any]) -> None:
    """The outputs are of the types of the structure that was saved with the function."""
    leaves = tf.nest.flatten(structure, expand_composites=True)
    saved = [leaf.dtype.name for leaf in leaves if isinstance(leaf, tf.TensorSpec)]
    found = [each.dtype.name for each in tensors]
    if saved and saved != found:
        raise Undescribable(
            f"its outputs are {', '.join(saved)} in its signature, and "
            f"{', '.join(found) or 'none'} in its graph"
        )


def _output_names(structure: Any) -> list[str]:
    if isinstance(structure, Mapping):
        leaves = _flat("", structure)
    elif isinstance(structure, list | tuple):
        leaves = [
            leaf for index, item in enumerate(structure) for leaf in _flat(f"output_{index}", item)
        ]
    else:
        leaves = _flat("output_0", structure)
    return [name for name, leaf in leaves if leaf is not None]
