"""Handles of functions: `tf.function`'s call over the wire.

Owns how Python arguments become flat, named inputs: tensors, or constants that tell overloads
apart. Which overload fits, the service decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from varserve import tensors
from varserve._client import errors
from varserve._client.handles.base import ModelHandle
from varserve._client.operations.calls import Conditions, Run
from varserve._client.transport.drivers import D_co, Op, operation
from varserve._client.values.results import Outputs
from varserve._client.values.specs import (
    Constant,
    FunctionKind,
    FunctionSpec,
    InputSpec,
    Overload,
    TensorSpec,
)
from varserve.tensors import Array


class Function(ModelHandle[D_co]):
    """One function of a served model: a signature, or a restored `tf.function`."""

    def __init__(self, owner: ModelHandle[D_co], path: str) -> None:
        super().__init__(owner._driver, owner._cache, owner._defaults)
        self._path = path

    @property
    def spec(self) -> FunctionSpec:
        """All that the service last said of the function."""
        return self._cache.functions.at(self._path)

    @property
    def name(self) -> str:
        """A signature's key, or a restored function's path."""
        return self.spec.name

    @property
    def path(self) -> str:
        """`signatures/KEY`, or the path in the object graph."""
        return self._path

    @property
    def kind(self) -> FunctionKind:
        """Where it comes from."""
        return self.spec.kind

    @property
    def overloads(self) -> tuple[Overload, ...]:
        """The concrete functions. A call takes the one that fits its inputs."""
        return self.spec.overloads

    @operation
    def __call__(self, *args: Any, **inputs: Any) -> Op[Outputs]:
        """Run the function, with its inputs by name or, for a `tf.function`, by position.

        Arrays are sent as they are; Python numbers and lists take the input's dtype; None, bool,
        int, float and str become constants where the function has been traced for such. A nested
        argument may be given as the dict or list that it is. For more options: `call`.

        Raises InputMismatch, OverloadMismatch, DtypeMismatch, ShapeMismatch, FunctionFailed.
        """
        return self._run({**_positional(self.spec, args, inputs), **inputs}, (), None, None)

    @operation
    def call(
        self,
        inputs: Mapping[str, Any],
        *,
        outputs: Sequence[str] = (),
        if_revision_match: int | None = None,
        message: str = "",
        timeout: float | None = None,
    ) -> Op[Outputs]:
        """Run the function. As `function(**inputs)`, for any names: `{"z/0": x}`.

        outputs: names of those to send; none for all.
        if_revision_match: only if the model is at this revision.
        message: why, for who reads the history of a function that writes.
        timeout: seconds, all in all.
        """
        return self._run(inputs, outputs, if_revision_match, timeout, message)

    def _run(
        self,
        given: Mapping[str, Any],
        outputs: Sequence[str],
        revision: int | None,
        timeout: float | None,
        message: str = "",
    ) -> Op[Outputs]:
        conditions = self._conditions(revision, message=message)
        yield from self._renewed(timeout)
        spec = self.spec
        arrays, constants = bind(spec, given)
        run = Run(spec.name, arrays, constants, tuple(outputs), spec.repeatable)
        size = sum(tensors.body_length(each) for each in arrays.values())
        if not spec.may_write:
            conditions = Conditions("", conditions.revision, conditions.epoch)
        return (yield from self._cache.run(run, self._budget(timeout, size), conditions))

    def __repr__(self) -> str:
        overloads = self.overloads
        head = f"<varserve.Function {self.name!r} "
        if len(overloads) == 1:
            return f"{head}{overloads[0]}>"
        return (
            "\n".join([f"{head}{len(overloads)} overloads:", *(f"  {o}" for o in overloads)]) + ">"
        )


class Functions(ModelHandle[D_co], Mapping[str, Function[D_co]]):
    """A model's functions: iterates names, finds by name or path.

    Raises FunctionNotFound, with the closest names.
    """

    def __getitem__(self, name: str) -> Function[D_co]:
        return Function(self, self._cache.functions.find(name).path)

    def __iter__(self) -> Iterator[str]:
        return iter(self._cache.functions.names)

    def __len__(self) -> int:
        return len(self._cache.functions.by_path)

    def __contains__(self, name: object) -> bool:
        return name in self._cache.functions

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    def __repr__(self) -> str:
        return "\n".join([f"{len(self)} functions:", *(f"  {each!r}" for each in self.values())])


def _positional(
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
