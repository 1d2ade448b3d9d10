"""Values of parts of an array, written over it or folded into one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from varserve_service.core.arrays.patches import Canvas, Elements, fold
from varserve_service.core.arrays.regions import Rows, Slice, Slices

SHAPE = (4, 3)
COLUMN = Slices((Slice(), Slice(2, 3)))


def patch(part: Any, value: Any) -> Any:
    return SimpleNamespace(part=part, value=np.asarray(value))


def rows(*indices: int) -> Rows:
    return Rows(np.array(indices, np.int64))


def test_a_canvas_takes_every_kind_of_part() -> None:
    """The whole, elements, slices and rows; what is read back is what was written."""
    canvas = Canvas(np.zeros(SHAPE))
    whole = np.arange(12.0).reshape(SHAPE)
    canvas.write(None, whole)
    assert canvas.array.tolist() == whole.tolist()
    assert canvas.array is not whole
    canvas.write(Elements(np.array([0, 11])), np.array([50.0, 60.0]))
    assert (canvas.array[0, 0], canvas.array[3, 2]) == (50, 60)
    part = Slices((Slice(1, 3), Slice(0, None, 2)))
    canvas.write(part, np.full((2, 2), 7.0))
    assert canvas.read(part).tolist() == [[7, 7], [7, 7]]
    assert canvas.array[1].tolist() == [7, 4, 7]
    canvas.write(rows(3, 0), np.array([[1.0] * 3, [2.0] * 3]))
    assert canvas.read(rows(0, 3)).tolist() == [[2] * 3, [1] * 3]


def test_a_canvas_of_some_rows_leaves_the_others_out() -> None:
    """Regions are those of the whole; its own rows alone are written and read."""
    canvas = Canvas(np.zeros((2, 3)), np.array([1, 3]), SHAPE[0])
    canvas.write(rows(3, 0), np.array([[1.0] * 3, [2.0] * 3]))
    canvas.write(Slices((Slice(), Slice(1, 2))), np.array([[9.0], [8.0], [7.0], [6.0]]))
    assert canvas.array.tolist() == [[0, 8, 0], [1, 6, 1]]
    assert canvas.read(rows(3)).tolist() == [[1, 6, 1]]


@pytest.mark.parametrize(
    ("patches", "part", "value"),
    [
        ([patch(rows(2), [[1, 1, 1]])], "rows [2]", [[1, 1, 1]]),
        # The last value of each row; slices of whole rows are rows.
        (
            [patch(rows(2, 0), [[1] * 3, [2] * 3]), patch(Slices((Slice(2, 4),)), [[3] * 3] * 2)],
            "rows [0, 2, 3]",
            [[2] * 3, [3] * 3, [3] * 3],
        ),
        (
            [patch(Slices((Slice(0, 2), Slice())), [[1] * 3] * 2), patch(rows(1), [[5] * 3])],
            "rows [0, 1]",
            [[1] * 3, [5] * 3],
        ),
        # Columns are no rows: elements, by their place in the whole.
        (
            [patch(COLUMN, [[1], [2], [3], [4]]), patch(rows(1), [[9] * 3])],
            "elements [2, 3, 4, 5, 8, 11]",
            [1, 9, 9, 9, 3, 4],
        ),
        (
            [patch(Elements(np.array([5, 1])), [7, 8]), patch(Elements(np.array([1])), [9])],
            "elements [1, 5]",
            [9, 7],
        ),
        # With a whole, whatever came before it does not matter.
        (
            [patch(rows(0), [[5] * 3]), patch(None, [[0] * 3] * 4), patch(rows(3), [[6] * 3])],
            "None",
            [[0] * 3, [0] * 3, [0] * 3, [6] * 3],
        ),
        ([patch(rows(0), [[5] * 3]), patch(None, [[1] * 3] * 4)], "None", [[1] * 3] * 4),
    ],
)
def test_what_patches_amount_to(patches: list[Any], part: str, value: list[Any]) -> None:
    """One part and its value; the patches themselves stay as they are."""
    before = [each.value.copy() for each in patches]
    found, result = fold(patches, SHAPE)
    shown = {Rows: "rows", Elements: "elements"}.get(type(found))
    assert (f"{shown} {found.indices.tolist()}" if shown else str(found)) == part  # type: ignore[union-attr]
    assert result.tolist() == value
    assert all(np.array_equal(a, b.value) for a, b in zip(before, patches, strict=True))


def test_rows_need_no_shape() -> None:
    """Of an array whose size nobody knows they are folded all the same."""
    part, value = fold([patch(rows(7), [[1.0]]), patch(rows(2), [[2.0]])], None)
    assert isinstance(part, Rows)
    assert (part.indices.tolist(), value.tolist()) == ([2, 7], [[2], [1]])


def test_a_part_without_dimensions_is_no_rows() -> None:
    """Slices of a scalar are its one element."""
    scalar = Slices(())
    part, value = fold([patch(scalar, 1), patch(scalar, 2)], ())
    assert isinstance(part, Elements)
    assert (part.indices.tolist(), value.tolist()) == ([0], [2])
