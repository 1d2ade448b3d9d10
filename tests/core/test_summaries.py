"""Summaries of numpy values against exact arithmetic, for every dtype."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as of_numpy

from tests.core.exactly import check, check_histogram
from varserve.tensors import DTYPES, numpy_dtype
from varserve_service.core.arrays import reductions
from varserve_service.core.values import summaries
from varserve_service.core.values.host_value import HostValue
from varserve_service.core.values.summaries import HistogramSpec, hash_of, summarize

NUMBERS = [dtype for dtype in DTYPES if dtype != "string"]
SHAPES = of_numpy.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    """Any bits of any dtype, in any small shape; of bool 0 and 1."""
    dtype, shape = draw(st.sampled_from(DTYPES)), draw(SHAPES)
    if dtype == "string":
        found = np.empty(shape, object)
        for index in np.ndindex(shape):
            found[index] = draw(st.binary(max_size=5))
        return found
    if dtype == "bool":
        return draw(of_numpy.arrays(np.bool_, shape))
    to = numpy_dtype(dtype)
    bits = draw(of_numpy.arrays(np.uint8, (*shape, to.itemsize)))
    return bits.reshape(-1).view(to).reshape(shape)


WISHES = st.one_of(
    st.builds(HistogramSpec, st.integers(1, 9)),
    st.builds(
        lambda bins, ends: HistogramSpec(bins, (min(ends), max(ends))),
        st.integers(1, 9),
        st.lists(
            st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=2, unique=True
        ),
    ),
)


@settings(max_examples=600, deadline=None)
@given(arrays(), WISHES)
def test_any_value_of_any_dtype(array: np.ndarray[Any, Any], wish: HistogramSpec) -> None:
    """Counts, bounds and bins are exact, and mean, deviation and norm as good as float64 is."""
    found = summarize(HostValue(array), histogram=wish)
    check(array, found)
    check_histogram(array, found)


@pytest.mark.parametrize("dtype", NUMBERS)
def test_parts_add_up(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that is gone through in many parts has the same summary as in one."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    array = np.random.default_rng(seed).integers(0, 90, 1000).astype(numpy_dtype(dtype))
    monkeypatch.setattr(summaries, "_ELEMENTS", 7)
    monkeypatch.setattr(summaries, "_HASHED_BYTES", 13)
    value, wish = HostValue(array), HistogramSpec(5, (10.0, 60.0))
    found = summarize(value, histogram=wish, content_hash=True)
    check(array, found)
    check_histogram(array, found)
    monkeypatch.undo()
    assert found.content_hash == summarize(value, content_hash=True).content_hash


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("float64", [1.7e308, 1.7e308, -1.7e308, 1e-308]),
        ("float64", [5e-324, -5e-324, 0.0, -0.0]),
        ("float64", [1e-200, 2e-200, 1.0]),
        ("float64", [1e300, 1e-300, np.nan, np.inf, -np.inf]),
        ("float64", [2.0**400, 2.0**399]),
        ("float32", [3.4e38, -3.4e38, 1e-45]),
        ("float32", [np.nan, np.nan]),
        ("float32", [np.inf, -np.inf]),
        ("float64", [1e16, 1e16 + 2, 1e16 + 4]),
        ("int64", [2**63 - 1, -(2**63), 2**53 + 1]),
        ("uint64", [2**64 - 1, 2**64 - 2, 0]),
        ("complex128", [1.7e308 + 1.7e308j, complex("nan+infj"), complex("inf+1j"), 3 + 4j]),
    ],
)
@pytest.mark.parametrize("part", [1, 2, 100])
def test_extremes(name: str, values: list[Any], part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing overflows or vanishes on the way, whichever parts meet."""
    monkeypatch.setattr(summaries, "_ELEMENTS", part)
    array = np.array(values, numpy_dtype(name))
    found = summarize(HostValue(array), histogram=HistogramSpec(3))
    check(array, found)
    check_histogram(array, found)


def test_sums_of_integers_are_exact() -> None:
    """A million of the largest 32-bit integers have their own mean, to the last bit."""
    array = np.full(2**20 + 3, 2**32 - 1, np.uint32)
    array[0] -= 1
    found = summarize(HostValue(array)).moments
    assert found.mean == ((2**32 - 1) * array.size - 1) / array.size


