"""How a value changes a variable, by name."""

from __future__ import annotations

from .enums import StrEnum


class AssignOperation(StrEnum):
    """How a value changes a variable. ADD and SUB are for numbers only."""

    SET = "set"
    ADD = "add"
    SUB = "sub"
