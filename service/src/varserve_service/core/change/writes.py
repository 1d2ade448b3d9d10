"""Writes as callers request them, and the checks against their variables.

Knows the ports and numpy.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from varserve_service.core.arrays.regions import Region, Rows, region_shape
from varserve_service.core.arrays.shapes import dtype_name, fits, outline, shape_text
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.ports.loaded_model import Operation, Variable

_NOT_ADDABLE = ("bool", "string")


@dataclass(slots=True, eq=False)
class Write:
    """One write as the caller asked for it.

    `variable` is a name or path. `value` is taken over: it may become the variable's memory, and
    what remains here has its dtype and shape alone. `if_revision_match`: only if the variable's
    last write was at this revision.
    """

    variable: str
    operation: Operation
    value: np.ndarray[Any, Any]
    region: Region | None = None
    if_revision_match: int | None = None

    def take(self) -> np.ndarray[Any, Any]:
        """The value, once: its memory is not held here any more."""
        value = self.value
        self.value = outline(value.dtype, value.shape)
        return value


def check_write(write: Write, variable: Variable) -> None:
    """Check what the variable's spec alone can tell.

    Raises RequestError: DTYPE_MISMATCH, OPERATION_UNSUPPORTED, SHAPE_MISMATCH, REGION_INVALID.
    """
    spec = variable.spec
    if dtype_name(write.value) != spec.dtype:
        raise RequestError(
            Reason.DTYPE_MISMATCH,
            f"variable {spec.name!r}: expected dtype {spec.dtype}, found {dtype_name(write.value)}",
            variable=spec.name,
        )
    if write.operation is not Operation.SET and spec.dtype in _NOT_ADDABLE:
        raise RequestError(
            Reason.OPERATION_UNSUPPORTED,
            f"variable {spec.name!r} of dtype {spec.dtype} can only be SET, "
            f"found {write.operation.name}",
            variable=spec.name,
        )
    if write.operation is Operation.SET and isinstance(write.region, Rows):
        indices = write.region.indices
        if len(np.unique(indices)) != indices.size:
            raise RequestError(
                Reason.REGION_INVALID,
                f"variable {spec.name!r}: expected each row once in a SET, found one twice",
                variable=spec.name,
            )
    static = static_shape(variable)
    if static is not None:
        check_shape(variable, write, static)
    elif write.region is None and not fits(write.value.shape, spec.shape):
        raise _shape_mismatch(variable, shape_text(spec.shape), write.value.shape)


def check_shape(variable: Variable, write: Write, present: tuple[int, ...]) -> None:
    """Check the shape of a write's value against the shape that the variable has.

    Raises RequestError SHAPE_MISMATCH, REGION_INVALID.
    """
    spec, shape = variable.spec, write.value.shape
    if write.region is not None:
        expected = region_shape(write.region, present, variable=spec.name)
        if shape != expected:
            raise _shape_mismatch(variable, f"{list(expected)} for this region", shape)
    elif write.operation is Operation.SET:
        if not fits(shape, spec.shape):
            raise _shape_mismatch(variable, shape_text(spec.shape), shape)
    elif shape != present:
        raise _shape_mismatch(variable, str(list(present)), shape)


def _shape_mismatch(variable: Variable, expected: str, found: tuple[int, ...]) -> RequestError:
    return RequestError(
        Reason.SHAPE_MISMATCH,
        f"variable {variable.spec.name!r}: expected shape {expected}, found {list(found)}",
        variable=variable.spec.name,
    )


def static_shape(variable: Variable) -> tuple[int, ...] | None:
    """The shape that a variable has whatever its value; None for one of any size."""
    shape = variable.spec.shape
    if shape is None:
        return None
    sizes = tuple(size for size in shape if size is not None)
    return sizes if len(sizes) == len(shape) else None


def with_unique_rows(write: Write) -> Write:
    """The same write with each row named once: what is added to a row twice is summed up."""
    rows, values = write.region, write.value
    if not isinstance(rows, Rows) or write.operation is Operation.SET:
        return write
    unique, inverse = np.unique(rows.indices, return_inverse=True)
    if unique.size == rows.indices.size:
        return write
    summed = np.zeros((unique.size, *values.shape[1:]), dtype=values.dtype)
    np.add.at(summed, inverse, values)  # one after the other, as a loop would, but for its time
    return replace(write, region=Rows(unique), value=summed)


def check_initialized(variables: Iterable[Variable]) -> None:
    """Raises RequestError VARIABLE_UNINITIALIZED for the first that has no value."""
    for variable in variables:
        if not variable.is_initialized():
            raise uninitialized(variable)


def uninitialized(variable: Variable) -> RequestError:
    """The error for a variable that has no value yet."""
    return RequestError(
        Reason.VARIABLE_UNINITIALIZED,
        f"variable {variable.spec.name!r} has no value yet; a SET of the whole gives it one",
        variable=variable.spec.name,
    )
