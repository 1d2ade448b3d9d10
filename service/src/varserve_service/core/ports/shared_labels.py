"""The port of labels that several processes follow together. Pure data, and what keeps it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

Loaded = tuple[str, int]
"""A version of a model: its name and its number."""

Attempt = tuple[str, int, int]
"""A version, and the attempt of the label that wants it."""


@dataclass(frozen=True, slots=True)
class SharedLabel:
    """A label of a model: the version that is wanted, and the one that callers follow.

    `current` None: a version is wanted for the first time, and not all processes have it yet.
    `attempt` counts how often one was wanted.
    """

    model: str
    label: str
    wanted: int
    current: int | None
    attempt: int = 0


class SharedLabels(Protocol):
    """Labels that mean the same version in all processes.

    A label moves to the version that is wanted when every live process that serves its model has
    that in memory. A process is live while it says so. From any thread. Raises
    StateStoreUnavailable.
    """

    def begin(self, labels: Mapping[str, Mapping[str, int]]) -> None:
        """Live, and serve these models; their labels are these where they have none yet."""
        ...

    def is_alone(self, model: str) -> bool:
        """Whether no other live process serves a model."""
        ...

    def all(self) -> Sequence[SharedLabel]:
        """Every label, sorted."""
        ...

    def want(self, model: str, label: str, version: int) -> int:
        """Let a label move to a version, when all have it; the number of this attempt."""
        ...

    def give_up(self, model: str, label: str, version: int) -> None:
        """Where that is still wanted, want what is current. A label that is nowhere yet goes."""
        ...

    def remove(self, model: str, label: str | None) -> None:
        """Take a label of a model away, or all."""
        ...

    def replace(self, model: str, labels: Mapping[str, int]) -> None:
        """Let the labels of a model be these, at once."""
        ...

    def say(self, loaded: Collection[Loaded], failed: Mapping[Attempt, str]) -> None:
        """This process lives, has these in memory, and could not load those, for these reasons."""
        ...

    def move(self) -> None:
        """Move the labels whose wanted versions all live processes have."""
        ...

    def failures(self, attempt: Attempt) -> Sequence[str]:
        """Why live processes that serve the model could not load a version when it was wanted."""
        ...

    def leave(self) -> None:
        """This process takes no part any more: no label waits for it."""
        ...
