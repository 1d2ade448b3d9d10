"""Requests to a live model, and its answers. Pure data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from varserve_service.core.arrays.regions import Region

from .function_messages import FunctionMessage
from .loaded_model import FunctionSpec, Omission, Value, VariableSpec


@dataclass(frozen=True, slots=True)
class Header:
    """Which state an answer speaks of."""

    model: str
    version: int
    epoch: str
    revision: int


@dataclass(frozen=True, slots=True)
class Conditions:
    """What must hold for a write or run to happen. None and empty: nothing must."""

    model_revision: int | None = None
    epoch: str = ""


UNCONDITIONAL = Conditions()


@dataclass(frozen=True, slots=True)
class Read:
    """One variable, by name or path, or a region of it. `dtype`: to be sent as; None: its own."""

    variable: str
    region: Region | None = None
    dtype: str | None = None


Admit: TypeAlias = Callable[[VariableSpec, Read, tuple[int, ...], bool], None]
"""Raises RequestError when what is read of this variable, in this shape, is not to be taken.

The last is whether a copy is taken.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One value of a snapshot. `value` is None when it was asked for only if newer, and is not."""

    variable: str
    revision: int
    value: Value | None


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """Values of several variables at one revision, in the order they were asked for."""

    header: Header
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a write or run came to. `values` are outputs by name, or what was read back.

    `messages`: what the function said, where that was asked for.
    """

    header: Header
    values: Mapping[str, Value] = field(default_factory=dict)
    messages: tuple[FunctionMessage, ...] = ()


@dataclass(frozen=True, slots=True)
class VariableState:
    """A variable's spec and what is true of it now. `shape` is None while it has no value."""

    spec: VariableSpec
    shape: tuple[int, ...] | None
    revision: int


@dataclass(frozen=True, slots=True)
class Description:
    """All about a model at one revision."""

    header: Header
    device: str
    variables: tuple[VariableState, ...]
    functions: tuple[FunctionSpec, ...]
    omissions: tuple[Omission, ...] = ()


def sent_bytes(value: Value) -> int:
    """Bytes that a value takes on its way: 8 more for each string, as much as its length takes."""
    lengths = 8 * math.prod(value.shape) if value.dtype == "string" else 0
    return value.nbytes + lengths
