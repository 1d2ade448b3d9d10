"""What partial shapes fit, say and take at least."""

from __future__ import annotations

import numpy as np
import pytest

from varserve_service.core.arrays.shapes import PartialShape, fits, least_bytes, outline, shape_text


@pytest.mark.parametrize(
    ("shape", "expected", "yes"),
    [
        ((), None, True),
        ((2, 3), None, True),
        ((2, 3), (2, 3), True),
        ((2, 3), (None, 3), True),
        ((2, 3), (None, 4), False),
        ((2, 3), (2,), False),
        ((), (), True),
        ((1,), (), False),
    ],
)
def test_which_shapes_fit(shape: tuple[int, ...], expected: PartialShape, yes: bool) -> None:
    """Of the same rank, and equal where a size is known."""
    assert fits(shape, expected) is yes


@pytest.mark.parametrize(
    ("dtype", "shape", "nbytes"),
    [
        ("float32", (2, 3), 24),
        ("float32", (), 4),
        ("float32", (0, 3), 0),
        ("float32", (None, 3), 0),
        ("float32", None, 0),
        ("string", (2,), 0),
        ("one_that_numpy_does_not_know", (2, 3), 6),
    ],
)
def test_the_bytes_of_a_value_at_least(dtype: str, shape: PartialShape, nbytes: int) -> None:
    """Nothing where the shape or the elements' size is not known beforehand."""
    assert least_bytes(dtype, shape) == nbytes


@pytest.mark.parametrize("dtype", ["bool", "float32", "complex128", "object"])
@pytest.mark.parametrize("shape", [(), (3,), (0, 2), (1000, 1000, 1000)])
def test_an_outline_takes_no_memory(dtype: str, shape: tuple[int, ...]) -> None:
    """It has the dtype and shape alone, and cannot be written to."""
    found = outline(np.dtype(dtype), shape)
    assert (found.dtype, found.shape) == (np.dtype(dtype), shape)
    assert not any(found.strides)
    assert not found.flags.writeable


def test_how_messages_write_them() -> None:
    """A size that is not known is a question mark."""
    found = [shape_text(shape) for shape in (None, (), (None, 3), (2,))]
    assert found == ["any shape", "[]", "[?, 3]", "[2]"]
