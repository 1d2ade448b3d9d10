"""An index means on a variable what it means in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, basic_indices

import varserve
from varserve._client.values.regions import Rows, resolve

SHAPES = array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


@st.composite
def indexed(draw: st.DrawFn) -> tuple[np.ndarray[Any, Any], Any]:
    shape = draw(SHAPES)
    array = np.arange(int(np.prod(shape)), dtype=np.int32).reshape(shape)
    return array, draw(basic_indices(shape))


def items(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)


def contract_region(array: np.ndarray[Any, Any], part: Any) -> np.ndarray[Any, Any]:
    """What a service gives for the part: every slice within its dimension, none dropped."""
    if part.message is None:
        return array
    slices = []
    for size, each in zip(array.shape, part.message.slices.dimensions, strict=False):
        assert each.HasField("stop")
        assert 0 <= each.start <= each.stop <= size
        assert each.step >= 1
        slices.append(slice(each.start, each.stop, each.step))
    return array[tuple(slices)]


@given(indexed())
def test_same_elements_as_numpy(case: tuple[np.ndarray[Any, Any], Any]) -> None:
    """variable[index] has numpy's shape and elements, or the index is refused as a region."""
    array, index = case
    negative = any(isinstance(i, slice) and (i.step or 1) < 0 for i in items(index))
    if negative:
        with pytest.raises(varserve.RegionInvalid):
            resolve(index, array.shape)
        return
    part = resolve(index, array.shape)
    sent = contract_region(array, part)
    assert part.shape == sent.shape
    assert part.shown_shape == array[index].shape
    np.testing.assert_array_equal(part.show(sent), array[index])
    np.testing.assert_array_equal(part.fit(np.asarray(array[index])), sent)


@given(indexed())
def test_unknown_shape_never_guesses(case: tuple[np.ndarray[Any, Any], Any]) -> None:
    """Without the shape, an index is either refused or selects the same elements as with it."""
    array, index = case
    try:
        part = resolve(index)
    except varserve.RegionInvalid:
        return
    if part.message is None:
        assert array[index].shape == array.shape
        return
    slices = tuple(
        slice(each.start, each.stop if each.HasField("stop") else None, each.step)
        for each in part.message.slices.dimensions
    )
    np.testing.assert_array_equal(part.show(array[slices]), array[index])


@given(st.lists(st.integers(-5, 4), max_size=8))
def test_rows_as_numpy(rows: list[int]) -> None:
    """Rows count from the end as numpy's do."""
    array = np.arange(10).reshape(5, 2)
    part = resolve(Rows(rows), array.shape)
    assert part.message is not None
    found = array[np.array(part.message.rows.indices, dtype=int)]
    np.testing.assert_array_equal(found, array[np.array(rows, dtype=int)])
    assert part.shape == found.shape


@pytest.mark.parametrize(
    "index",
    [
        np.s_[::-1],
        np.s_[0:2:0],
        None,
        np.s_[..., 0, ...],
        np.s_[0, 0, 0],
        [0, 1],
        np.array([0, 1]),
        np.array([[True, False]]),
        True,
        1.0,
        "a",
        3,
        -4,
        np.s_[:, 2],
        np.s_["a":"b"],
        np.s_[1.5:],
        Rows([3]),
        Rows([-4]),
        Rows([[0]]),
        Rows([0.5]),
        Rows([True]),
    ],
    ids=repr,
)
def test_what_is_no_region(index: Any) -> None:
    """Masks, lists, new axes, negative steps and what is outside are refused, not guessed at."""
    if index is None:
        index = (None,)
    with pytest.raises(varserve.RegionInvalid):
        resolve(index, (3, 2))


def test_rows_of_a_scalar() -> None:
    """A scalar has no rows."""
    with pytest.raises(varserve.RegionInvalid):
        resolve(Rows([0]), ())


@pytest.mark.parametrize("row", [0, 4, -1, -5])
def test_rows_are_counted_from_both_ends(row: int) -> None:
    """The first and the last row are there, by either way of counting."""
    part = resolve(Rows([row]), (5, 2))
    assert list(part.message.rows.indices) == [row % 5]
    assert part.shape == (1, 2)


@pytest.mark.parametrize("row", [5, -6, 2**40, -(2**40)])
def test_rows_out_of_bounds_are_refused_here(row: int) -> None:
    """The row after the last one, and the one before the first, cost no call."""
    with pytest.raises(varserve.RegionInvalid, match=f"index {row} is out of bounds for 5 rows"):
        resolve(Rows([1, row]), (5, 2))
