"""What a function says while it runs: printed lines, and checks that failed. Knows no calls."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from .enums import StrEnum

Iteration: TypeAlias = tuple[int, ...]
"""One number for each loop around a tensor, the outermost first; empty outside of loops."""


class MessageKind(StrEnum):
    """What said something."""

    UNSPECIFIED = "unspecified"
    PRINT = "print"
    ASSERTION = "assertion"
    CHECK_NUMERICS = "check_numerics"


class FunctionMessage(NamedTuple):
    """A line that a function printed, or a check of it that failed.

    `parts` are what a failed assertion was given to show, each as text. `stream` is where a print
    would have gone, `end` what follows its text.
    """

    kind: MessageKind
    op: str
    iteration: Iteration
    text: str
    parts: tuple[str, ...] = ()
    stream: str = ""
    end: str = ""

    def __str__(self) -> str:
        return self.text + self.end.removesuffix("\n")
