"""Functions of a loaded model: their specs and how one concrete function is staged and run."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import tensorflow as tf

from varserve_service.core.arrays.shapes import PartialShape
from varserve_service.core.errors import FunctionFailed, OutOfMemory
from varserve_service.core.ports.loaded_model import (
    Constant,
    FunctionSpec,
    InputSpec,
    OutputSpec,
    Overload,
    TensorSpec,
    Value,
)

from .dtypes import SUPPORTED
from .flat_names import constant, flatten
from .placement import Placement
from .runtime import FlatCall, flat_call
from .values import OUT_OF_MEMORY, TensorValue, to_tensor


@dataclass(frozen=True, slots=True)
class CallEffects:
    """Paths of the variables that a call reads and writes; whether it changes any other state."""

    reads: tuple[str, ...]
    writes: tuple[str, ...]
    changes_other_state: bool


@dataclass(frozen=True, slots=True)
class Compiled:
    """A call through XLA, and the captures that follow its inputs."""

    call: FlatCall
    captures: tuple[tf.Tensor, ...]


@dataclass(frozen=True, slots=True)
class Callee:
    """One concrete function, ready to be called flat.

    `feeds` are the names of its tensor inputs in the order of its arguments, `defaults` tensors
    for those that a call may leave out, `captures` what follows them. `compiled` is what to call
    instead where the inputs have just these shapes.
    """

    overload: Overload
    call: FlatCall
    feeds: tuple[str, ...]
    defaults: Mapping[str, tf.Tensor]
    captures: tuple[tf.Tensor, ...]
    output_names: tuple[str, ...]
    compiled: Mapping[tuple[tuple[int, ...], ...], Compiled] = field(default_factory=dict)

    def with_compiled(self, compiled: Mapping[tuple[tuple[int, ...], ...], Compiled]) -> Callee:
        """The same, with what XLA has compiled of it."""
        return replace(self, compiled=compiled)


class SavedFunction:
    """Implements the core's Function over the concrete functions of one restored function."""

    def __init__(self, spec: FunctionSpec, callees: Sequence[Callee], placement: Placement) -> None:
        self._spec = spec
        self._callees = tuple(callees)
        self._placement = placement

    @property
    def spec(self) -> FunctionSpec:
        return self._spec

    @property
    def callees(self) -> tuple[Callee, ...]:
        """One for each overload."""
        return self._callees

    def replace(self, callees: Sequence[Callee]) -> None:
        """Call these from now on: the same overloads, called another way. Before it is served."""
        self._callees = tuple(callees)

    def stage(
        self, overload: int, inputs: Mapping[str, np.ndarray[Any, Any]]
    ) -> Callable[[], dict[str, Value]]:
        callee = self._callees[overload]
        arguments = [
            to_tensor(inputs[name], self._placement.logical)
            if name in inputs
            else callee.defaults[name]
            for name in callee.feeds
        ]
        call, captures = callee.call, callee.captures
        if callee.compiled:
            shapes = tuple(tuple(each.shape.as_list()) for each in arguments)
            if shapes in callee.compiled:
                call, captures = callee.compiled[shapes].call, callee.compiled[shapes].captures
        arguments.extend(captures)

        def run() -> dict[str, Value]:
            try:
                with self._placement.scope():
                    outputs = call(arguments)
                return {
                    name: TensorValue(tensor)
                    for name, tensor in zip(callee.output_names, outputs, strict=True)
                }
            except OUT_OF_MEMORY as error:
                raise OutOfMemory(
                    f"no memory to run function {self._spec.name!r}", function=self._spec.name
                ) from error
            except tf.errors.OpError as error:
                raise FunctionFailed(
                    f"function {self._spec.name!r} failed: {failure(error)}",
                    function=self._spec.name,
                ) from error

        return run


def failure(error: tf.errors.OpError) -> str:
    """What TensorFlow says went wrong, on one line, without names of nodes and devices."""
    # Where in the graph it happened follows the first such mark.
    text = re.split(r"\n\s*\[\[", str(error.message), maxsplit=1)[0]
    text = re.sub(r"\{\{[^}]*\}\}|\[Op:[^\]]*\]|\[\[.*?\]\]", "", text)
    said = " ".join(text.split()).removeprefix("assertion failed:").strip()
    return said or type(error).__name__.removesuffix("Error")


