"""What commands print: tables for people, JSON with stable keys for programs.

Nothing that comes from the service can drive the terminal: characters that do not print are shown
by their number.
"""

from __future__ import annotations

import base64
import json
import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from varserve import tensors
from varserve.specs import shape_text
from varserve.tensors import Array

# A pipe has no width: nothing is cut off or wrapped for it.
_WIDE = 10_000


def plain(text: str) -> str:
    """The text without anything that a terminal would obey, direction marks included."""
    return "".join(char if char.isprintable() else _number(char) for char in text)


def _number(char: str) -> str:
    return char.encode("unicode_escape", "backslashreplace").decode() or "?"


def console(*, errors: bool = False) -> Console:
    """A console on standard output or error as it is now."""
    stream = sys.stderr if errors else sys.stdout
    width = None if stream.isatty() else _WIDE
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> None:
    """A table; a column whose name begins with `>` is set to the right."""
    if title:
        line(title)
    found = Table(
        box=box.SIMPLE_HEAD if sys.stdout.isatty() else None,
        pad_edge=False,
        show_header=any(columns),
    )
    for column in columns:
        right = column.startswith(">")
        found.add_column(
            column.removeprefix(">"), justify="right" if right else "left", overflow="fold"
        )
    for row in rows:
        found.add_row(*(Text(plain(str(cell))) for cell in row))
    if found.row_count:
        console().print(found)


def line(text: str) -> None:
    """A line of text."""
    click.echo(plain(text))


def document(content: object) -> None:
    """One JSON document, on a line."""
    click.echo(json.dumps(content, allow_nan=False))


def size(nbytes: int) -> str:
    """Bytes for people."""
    if nbytes < 1024:
        return f"{nbytes} B"
    power = min(4, (nbytes.bit_length() - 1) // 10)
    return f"{nbytes / 1024**power:.1f} {' KMGT'[power]}iB"


def number(value: object) -> str:
    """A number for people."""
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)


def typed(dtype: np.dtype[Any], shape: Any) -> str:
    """A type and shape for people."""
    return f"{tensors.dtype_name(dtype)} {shape_text(shape)}"


def shown(array: Array) -> str:
    """A value for people: the middle of a large one is left out."""
    if array.dtype.kind == "O":
        array = np.array([ascii(each)[1:] for each in array.reshape(-1)], object).reshape(
            array.shape
        )
        return np.array2string(array, threshold=100, formatter={"all": str})
    return np.array2string(array, threshold=200, edgeitems=3)


def jsonable(value: Any) -> Any:
    """A value as JSON has it: NaN and the infinities as strings, complex numbers as two numbers.

    Bytes are text where they are UTF-8, else `{"base64": ...}`.
    """
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biufcO":
            value = value.astype(np.float64)
        if value.dtype.kind in "biu":
            return value.tolist()
        return jsonable(value.tolist())
    match value:
        case list() | tuple():
            return [jsonable(each) for each in value]
        case dict():
            return {key: jsonable(each) for key, each in value.items()}
        case bytes():
            try:
                return value.decode()
            except UnicodeDecodeError:
                return {"base64": base64.b64encode(value).decode()}
        case complex():
            return [jsonable(value.real), jsonable(value.imag)]
        case float() if not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        case np.generic():
            return jsonable(value.item())
    return value
