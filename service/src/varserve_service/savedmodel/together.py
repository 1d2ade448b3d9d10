"""Many variables at once: one compiled call for every TOGETHER of a dtype and a device.

A call costs as much for one variable as for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import tensorflow as tf

from varserve_service.core.errors import OutOfMemory
from varserve_service.core.ports.loaded_model import Value, Variable

from .values import OUT_OF_MEMORY, as_tensor
from .variable_access import TOGETHER, compiled
from .variables import SavedVariable

_FEW = 4
"""Fewer than these are read one by one sooner than together."""


def prepare(variables: Sequence[SavedVariable]) -> None:
    """Trace what reading and writing these takes, so that no call need wait for it."""
    for (dtype, device), found in _alike(variables):
        if len(found) == TOGETHER:
            compiled("assign_together", dtype, device)
    # TensorFlow gets a function ready when it is first called.
    read_together([v for v in variables if v.is_initialized() and not v.writes_in_place])


def read_together(variables: Sequence[Variable]) -> list[Value]:
    """What each of these would `read`, in this order."""
    values: dict[int, Value] = {}
    for (dtype, device), found in _alike(variables):
        if len(found) < _FEW:
            continue
        handles = [variable.handle for _, variable in found]
        # The last fills up what is left, and is read more than once.
        handles += handles[-1:] * (TOGETHER - len(handles))
        tensors = compiled("read_together", dtype, device)(*handles)
        for (index, variable), tensor in zip(found, tensors, strict=False):
            values[index] = variable.value_of(tensor)
    return [
        values[index] if index in values else variable.read()
        for index, variable in enumerate(variables)
    ]


def write_together(values: Sequence[tuple[Variable, Value]]) -> None:
    """`write` each of these whole values, each to another variable.

    Raises OutOfMemory, with any of them written.
    """
    written: set[int] = set()
    for (dtype, device), found in _alike([variable for variable, _ in values]):
        if len(found) < TOGETHER:
            continue
        handles = [variable.handle for _, variable in found]
        try:
            tensors = [as_tensor(values[index][1], device) for index, _ in found]
            compiled("assign_together", dtype, device)(*handles, *tensors)
        except OUT_OF_MEMORY as error:
            names = ", ".join(repr(variable.spec.name) for _, variable in found)
            raise OutOfMemory(f"no memory for new values of variables {names}") from error
        for index, saved in found:
            saved.holds(values[index][1])
            written.add(index)
    for index, (variable, value) in enumerate(values):
        if index not in written:
            variable.write(value)


def _alike(
    variables: Sequence[Variable],
) -> Iterator[tuple[tuple[tf.DType, str], list[tuple[int, SavedVariable]]]]:
    """At most TOGETHER variables, with their indices, of each dtype and device in turn."""
    alike: dict[tuple[tf.DType, str], list[tuple[int, SavedVariable]]] = {}
    for index, variable in enumerate(variables):
        # One that is written in place is copied when it is read: not for nothing.
        if isinstance(variable, SavedVariable) and not variable.writes_in_place:
            alike.setdefault(variable.kept_as, []).append((index, variable))
    for kept_as, found in alike.items():
        for start in range(0, len(found), TOGETHER):
            yield kept_as, found[start : start + TOGETHER]
