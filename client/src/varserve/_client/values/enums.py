"""Enumerations whose members are their own text, on every supported Python."""

from __future__ import annotations

import sys

if sys.version_info >= (3, 11):
    from enum import StrEnum
else:
    from enum import Enum

    class StrEnum(str, Enum):
        """As Python 3.11 has it."""

        __str__ = str.__str__


class SaveFormat(StrEnum):
    """The form in which a model is saved."""

    SAVED_MODEL = "saved_model"
    CHECKPOINT = "checkpoint"
    SAFETENSORS = "safetensors"


__all__ = ["SaveFormat", "StrEnum"]
