"""Comparing two runs of a function: by hashes first, and by values where they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from varserve._client.operations.inspections import Wanted, inspect_function
from varserve._client.operations.methods import Scope
from varserve._client.operations.reads import SummaryOptions
from varserve._client.transport.calls import Op
from varserve._client.values.arguments import Run
from varserve._client.values.function_messages import Iteration
from varserve._client.values.inspections import (
    Comparison,
    Inspection,
    Iterations,
    TensorDifference,
)
from varserve._client.values.options import ReadOptions
from varserve._client.values.results import Commit, Snapshot
from varserve._client.values.summaries import Summary
from varserve.tensors import Array

Side: TypeAlias = "int | str | Snapshot | Commit | Mapping[str, npt.ArrayLike] | None"
"""The state of now, a revision, another model, or values to assume."""

_HASHES = SummaryOptions(0, None, True)
_PROBES = 1_000  # names of one request


class ComparedSide(NamedTuple):
    """What runs on one side."""

    scope: Scope
    run: Run
    assume: Mapping[str, Array]
    options: ReadOptions

    def inspect(self, probes: Sequence[str], summary: SummaryOptions | None) -> Op[Inspection]:
        """A look at the run."""
        wanted = Wanted(probes=probes, summary=summary, assume=self.assume)
        return inspect_function(self.scope, self.run, wanted, self.options)


def compare_sides(
    left: ComparedSide, right: ComparedSide, probes: Sequence[str], max_bytes: int
) -> Op[Comparison]:
    """Where two sides differ. At most `max_bytes` of values are fetched from each."""
    seen_left = yield from left.inspect(probes, _HASHES)
    seen_right = yield from right.inspect(probes, _HASHES)
    on_left, on_right = _summaries(seen_left), _summaries(seen_right)
    both = list(dict.fromkeys((*on_left, *on_right)))
    differing = [key for key in both if not _same(on_left.get(key), on_right.get(key))]
    names = _affordable(differing, on_left, on_right, max_bytes)
    largest: dict[tuple[str, Iteration], float | None] = {}
    if names:
        values_left = _values((yield from left.inspect(names, None)))
        values_right = _values((yield from right.inspect(names, None)))
        for key in differing:
            if key in values_left and key in values_right:
                largest[key] = largest_difference(values_left[key], values_right[key])
    return Comparison(
        seen_left.header,
        seen_right.header,
        tuple(
            TensorDifference(
                name=name,
                iteration=iteration,
                left=on_left.get((name, iteration)),
                right=on_right.get((name, iteration)),
                equal=_same(on_left.get((name, iteration)), on_right.get((name, iteration))),
                largest=largest.get((name, iteration)) if (name, iteration) in differing else 0.0,
            )
            for name, iteration in both
        ),
        {
            name: largest_difference(value, seen_right.outputs[name])
            for name, value in seen_left.outputs.items()
            if name in seen_right.outputs
        },
    )


def largest_difference(left: Array, right: Array) -> float | None:
    """The largest absolute difference of two elements; None where there is none to tell."""
    if left.shape != right.shape or left.dtype != right.dtype or left.dtype.kind == "O":
        return None
    if left.size == 0:
        return 0.0
    wide = np.complex128 if left.dtype.kind == "c" else np.float64
    with np.errstate(all="ignore"):
        apart = np.abs(left.astype(wide) - right.astype(wide))
        alike = (left == right) | ((left != left) & (right != right))
    return float(np.where(alike, 0.0, apart).max())


def _same(left: Summary | None, right: Summary | None) -> bool:
    return left is not None and right is not None and left.content_hash == right.content_hash


def _affordable(
    differing: Sequence[tuple[str, Iteration]],
    left: Mapping[tuple[str, Iteration], Summary],
    right: Mapping[tuple[str, Iteration], Summary],
    max_bytes: int,
) -> list[str]:
    """Names of the first tensors that differ, as many as may be fetched."""
    sizes: dict[str, int] = {}
    for key in differing:
        if key in left and key in right:
            size = max(left[key].nbytes, right[key].nbytes)
            sizes[key[0]] = sizes.get(key[0], 0) + size
    names: list[str] = []
    for name, size in sizes.items():
        max_bytes -= size
        if max_bytes < 0 or len(names) == _PROBES:
            break
        names.append(name)
    return names


def _summaries(seen: Inspection) -> dict[tuple[str, Iteration], Summary]:
    return {key: each for key, each in _each(seen) if isinstance(each, Summary)}


def _values(seen: Inspection) -> dict[tuple[str, Iteration], Array]:
    return {key: each for key, each in _each(seen) if isinstance(each, np.ndarray)}


def _each(seen: Inspection) -> Iterator[tuple[tuple[str, Iteration], Any]]:
    for name, probed in seen.probes.items():
        if isinstance(probed, Iterations):
            for iteration, each in zip(probed.iterations, probed, strict=True):
                yield (name, iteration), each
        else:
            yield (name, ()), probed
