"""What a summary must say, by exact arithmetic: fractions and counting one by one."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any

import numpy as np

from varserve_service.core.values.summaries import Summary

_CONTEXT = Context(prec=60, Emax=9_999_999, Emin=-9_999_999)


def numbers(array: np.ndarray[Any, Any]) -> list[Any]:
    """What each element counts as: a Python int, or a float that holds it exactly."""
    elements = array.reshape(-1)
    if array.dtype.kind == "O":
        return [len(element) for element in elements]
    if array.dtype.kind in "biu":
        return [int(element) for element in elements]
    if array.dtype.kind == "c":
        return [_modulus(complex(element)) for element in elements]
    return [float(element) for element in elements]


def _modulus(number: complex) -> float:
    if math.isnan(number.real) or math.isnan(number.imag):
        return math.nan
    found = math.hypot(number.real, number.imag)
    if math.isinf(found) and math.isfinite(number.real) and math.isfinite(number.imag):
        return float(np.finfo(np.float64).max)
    return found


def root(square: Fraction) -> float:
    """The square root, rounded once."""
    quotient = _CONTEXT.divide(Decimal(square.numerator), Decimal(square.denominator))
    found = _CONTEXT.sqrt(quotient)
    return float(found)


def check(array: np.ndarray[Any, Any], summary: Summary) -> None:
    """Holds a summary of the array against the exact one."""
    every = numbers(array)
    finite = [each for each in every if math.isfinite(each)]
    found = summary.moments
    reduced = found.reduced
    assert (reduced.count, reduced.finite) == (len(every), len(finite))
    assert reduced.nans == sum(math.isnan(each) for each in every)
    assert reduced.zeros == finite.count(0)
    for bound, extreme in ((reduced.low, min), (reduced.high, max)):
        expected = extreme(finite, default=None)
        # A modulus is rounded, and may be once more than here.
        rounded = array.dtype.kind == "c" and None not in (bound, expected)
        assert math.isclose(bound, expected, rel_tol=1e-15) if rounded else bound == expected
    if not finite:
        assert (found.mean, found.deviation, found.norm) == (0, 0, 0)
        return
    exact = [Fraction(each) for each in finite]
    mean = sum(exact) / len(exact)
    spread = sum((each - mean) ** 2 for each in exact) / len(exact)
    largest = max(abs(float(each)) for each in exact)
    # One rounding of each element and of each sum; a mean far below the elements keeps their error.
    # Between 0 and the smallest number there is none.
    slack = max(1e-14 * largest, 5e-324)
    assert math.isclose(found.mean, mean, rel_tol=1e-12, abs_tol=slack)
    assert math.isclose(found.deviation, root(spread), rel_tol=1e-9, abs_tol=slack)
    norm = root(sum((each**2 for each in exact), Fraction(0)))
    assert found.norm == norm or math.isclose(found.norm, norm, rel_tol=1e-12)


def check_histogram(array: np.ndarray[Any, Any], summary: Summary) -> None:
    """Holds the histogram against counting one by one."""
    assert summary.histogram is not None
    edges: Sequence[float] = summary.histogram.edges.tolist()
    assert edges == sorted(edges)
    every = [float(each) for each in numbers(array)]
    finite = [each for each in every if math.isfinite(each)]
    if array.dtype.kind == "c":  # a modulus is rounded, and then not always to the same bin
        found = summary.histogram
        assert found.counts.sum() + found.below + found.above == len(finite)
        return
    counts = [0] * (len(edges) - 1)
    for each in finite:
        if edges[0] <= each <= edges[-1]:
            counts[min(bisect_right(edges, each) - 1, len(counts) - 1)] += 1
    assert summary.histogram.counts.tolist() == counts
    assert summary.histogram.below == sum(each < edges[0] for each in finite)
    assert summary.histogram.above == sum(each > edges[-1] for each in finite)