def describe(
    concrete: Any,
    parameters: Sequence[Any],
    defaults: Mapping[str, Any],
    effects: Callable[[Any], CallEffects],
) -> Callee | None:
    """A concrete function as an overload, None where the contract cannot express it.

    `parameters` are those of the Python function, as far as they are known; `defaults` the values
    of those that a call may leave out, by name.
    """
    args, kwargs = concrete.structured_input_signature
    names = _argument_names(len(args), parameters)
    default_leaves = dict(flatten("", dict(defaults)))
    inputs: list[InputSpec] = []
    feeds: list[str] = []
    default_tensors: dict[str, tf.Tensor] = {}
    # Keyword arguments follow the positional ones, by sorted name: TensorFlow's own order.
    leaves = [leaf for name, arg in zip(names, args, strict=True) for leaf in flatten(name, arg)]
    leaves += list(flatten("", kwargs))
    for name, leaf in leaves:
        default = default_leaves.get(name, _NOTHING)
        if isinstance(leaf, tf.TensorSpec):
            if leaf.dtype.name not in SUPPORTED:
                return None
            tensor = _default_tensor(default, leaf)
            if tensor is not None:
                default_tensors[name] = tensor
            kind = TensorSpec(leaf.dtype.name, partial_shape(leaf.shape))
            inputs.append(InputSpec(name, kind, optional=tensor is not None))
            feeds.append(name)
        elif isinstance(leaf, tf.TypeSpec):
            return None  # A variable, a dataset, ... as an argument.
        else:
            value = constant(leaf)
            optional = default is not _NOTHING and _same(constant(default), value)
            inputs.append(InputSpec(name, value, optional=optional))
    captures = tuple(concrete.captured_inputs)
    if len(feeds) + len(captures) != len(concrete.inputs) or len(set(feeds)) != len(feeds):
        return None
    outputs = _outputs(concrete)
    if outputs is None:
        return None
    found = effects(concrete)
    overload = Overload(
        tuple(inputs), outputs, found.reads, found.writes, found.changes_other_state
    )
    return Callee(
        overload=overload,
        call=flat_call(concrete),
        feeds=tuple(feeds),
        defaults=default_tensors,
        captures=captures,
        output_names=tuple(output.name for output in outputs),
    )


def distinct(callees: Sequence[Callee]) -> list[Callee]:
    """One overload for each way to call, so that a call which leaves inputs out fits one.

    An input that another overload has as a constant, with the default for its value, is not
    optional as a tensor: leaving it out means the constant.
    """
    constants = {
        found.name
        for callee in callees
        for found in callee.overload.inputs
        if found.optional and isinstance(found.kind, Constant)
    }
    kept: dict[tuple[object, ...], Callee] = {}
    for callee in callees:
        inputs = tuple(
            replace(found, optional=False)
            if isinstance(found.kind, TensorSpec) and found.name in constants
            else found
            for found in callee.overload.inputs
        )
        key = tuple((found, type(getattr(found.kind, "value", None))) for found in inputs)
        kept.setdefault(key, replace(callee, overload=replace(callee.overload, inputs=inputs)))
    return list(kept.values())


_NOTHING = object()


def _same(left: Constant, right: Constant) -> bool:
    # True == 1 in Python, and both are constants that tell overloads apart.
    return left == right and type(left.value) is type(right.value)


def _argument_names(count: int, parameters: Sequence[Any]) -> list[str]:
    """Names for so many positional arguments: `x`, `y`, and for those of *rest `rest/0`, ..."""
    names = [
        parameter.name
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ][:count]
    rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "args")
    return names + [f"{rest}/{index}" for index in range(count - len(names))]


def _default_tensor(default: Any, spec: tf.TensorSpec) -> tf.Tensor | None:
    if default is _NOTHING or default is None or isinstance(default, tf.TypeSpec):
        return None
    try:
        with tf.device("CPU:0"):
            tensor = tf.convert_to_tensor(default, spec.dtype)
    except (TypeError, ValueError, tf.errors.OpError):
        return None
    return tensor if spec.shape.is_compatible_with(tensor.shape) else None


def _outputs(concrete: Any) -> tuple[OutputSpec, ...] | None:
    structure = concrete.structured_outputs
    name = "" if isinstance(structure, Mapping) else "output"
    if isinstance(structure, list | tuple):
        leaves = [
            leaf
            for index, item in enumerate(structure)
            for leaf in flatten(f"output_{index}", item)
        ]
    elif name:
        leaves = list(flatten("output_0", structure))
    else:
        leaves = list(flatten("", structure))
    names = [name for name, leaf in leaves if leaf is not None]
    tensors = concrete.outputs
    if len(names) != len(tensors) or len(set(names)) != len(names):
        names = [f"output_{index}" for index in range(len(tensors))]
    if any(tensor.dtype.name not in SUPPORTED for tensor in tensors):
        return None
    return tuple(
        OutputSpec(name, TensorSpec(tensor.dtype.name, partial_shape(tensor.shape)))
        for name, tensor in zip(names, tensors, strict=True)
    )


def partial_shape(shape: tf.TensorShape) -> PartialShape:
    """A static shape of TensorFlow's in the core's words."""
    return None if shape.rank is None else tuple(shape.as_list())
