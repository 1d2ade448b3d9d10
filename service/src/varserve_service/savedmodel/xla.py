"""XLA, for the functions that the operator names: compiled at load, for the shapes that are named.

XLA compiles anew for every shape, for seconds and for good. So no call may cause it: one of another
shape runs as it was saved.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import tensorflow as tf

from varserve_service.core.errors import ModelLoadError
from varserve_service.core.ports.loaded_model import Overload, TensorSpec

from .functions import Callee, Compiled, SavedFunction, failure
from .placement import Placement
from .runtime import xla_call

Shapes = tuple[tuple[int, ...], ...]


def compile_functions(
    model: str,
    functions: Sequence[SavedFunction],
    wanted: Mapping[str, Sequence[int]],
    placement: Placement,
) -> None:
    """Compile the functions of these names or paths, for these sizes of their dimension 0.

    Raises ModelLoadError for what cannot be compiled. Runs each on zeros.
    """
    for name, rows in wanted.items():
        found = [each for each in functions if name in (each.spec.name, each.spec.path)]
        try:
            if not found:
                names = ", ".join(sorted(each.spec.name for each in functions))
                raise _Unfit(f"there is no such function; expected one of: {names or 'none'}")
            found[0].replace(
                [_compiled(callee, rows, placement) for callee in found[0].callees],
            )
        except _Unfit as problem:
            raise ModelLoadError(f"xla of {name!r} of model {model!r}: {problem}") from None


class _Unfit(Exception):
    """Why a function cannot be compiled."""


def _compiled(callee: Callee, rows: Sequence[int], placement: Placement) -> Callee:
    overload = callee.overload
    if overload.writes or overload.changes_other_state:
        raise _Unfit("it changes state")
    for output in overload.outputs:
        if output.tensor.dtype == "string":
            raise _Unfit(f"its output {output.name!r} is of strings")
    compiled: dict[Shapes, Compiled] = {}
    try:
        for shapes in _shapes(overload, callee.feeds, rows):
            call, captures = xla_call(callee.call, shapes)
            with placement.scope():
                zeros = [
                    tf.zeros(shape, dtype)
                    for shape, dtype in zip(shapes, _dtypes(callee), strict=True)
                ]
                call([*zeros, *captures])
            compiled[shapes] = Compiled(call, captures)
    except (tf.errors.OpError, ValueError, TypeError) as error:
        said = failure(error) if isinstance(error, tf.errors.OpError) else str(error)
        said = re.sub(r" graph \S+", "", said)  # a name that TensorFlow made up
        raise _Unfit(f"XLA says: {said[:300]}") from error
    return callee.with_compiled(compiled)


def _dtypes(callee: Callee) -> list[tf.DType]:
    kinds = {each.name: each.kind for each in callee.overload.inputs}
    found = [kinds[name] for name in callee.feeds]
    return [tf.as_dtype(kind.dtype) for kind in found if isinstance(kind, TensorSpec)]


def _shapes(overload: Overload, feeds: Sequence[str], rows: Sequence[int]) -> Iterator[Shapes]:
    """The shapes of all inputs, for each size of dimension 0 where that is any."""
    kinds = {each.name: each.kind for each in overload.inputs}
    partial = {}
    for name in feeds:
        kind = kinds[name]
        assert isinstance(kind, TensorSpec)
        if kind.dtype == "string":
            raise _Unfit(f"its input {name!r} is of strings")
        if kind.shape is None or None in kind.shape[1:]:
            raise _Unfit(f"more than dimension 0 of {name!r} is of any size")
        partial[name] = kind.shape
    free = [name for name, shape in partial.items() if shape and shape[0] is None]
    if free and not rows:
        raise _Unfit(f"dimension 0 of {free[0]!r} is of any size; expected rows, a list of sizes")
    for size in rows if free else (0,):
        yield tuple(
            tuple(size if each is None else each for each in shape) for shape in partial.values()
        )
