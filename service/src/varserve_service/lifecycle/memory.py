"""Memory: what a SavedModel will take, and how what it took is given back."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress
from pathlib import Path

_OVERHEAD_BYTES = 64 * 2**20
"""Graphs, traces and threads of a model beside its values."""


def needed_bytes(saved_model: Path) -> int:
    """Bytes that loading takes, about: the values, and a quarter for the way."""
    values = sum(path.stat().st_size for path in (saved_model / "variables").glob("*.data-*"))
    return values + values // 4 + _OVERHEAD_BYTES


def give_back() -> None:
    """Give what a model left behind to the system.

    A loaded model is full of circles, which only the collector ends; and the C library keeps what
    was freed unless it is told.
    """
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
