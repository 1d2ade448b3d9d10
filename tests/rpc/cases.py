"""What a bad request is: its bytes, and the reasons that it may be refused for."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Case:
    """One bad request. `reasons` empty: any that is the caller's; `harmless`: may also succeed."""

    method: str
    messages: tuple[bytes, ...]
    reasons: frozenset[str] = frozenset()
    harmless: bool = False


Maker = Callable[[random.Random], Case]
MAKERS: list[Maker] = []


def maker(function: Maker) -> Maker:
    """Add to what `cases` makes by turns."""
    MAKERS.append(function)
    return function


def case(method: str, *requests: Any, reasons: str = "", harmless: bool = False) -> Case:
    """A case of request messages or their bytes."""
    messages = tuple(r if isinstance(r, bytes) else r.SerializeToString() for r in requests)
    return Case(method, messages, frozenset(reasons.split()), harmless)


def cases(rng: random.Random, count: int) -> Iterator[tuple[str, Case]]:
    """That many bad requests, of all kinds by turns, each with the name of its kind."""
    for number in range(count):
        make = MAKERS[number % len(MAKERS)]
        yield make.__name__, make(rng)
