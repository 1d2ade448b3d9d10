"""How much memory writes take until they are done, as far as that is known beforehand.

Knows the ports.
"""

from __future__ import annotations

from collections.abc import Sequence

from varserve_service.core.arrays.regions import region_shape, touched_rows
from varserve_service.core.arrays.shapes import least_bytes
from varserve_service.core.ports.loaded_model import Operation, Variable

from .changes import FEW, Change
from .writes import Write, static_shape


def taken_bytes(found: Sequence[tuple[Write, Variable]], *, staged: bool) -> int:
    """Bytes that writes take, beside their own values, until they are worked out.

    `staged`: their values are copied to a device. As far as shapes are known beforehand: a whole of
    any shape counts for nothing.
    """
    nbytes = sum(write.value.nbytes for write, _ in found) if staged else 0
    return nbytes + sum(_worked_out_bytes(*each) for each in _by_variable(found))


def _worked_out_bytes(variable: Variable, writes: Sequence[Write]) -> int:
    if all(write.region is None and write.operation is Operation.SET for write in writes):
        return 0
    in_place = variable.writes_in_place
    if len(writes) > 1:
        if in_place and all(write.region is not None for write in writes):
            return 2 * _rows_bytes(variable, writes)
        return _whole_bytes(variable) * (2 if in_place else 1)
    (write,) = writes
    # What is there is a copy, but for a whole that is not written in place; and so is a sum.
    copies = 2 if in_place or write.region is not None else 1
    if write.operation is Operation.SET:
        copies = 0 if in_place else 1
    overlaid = _whole_bytes(variable) if write.region is not None and not in_place else 0
    return copies * write.value.nbytes + overlaid


def brought_bytes(found: Sequence[tuple[Write, Variable]]) -> int:
    """Bytes that come to the host from a device, where several writes are worked out there.

    As far as shapes are known beforehand.
    """
    total = 0
    for variable, writes in _by_variable(found):
        in_rows = variable.writes_in_place and all(write.region is not None for write in writes)
        if in_rows and len(writes) > 1:
            total += _rows_bytes(variable, writes)
        elif len(writes) > FEW and any(write.region is not None for write in writes):
            total += _whole_bytes(variable)
    return total


def replaced_bytes(found: Sequence[tuple[Write, Variable]]) -> int:
    """Bytes of what writes replace, where that is copied as they are done: in place, that is.

    Of a region the rows that it touches are. As far as shapes are known beforehand.
    """
    return sum(
        _rows_bytes(variable, writes)
        if all(write.region is not None for write in writes)
        else _whole_bytes(variable)
        for variable, writes in _by_variable(found)
        if variable.writes_in_place
    )


def preimage_bytes(change: Change) -> int:
    """Bytes of what a change replaces, where that is copied as it is done."""
    variable = change.variable
    if not variable.writes_in_place:
        return 0
    shape = variable.shape()
    if change.region is not None and shape:
        count = region_shape(change.region, shape, variable=variable.spec.name)[0]
        shape = (count, *shape[1:])  # all of the rows are gathered
    return least_bytes(variable.spec.dtype, shape)


def _by_variable(
    found: Sequence[tuple[Write, Variable]],
) -> list[tuple[Variable, list[Write]]]:
    groups: dict[str, tuple[Variable, list[Write]]] = {}
    for write, variable in found:
        groups.setdefault(variable.spec.path, (variable, []))[1].append(write)
    return list(groups.values())


def _rows_bytes(variable: Variable, writes: Sequence[Write]) -> int:
    shape = static_shape(variable)
    if not shape:
        return _whole_bytes(variable)
    regions = [write.region for write in writes if write.region is not None]
    if len(regions) == 1:
        count = region_shape(regions[0], shape, variable=variable.spec.name)[0]
    else:
        count = touched_rows(regions, shape[0]).size
    return least_bytes(variable.spec.dtype, (count, *shape[1:]))


def _whole_bytes(variable: Variable) -> int:
    shape = static_shape(variable)
    return 0 if shape is None else least_bytes(variable.spec.dtype, shape)
