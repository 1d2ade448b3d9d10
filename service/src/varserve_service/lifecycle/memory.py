"""Memory of models: how much a SavedModel needs, and how it is returned to the system."""

from __future__ import annotations

import gc
from pathlib import Path

from varserve_service.core.memory import trim

_OVERHEAD_BYTES = 64 * 2**20
"""Graphs, traces and threads of a model beside its values."""


def needed_bytes(saved_model: Path) -> int:
    """Bytes that loading needs, roughly: the values, and a quarter more on the way."""
    values = sum(path.stat().st_size for path in (saved_model / "variables").glob("*.data-*"))
    return values + values // 4 + _OVERHEAD_BYTES


def give_back() -> None:
    """Return the memory of an unloaded model to the system.

    A loaded model has many reference cycles, which only the garbage collector frees.
    """
    gc.collect()
    trim()
