"""Comparing two runs of a function: by hashes first, and by values where they differ.

What a comparison keeps at once is bounded, whatever the function computes: the values of what
differs are fetched a page at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from varserve._client import errors
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
PAGE_BYTES = 64 << 20
"""Values of one side that are kept at once; one tensor may have more."""


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

    def at(self, seen: Inspection) -> ComparedSide:
        """The same, of just the state that was seen: what is fetched later is of it too."""
        return self._replace(options=ReadOptions(seen.header.revision, seen.header.epoch))


def compare_sides(
    left: ComparedSide,
    right: ComparedSide,
    probes: Sequence[str],
    max_bytes: int | None,
) -> Op[Comparison]:
    """Where two sides differ. At most `max_bytes` of values are fetched from each; None: all."""
    seen_left = yield from left.inspect(probes, _HASHES)
    seen_right = yield from right.inspect(probes, _HASHES)
    on_left, on_right = _summaries(seen_left), _summaries(seen_right)
    both = list(dict.fromkeys((*on_left, *on_right)))
    differing = {key: None for key in both if not _same(on_left.get(key), on_right.get(key))}
    sizes = _sizes(differing, on_left, on_right)
    largest: dict[tuple[str, Iteration], float | None] = {}
    pages = deque(_pages(sizes, max_bytes))
    while pages:
        names = pages.popleft()
        try:
            values_left = _values((yield from left.at(seen_left).inspect(names, None)))
            values_right = _values((yield from right.at(seen_right).inspect(names, None)))
        except errors.InspectionTooLarge:
            # For this service's limits; what is too large alone is not worked out.
            half = len(names) // 2
            pages.extendleft(part for part in (names[half:], names[:half]) if half and part)
            continue
        except errors.RevisionCompacted:
            break  # Others have written so much meanwhile that the state is no longer kept.
        for key in values_left.keys() & values_right.keys() & differing.keys():
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


def _sizes(
    differing: Iterable[tuple[str, Iteration]],
    left: Mapping[tuple[str, Iteration], Summary],
    right: Mapping[tuple[str, Iteration], Summary],
) -> dict[str, int]:
    """Bytes of the tensors that are apart by a number, all iterations together."""
    sizes: dict[str, int] = {}
    for key in differing:
        one, other = left.get(key), right.get(key)
        if one is None or other is None or (one.dtype, one.shape) != (other.dtype, other.shape):
            continue
        sizes[key[0]] = sizes.get(key[0], 0) + one.nbytes
    return sizes


def _pages(sizes: Mapping[str, int], max_bytes: int | None) -> Iterator[list[str]]:
    """The names in turn, as many at once as a page has room for, until there are enough."""
    names: list[str] = []
    taken = total = 0
    for name, size in sizes.items():
        total += size
        if max_bytes is not None and total > max_bytes:
            break
        if names and (taken + size > PAGE_BYTES or len(names) == _PROBES):
            yield names
            names, taken = [], 0
        names.append(name)
        taken += size
    if names:
        yield names


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
