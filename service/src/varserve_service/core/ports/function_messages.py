"""What a function says while it runs: printed lines, and checks that failed. Pure data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

Iteration: TypeAlias = tuple[int, ...]
"""One index for each loop around a tensor, the outermost first; empty outside of loops."""


class MessageKind(Enum):
    """What said it."""

    PRINT = "print"
    ASSERTION = "assertion"
    CHECK_NUMERICS = "check_numerics"


@dataclass(frozen=True, slots=True)
class FunctionMessage:
    """One printed line, or one failed check: `parts` are what the check was given to show.

    `stream` is where a print would have gone: `stderr`, `stdout`, `log(info)`, ...
    `end` is what follows the text.
    """

    kind: MessageKind
    op: str
    iteration: Iteration
    text: str
    parts: tuple[str, ...] = ()
    stream: str = ""
    end: str = ""


MessageListener: TypeAlias = Callable[[FunctionMessage], None]
"""Is told of each message, in order. May be called from any thread."""
