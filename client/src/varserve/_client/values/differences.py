"""What differs between a live model and values elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

from .results import OfState
from .specs import StateHeader


@dataclass(frozen=True, slots=True)
class VariableDifference:
    """One variable that is not the same. `what`: dtype, shape, value, or absent (elsewhere)."""

    variable: str
    what: str
    live: str
    """Dtype and shape: `float32 [3, 4]`."""
    other: str
    changed: int = -1
    """Elements that differ; -1 where nothing was compared but hashes."""
    largest: float | None = None
    """How far off the farthest of them is; None where that says nothing."""


@dataclass(frozen=True)
class Differences(OfState):
    """All that differs; `revision` is the one that was compared. True where anything does."""

    header: StateHeader
    variables: tuple[VariableDifference, ...]
    equal: int
    """How many variables are the same."""
    only_in_other: tuple[str, ...] = ()
    """Names elsewhere that the model has no variable for; these are no difference."""

    def __bool__(self) -> bool:
        return bool(self.variables)
