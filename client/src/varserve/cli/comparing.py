"""What differs between a live model and values elsewhere: by hash first, then element by element.

Only values whose hashes differ are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from varserve import AccessDenied, Model, RevisionCompacted, StateHeader, content_hash
from varserve.tensors import Array

from . import output
from .stored import Stored


@dataclass(frozen=True, slots=True)
class Difference:
    """One variable that is not the same. `what`: dtype, shape, value, or absent (elsewhere).

    `changed` elements, of which the one that is farthest off is so by `largest` (None where that
    says nothing); -1 and None where nothing was compared but hashes.
    """

    variable: str
    what: str
    live: str
    other: str
    changed: int = -1
    largest: float | None = None


@dataclass(frozen=True, slots=True)
class Compared:
    """All that differs, and how many variables are the same."""

    header: StateHeader
    differences: list[Difference]
    equal: int


def compare(
    model: Model,
    stored: Stored,
    names: Sequence[str],
    *,
    timeout: float | None = None,
    hashes_only: bool = False,
) -> Compared:
    """Compares variables by name with the tensors of a file."""
    summaries = model.summaries(names, content_hash=True, timeout=timeout)
    differences: list[Difference] = []
    unequal: dict[str, Array] = {}
    for name in names:
        live = summaries[name]
        tensor = stored.find(model.variables[name].spec, name)
        here = output.typed(live.dtype, live.shape)
        if tensor is None:
            differences.append(Difference(name, "absent", here, ""))
            continue
        array = tensor.load()
        there = output.typed(array.dtype, array.shape)
        if array.dtype != live.dtype:
            differences.append(Difference(name, "dtype", here, there))
        elif array.shape != live.shape:
            differences.append(Difference(name, "shape", here, there))
        elif content_hash(array) != live.content_hash:
            differences.append(Difference(name, "value", here, there))
            unequal[name] = array
    equal = len(names) - len(differences)
    details: dict[str, Difference] = {}
    if unequal and not hashes_only:
        # At the revision of the summaries, also after later writes.
        # Without the right to read, or when the values are not kept, the hashes alone are shown.
        with suppress(AccessDenied, RevisionCompacted):
            values = model.read(list(unequal), at_revision=summaries.revision, timeout=timeout)
            details = {name: _difference(name, values[name], unequal[name]) for name in unequal}
    differences = [details.get(each.variable, each) for each in differences]
    return Compared(summaries.header, differences, equal)


def compare_revision(
    model: Model,
    names: Sequence[str],
    revision: int,
    *,
    timeout: float | None = None,
    hashes_only: bool = False,
) -> Compared:
    """Compares variables by name with what they were at an earlier revision."""
    now = model.summaries(names, content_hash=True, timeout=timeout)
    then = model.summaries(names, content_hash=True, at_revision=revision, timeout=timeout)
    unequal = [name for name in names if now[name].content_hash != then[name].content_hash]
    differences = [
        Difference(
            name,
            "shape" if now[name].shape != then[name].shape else "value",
            output.typed(now[name].dtype, now[name].shape),
            output.typed(then[name].dtype, then[name].shape),
        )
        for name in unequal
    ]
    same_shape = [each.variable for each in differences if each.what == "value"]
    details: dict[str, Difference] = {}
    if same_shape and not hashes_only:
        with suppress(AccessDenied, RevisionCompacted):
            live = model.read(same_shape, at_revision=now.revision, timeout=timeout)
            past = model.read(same_shape, at_revision=revision, timeout=timeout)
            details = {name: _difference(name, live[name], past[name]) for name in same_shape}
    differences = [details.get(each.variable, each) for each in differences]
    return Compared(now.header, differences, len(names) - len(differences))


def _difference(name: str, live: Array, other: Array) -> Difference:
    here, there = (output.typed(each.dtype, each.shape) for each in (live, other))
    if live.dtype.kind == "O":
        changed = int(np.count_nonzero(live != other))
        return Difference(name, "value", here, there, changed)
    # By their bytes, as the hashes are: NaN is the same as itself, and -0.0 is not 0.0.
    size = live.dtype.itemsize
    rows = [np.ascontiguousarray(each).reshape(-1).view(np.uint8) for each in (live, other)]
    unlike = np.any(rows[0].reshape(-1, size) != rows[1].reshape(-1, size), axis=1)
    a, b = (each.reshape(-1)[unlike] for each in (live, other))
    wide = np.complex128 if live.dtype.kind == "c" else np.float64
    with np.errstate(all="ignore"):
        largest = float(np.max(np.abs(a.astype(wide) - b.astype(wide)))) if a.size else 0.0
    return Difference(name, "value", here, there, int(unlike.sum()), largest)
