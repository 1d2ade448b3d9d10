"""Rows that are other bits are found wherever they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from varserve_service.core.arrays import differences
from varserve_service.core.arrays.differences import differing_rows


def changed_at(array: np.ndarray[Any, Any], rows: list[int]) -> list[int]:
    """Rows that are found when the last byte of these alone is another one."""
    other = array.copy()
    raw = other.reshape(len(other), -1).view(np.uint8)
    for row in rows:
        raw[row, -1] ^= 1
    return differing_rows(array, other).tolist()


@pytest.mark.parametrize("block", [1, 12, 24, 25, 36, 2**18])
@pytest.mark.parametrize("rows", [[], [0], [6], [1, 2, 5], list(range(7))])
def test_rows_in_any_block(block: int, rows: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """In the first and in the last, in several of one, and none where all are the same."""
    monkeypatch.setattr(differences, "_BLOCK_BYTES", block)
    assert changed_at(np.arange(21, dtype=np.float32).reshape(7, 3), rows) == rows
    assert changed_at(np.arange(42, dtype=np.int16).reshape(7, 3, 2), rows) == rows
    assert changed_at(np.arange(7, dtype=np.complex64), rows) == rows


def test_bits_are_compared_and_not_numbers() -> None:
    """A zero that became negative is another one; what is no number is the same as itself."""
    left = np.array([0.0, np.nan, 1.0])
    assert differing_rows(left, left.copy()).tolist() == []
    assert differing_rows(left, np.array([-0.0, np.nan, 1.0])).tolist() == [0]


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 4)])
def test_what_has_no_bytes_has_no_differences(shape: tuple[int, ...]) -> None:
    """Nor does the answer have another type then."""
    found = differing_rows(np.zeros(shape), np.zeros(shape))
    assert (found.size, found.dtype) == (0, np.int64)


def test_only_blocks_that_differ_are_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparing byte by byte takes many times as long as to see that a block is the same."""
    monkeypatch.setattr(differences, "_BLOCK_BYTES", 16)
    seen: list[int] = []
    of_rows = differences._bytes

    def watched(rows: np.ndarray[Any, Any], row: int) -> np.ndarray[Any, Any]:
        seen.append(len(rows))
        return of_rows(rows, row)

    monkeypatch.setattr(differences, "_bytes", watched)
    assert changed_at(np.zeros((9, 2), np.float32), [8]) == [8]
    assert seen == [1, 1]  # the last block, of both
