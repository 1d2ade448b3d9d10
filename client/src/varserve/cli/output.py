"""What commands print: tables for people, JSON with stable keys for programs.

Nothing that comes from the service can drive the terminal: characters that do not print are shown
by their number.
"""

from __future__ import annotations

import base64
import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Any

import click
import numpy as np
from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.text import Text

from varserve import tensors
from varserve._client.values.specs import shape_text
from varserve.tensors import Array

# A pipe has no width: nothing is cut off or wrapped for it.
_WIDE = 10_000
# Of a column: some characters take two cells.
_NARROWEST = 2


def plain(text: str) -> str:
    """The text without anything that a terminal would obey, direction marks included."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _number(char) for char in text)


def _number(char: str) -> str:
    return char.encode("unicode_escape", "backslashreplace").decode() or "?"


def console(*, errors: bool = False) -> Console:
    """A console on standard output or error as it is now."""
    stream = sys.stderr if errors else sys.stdout
    width = None if stream.isatty() else _WIDE
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> None:
    """A table; a column whose name begins with `>` is set to the right.

    Thousands of rows take no time: rich's own tables need a millisecond for each.
    """
    if title:
        line(title)
    cells = [[plain(str(cell)) for cell in row] for row in rows]
    if not cells:
        return
    names = [column.removeprefix(">") for column in columns]
    to_right = [column.startswith(">") for column in columns]
    widths = [max(map(cell_len, column)) for column in zip(names, *cells, strict=True)]
    if not sys.stdout.isatty():
        gap = "  "
        shown = [names, *cells] if any(columns) else cells
        click.echo("\n".join(_lines(shown, widths, to_right, gap)))
        return
    screen = console()
    gap = "   "
    _squeeze(widths, screen.width - len(gap) * (len(widths) - 1))
    screen.line()
    if any(columns):
        for head in _lines([names], widths, to_right, gap):
            screen.print(Text(head, "bold"), soft_wrap=True)
        click.echo("─" * (sum(widths) + len(gap) * (len(widths) - 1)))
    click.echo("\n".join(_lines(cells, widths, to_right, gap)) + "\n")


def _squeeze(widths: list[int], room: int) -> None:
    """Takes from the widest columns what does not fit beside the others."""
    while sum(widths) > room and max(widths) > _NARROWEST:
        widths[widths.index(max(widths))] -= 1


def _lines(
    rows: Iterable[Sequence[str]], widths: Sequence[int], to_right: Sequence[bool], gap: str
) -> Iterator[str]:
    for row in rows:
        columns = [_folded(cell, width) for cell, width in zip(row, widths, strict=True)]
        for cells in zip_longest(*columns, fillvalue=""):
            padded = []
            for cell, width, right in zip(cells, widths, to_right, strict=True):
                room = " " * (width - cell_len(cell))
                padded.append(room + cell if right else cell + room)
            yield gap.join(padded).rstrip()


def _folded(text: str, width: int) -> list[str]:
    """The text as lines that are no wider, between words where there are some."""
    lines = []
    while cell_len(text) > width:
        head = chop_cells(text, width)[0]
        whole = text[len(head)] == " "
        end = len(head) if whole else head.rfind(" ") + 1 or len(head)
        lines.append(head[:end].rstrip())
        text = text[end:].lstrip()
    return [*lines, text]


def line(text: str) -> None:
    """A line of text."""
    click.echo(plain(text))


def warning(text: str) -> None:
    """A line on standard error, for people."""
    console(errors=True).print(plain(f"warning: {text}"), soft_wrap=True)


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
