"""The port of administration: loading, unloading and saving models.

Knows models and their states; knows nothing of where they come from or are saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from .loaded_model import ModelState
from .messages import Header


class SaveFormat(Enum):
    """The format of a save."""

    SAVED_MODEL = "saved_model"
    CHECKPOINT = "checkpoint"
    SAFETENSORS = "safetensors"


@dataclass(frozen=True, slots=True)
class Saved:
    """What was saved: at which revision, how many variables, bytes of all files."""

    header: Header
    variables: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class KnownVersion:
    """One version of a model; `header` has no epoch when it is not in memory.

    `state` None: it was never requested. `loadable`: its files exist and are complete.
    """

    header: Header
    state: ModelState | None
    labels: tuple[str, ...]
    error: str
    loadable: bool


class Administration(Protocol):
    """Every method may take long, and may be called from any thread.

    `deadline` is in seconds of `time.monotonic` and bounds the waiting for others, not the work.
    """

    def load(
        self, name: str, version: int | None, label: str, deadline: float | None = None
    ) -> Header:
        """Let a label mean a version, the newest if none is named; load it where it is not there.

        Raises RequestError MODEL_NOT_FOUND, MODEL_NOT_READY, MODEL_LOAD_FAILED, MODEL_NOT_ALLOWED,
        OUT_OF_MEMORY, NOT_CONFIGURED, DEADLINE_EXCEEDED.
        """
        ...

    def unload(self, name: str, label: str | None, deadline: float | None = None) -> list[Header]:
        """Take a label away, or all; the last states of the versions that went.

        Raises RequestError MODEL_NOT_FOUND, MODEL_NOT_READY, DEADLINE_EXCEEDED.
        """
        ...

    def save(
        self, name: str, folder: str, form: SaveFormat, deadline: float | None = None
    ) -> Saved:
        """Save the present values of a model in a new folder.

        Raises RequestError MODEL_NOT_FOUND, MODEL_NOT_READY, SAVE_EXISTS, SAVE_UNSUPPORTED,
        SAVE_FAILED, NOT_CONFIGURED, DEADLINE_EXCEEDED.
        """
        ...

    def versions(self, name: str = "") -> Sequence[KnownVersion]:
        """All versions of a model, or of all, sorted."""
        ...
