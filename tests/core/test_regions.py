"""Regions against numpy: their shapes, and what is said of one that is none."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.core.test_live_model import refusal
from varserve_service.core.arrays.regions import (
    Region,
    Rows,
    Slice,
    Slices,
    index_of,
    overlap,
    region_shape,
    touched_rows,
)
from varserve_service.core.errors import Reason

SHAPE = (5, 3)


def rows(*indices: int) -> Rows:
    return Rows(np.array(indices, np.int64))


def every_slice(size: int) -> list[Slice]:
    """Each valid slice of a dimension."""
    bounds = [(start, stop) for start in range(size + 1) for stop in range(start, size + 1)]
    slices = [Slice(start, stop, step) for start, stop in bounds for step in range(1, size + 2)]
    return [*slices, *(Slice(start, None) for start in range(size + 1))]


@pytest.mark.parametrize("shape", [(), (4,), (3, 2)])
def test_the_shape_of_every_slice(shape: tuple[int, ...]) -> None:
    """Of as many dimensions as are named, empty ones included, as numpy has it."""
    array, count = np.zeros(shape), 0
    for named in range(len(shape) + 1):
        for slices in itertools.product(*map(every_slice, shape[:named])):
            region = Slices(slices)
            expected = array[index_of(region)].shape
            assert region_shape(region, shape, variable="v") == expected
            count += 1
    assert count >= (40 if shape else 1)


@pytest.mark.parametrize("region", [rows(), rows(0), rows(4, 4, 0)])
def test_the_shape_of_rows(region: Rows) -> None:
    """In any order, several times, or none of them."""
    assert region_shape(region, SHAPE, variable="v") == (len(region.indices), 3)


@pytest.mark.parametrize(
    ("region", "said"),
    [
        (rows(0, 5), "expected row indices from 0 to 4, found 5"),
        (rows(7, 0, 5), "expected row indices from 0 to 4, found 7"),
        (rows(4, -1), "expected row indices from 0 to 4, found -1"),
        (Slices((Slice(0, 6),)), "dimension 0: expected 0 <= start <= stop <= 5, found start 0"),
        (Slices((Slice(2, 1),)), "dimension 0: expected 0 <= start <= stop <= 5, found start 2"),
        (Slices((Slice(-1),)), "dimension 0: expected 0 <= start <= stop <= 5, found start -1"),
        (Slices((Slice(6),)), "dimension 0: expected 0 <= start <= stop <= 5, found start 6"),
        (Slices((Slice(), Slice(0, 4))), "dimension 1: expected 0 <= start <= stop <= 3"),
        (Slices((Slice(), Slice(0, 1, 0))), "dimension 1: expected a step of at least 1, found 0"),
        (Slices((Slice(),) * 3), "expected at most 2 slices, one for each dimension, found 3"),
    ],
)
def test_what_is_no_region(region: Region, said: str) -> None:
    """It is refused with what was expected, and the first thing that was found to be wrong."""
    error = refusal(region_shape, region, SHAPE, variable="v")
    assert error.reason is Reason.REGION_INVALID
    assert error.message.startswith(f"region of variable 'v' of shape [5, 3]: {said}")


def test_a_scalar_has_no_rows() -> None:
    """Not even none of them."""
    error = refusal(region_shape, rows(), (), variable="v")
    assert error.reason is Reason.REGION_INVALID
    assert error.message.endswith("a scalar has no rows")


@pytest.mark.parametrize(
    "region", [rows(), rows(3, 0, 3), Slices(()), Slices((Slice(1, 5, 2), Slice(1)))]
)
@pytest.mark.parametrize("kept", [[], [0], [1, 3], [0, 1, 2, 3, 4]])
def test_what_is_written_to_some_rows(region: Region, kept: list[int]) -> None:
    """A region written to some rows of a value leaves in them what it leaves in the whole."""
    whole = np.arange(15).reshape(SHAPE)
    value = 100 + np.arange(whole[index_of(region)].size).reshape(whole[index_of(region)].shape)
    part = whole[kept]
    index, own = overlap(region, np.array(kept, np.int64), 5)
    part[index] = value[own]
    whole[index_of(region)] = value
    assert part.tolist() == whole[kept].tolist()
    touched = np.isin(np.arange(15).reshape(SHAPE), whole, invert=True).any(axis=1)
    assert touched_rows([region], 5).tolist() == np.flatnonzero(touched).tolist()