def test_a_far_mean_does_not_drown_the_deviation() -> None:
    """Elements that differ little, far from zero, have the deviation that they have."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    near = np.random.default_rng(seed).standard_normal(2**21)
    found = summarize(HostValue(near + 1e9)).moments
    assert abs(found.deviation - (near + 1e9).std()) < 1e-6


@pytest.mark.parametrize("bound", [reductions.LARGE, reductions.SMALL], ids=["large", "small"])
def test_runs_on_both_sides_of_a_bound(bound: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run is divided before it is squared and the next is not: what they come to is exact."""
    monkeypatch.setattr(reductions, "_AT_ONCE", 4)
    array = np.array([1.25, 1.25, 1.25, 1.25, 0.5, 0.875, 0.5, 0.875]) * bound
    for each in (array, array[::-1].copy(), array[4:], array[:4]):
        check(each, summarize(HostValue(each)))


@pytest.mark.parametrize("bins", [1, 2, 3, 10, 4096])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16, np.int16])
def test_histograms_of_many(bins: int, dtype: Any) -> None:
    """The fast way to a bin and the search for it agree on every element, edges included."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    edges = reductions.edges_between(-3.0, 4.0, bins)
    array = np.concatenate([rng.standard_normal(20_000) * 2, edges, np.nextafter(edges, -9)])
    found = summarize(HostValue(array.astype(dtype)), histogram=HistogramSpec(bins, (-3.0, 4.0)))
    check_histogram(array.astype(dtype), found)
    assert found.histogram is not None
    assert found.histogram.counts.sum() > 10_000


@pytest.mark.parametrize("array", [np.float32(2), np.zeros(0, np.int32), np.full(3, np.nan)])
def test_bounds_of_values_that_have_none(array: Any) -> None:
    """One value, no value and no number have a histogram half below and half above."""
    array = np.asarray(array)
    found = summarize(HostValue(array), histogram=HistogramSpec(2)).histogram
    assert found is not None
    middle = 2.0 if array.ndim == 0 else 0.0
    assert found.edges.tolist() == [middle - 0.5, middle, middle + 0.5]
    assert found.counts.sum() == (1 if array.ndim == 0 else 0)


def test_the_largest_element_is_in_the_last_bin() -> None:
    """The outer edges are the bounds themselves, where their difference is not exact either."""
    array = np.array([-1e16, 1.0])
    found = summarize(HostValue(array), histogram=HistogramSpec(4)).histogram
    assert found is not None
    assert (found.edges[0], found.edges[-1]) == (-1e16, 1.0)
    assert (found.counts.sum(), found.above) == (2, 0)


def test_the_hash_is_what_the_contract_says() -> None:
    """SHA-256 of dtype, shape and bytes; of strings the lengths first."""

    def of(array: Any) -> bytes:
        return summarize(HostValue(np.asarray(array)), content_hash=True).content_hash

    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert of(a) == hashlib.sha256(b"float32 2,3\n" + a.astype("<f4").tobytes()).digest()
    assert of(np.True_) == hashlib.sha256(b"bool \n\x01").digest()
    words = np.array([b"a\0", b""], object)
    lengths = b"\x02\0\0\0\0\0\0\0" + bytes(8)
    assert of(words) == hashlib.sha256(b"string 2\n" + lengths + b"a\0").digest()
    assert of(a) != of(a.reshape(3, 2))
    assert of(np.zeros(2, np.float32)) != of(-np.zeros(2, np.float32))
    assert of(np.zeros(2, np.float32)) != of(np.zeros(2, np.int32))


def test_it_ends_where_it_is_told_to() -> None:
    """What is asked before each part may end the work there."""

    class Enough(Exception):
        pass

    seen = []

    def go_on() -> None:
        seen.append(None)
        if len(seen) == 3:
            raise Enough

    with pytest.raises(Enough):
        summarize(HostValue(np.zeros(2**23, np.int8)), content_hash=True, go_on=go_on)
    assert len(seen) == 3


def test_a_hash_ends_where_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks before each part, also where nothing else is computed."""
    monkeypatch.setattr(summaries, "_HASHED_BYTES", 4)
    asked: list[None] = []
    value = HostValue(np.zeros(9, np.int8))
    assert hash_of(value, lambda: asked.append(None)) == hash_of(value)
    assert len(asked) == 3
