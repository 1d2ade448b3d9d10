"""What a journal kept becomes a change of the same place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tests.fakes import Array, FakeVariable
from varserve_service.core.arrays.regions import Region, Rows, Slice, Slices
from varserve_service.core.change.changes import Change, HeldByVariable, kept_change

ROWS = 3 * 2**18
"""Of eight bytes each: more than is written over what is there."""


class WithoutBlanks(FakeVariable):
    """Nothing may be put together in memory that the variable takes over."""

    def blank(self, shape: Sequence[int]) -> Array:
        raise AssertionError(f"memory for {shape}")


def test_a_large_region_stays_where_it_was() -> None:
    """It is written there, and swapped in as no whole."""
    variable = WithoutBlanks("v", np.zeros((ROWS + 1, 1)), in_place=True)
    region = Slices((Slice(1, ROWS + 1),))
    change = kept_change(variable, region, np.ones((ROWS, 1)))
    assert (change.region, change.written, change.owned) == (region, region, None)
    assert change.value.numpy().sum() == ROWS


def test_many_strings_are_no_plain_bytes() -> None:
    """They are swapped in as they are."""
    strings = np.full(ROWS, 8 * b"s", object)
    variable = WithoutBlanks("v", np.full(ROWS, b"", object), in_place=True)
    change = kept_change(variable, None, strings)
    assert change.region is None
    assert change.owned is not None
    assert change.value.numpy()[ROWS - 1] == 8 * b"s"


def test_a_large_whole_is_held_by_its_variable_alone() -> None:
    """In memory of its own, which nothing else refers to."""
    variable = FakeVariable("v", np.zeros((ROWS, 1)), in_place=True)
    kept = np.ones((ROWS, 1))
    change = kept_change(variable, None, kept)
    assert isinstance(change.value, HeldByVariable)
    kept[...] = 2
    assert change.owned is not None
    assert change.owned.numpy().sum() == ROWS


def test_a_small_whole_is_written_over_what_is_there() -> None:
    """To swap it costs more than to copy it."""
    variable = WithoutBlanks("v", np.zeros((3, 1)), in_place=True)
    change = kept_change(variable, None, np.ones((3, 1)))
    assert (change.owned, change.value.numpy().sum()) == (None, 3)


@pytest.mark.parametrize(
    ("region", "rows"),
    [(None, 8), (Rows(np.array([5, 2, 7])), 3), (Slices((Slice(2, 6), Slice(1))), 4)],
)
def test_what_is_copied_of_what_a_change_replaces(region: Region | None, rows: int) -> None:
    """All of each row that it touches, in place; nothing where the value is another one then."""
    shape = (8, 4, 2)
    for in_place in (True, False):
        variable = FakeVariable("v", np.zeros(shape), in_place=in_place)
        value = variable.read(region)
        expected = rows * 4 * 2 * 8 if in_place else 0
        assert Change(variable, region, value).replaced_bytes == expected


def test_nothing_is_copied_of_what_is_swapped_away() -> None:
    """What was there is kept as it is."""
    variable = FakeVariable("v", np.zeros((ROWS, 1)), in_place=True)
    assert kept_change(variable, None, np.ones((ROWS, 1))).replaced_bytes == 0
    scalar = FakeVariable("s", np.zeros(()), in_place=True)
    assert Change(scalar, Rows(np.array([0])), scalar.read()).replaced_bytes == 8
