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
from datetime import datetime
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from . import progress
from .late import late

if TYPE_CHECKING:
    import numpy as np
    from rich import cells
    from rich.console import Console

    from varserve import tensors
    from varserve._client.values import specs
    from varserve.tensors import Array
else:
    cells = late("rich.cells")
    np = late("numpy")
    specs = late("varserve._client.values.specs")
    tensors = late("varserve.tensors")

# A pipe has no width: nothing is cut off or wrapped for it.
_WIDE = 10_000
# Columns of text are shortened to this before columns are left out, and to that before blocks.
_NARROW = 20
_NARROWEST = 8


def plain(text: str) -> str:
    """The text without anything that a terminal would obey, direction marks included."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _number(char) for char in text)


def _number(char: str) -> str:
    return char.encode("unicode_escape", "backslashreplace").decode() or "?"


def console(*, errors: bool = False) -> Console:
    """A console on standard output or error as it is now."""
    from rich.console import Console

    stream = sys.stderr if errors else sys.stdout
    width = None if stream.isatty() else _WIDE
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def echo(text: str = "", *, newline: bool = True) -> None:
    """Text on standard output, as it is."""
    progress.hide()
    click.echo(text, nl=newline)


class Column(NamedTuple):
    """One column of a table.

    right: numbers, which are set to the right and never cut. drop: where there is no room, columns
    of the highest number go first; 0: stays.
    """

    head: str
    right: bool = False
    drop: int = 0


def table(columns: Sequence[Column | str], rows: Iterable[Sequence[object]]) -> None:
    """A table; a column that is a string is its head, with `>` before that of numbers.

    On a terminal it fits: columns of less importance go, text goes on below between its words, and
    names are shortened in their middle. Where not even that suffices each row is a block. In a pipe
    everything is there. Thousands of rows take no time: rich's own tables need a millisecond each.
    """
    every = [
        Column(each.removeprefix(">"), each.startswith(">")) if isinstance(each, str) else each
        for each in columns
    ]
    cells = [[plain(str(cell)) for cell in row] for row in rows]
    if not cells:
        return
    screen = console()
    if not screen.is_terminal:
        _write(every, cells, [_width(every, cells, at) for at in range(len(every))], "  ")
        return
    gap = "   "
    kept, widths = _fitted(every, cells, screen.width, len(gap))
    if not kept:
        _blocks(every, cells, screen.width)
        return
    every = [every[at] for at in kept]
    echo()
    _write(every, [[row[at] for at in kept] for row in cells], widths, gap, terminal=True)
    echo()


def _width(columns: Sequence[Column], rows: Sequence[Sequence[str]], at: int) -> int:
    return max(cells.cell_len(columns[at].head), *(cells.cell_len(row[at]) for row in rows))


def _fitted(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], room: int, gap: int
) -> tuple[list[int], list[int]]:
    """Which columns fit, and how wide each is; none where no table fits."""
    natural = [_width(columns, rows, at) for at in range(len(columns))]
    for narrow in (_NARROW, _NARROWEST):
        kept = list(range(len(columns)))
        least = [
            width if column.right else min(width, max(narrow, cells.cell_len(column.head)))
            for width, column in zip(natural, columns, strict=True)
        ]
        while True:
            left = room - gap * (len(kept) - 1)
            if sum(least[at] for at in kept) <= left:
                widths = [natural[at] for at in kept]
                _squeeze(widths, [least[at] for at in kept], left)
                return kept, widths
            last = max(kept, key=lambda at: columns[at].drop)
            if not columns[last].drop:
                break
            kept.remove(last)
    return [], []


def _squeeze(widths: list[int], least: Sequence[int], room: int) -> None:
    """Takes from the widest columns what does not fit beside the others."""
    while sum(widths) > room:
        at = max(
            (at for at in range(len(widths)) if widths[at] > least[at]), key=lambda at: widths[at]
        )
        widths[at] -= 1


def _write(
    columns: Sequence[Column],
    rows: Iterable[Sequence[str]],
    widths: Sequence[int],
    gap: str,
    *,
    terminal: bool = False,
) -> None:
    right = [column.right for column in columns]
    heads = [column.head for column in columns]
    if any(heads):
        head = "\n".join(_lines([heads], widths, right, gap))
        echo(click.style(head, bold=True) if terminal else head)
        if terminal:
            echo("─" * (sum(widths) + len(gap) * (len(widths) - 1)))
    echo("\n".join(_lines(rows, widths, right, gap)))


def _blocks(columns: Sequence[Column], rows: Iterable[Sequence[str]], room: int) -> None:
    """Each row as lines of their own, for a terminal that is narrower than any table of them."""
    for row in rows:
        echo()
        for column, cell in zip(columns, row, strict=True):
            for each in _folded(f"{column.head} {cell}".strip() if cell else "", max(room, 1)):
                if each:
                    echo(each)
    echo()


def _lines(
    rows: Iterable[Sequence[str]], widths: Sequence[int], to_right: Sequence[bool], gap: str
) -> Iterator[str]:
    for row in rows:
        columns = [_folded(cell, width) for cell, width in zip(row, widths, strict=True)]
        for row_cells in zip_longest(*columns, fillvalue=""):
            padded = []
            for cell, width, right in zip(row_cells, widths, to_right, strict=True):
                room = " " * (width - cells.cell_len(cell))
                padded.append(room + cell if right else cell + room)
            yield gap.join(padded).rstrip()


def _folded(text: str, width: int) -> list[str]:
    """The text as lines that are no wider, divided between words; longer words are shortened."""
    if cells.cell_len(text) <= width:
        return [text]
    lines = [""]
    for word in text.split(" "):
        word = shortened(word, width)
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if cells.cell_len(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(word)
    return lines


def shortened(text: str, width: int) -> str:
    """The text without its middle, where it is wider: `layers/0/…/kernel`."""
    if cells.cell_len(text) <= width:
        return text
    if width < 3:
        return cells.chop_cells(text, width)[0] if width else ""
    head = cells.chop_cells(text, (width - 1) // 2)[0]
    tail = cells.chop_cells(text[::-1], width - 1 - cells.cell_len(head))[0][::-1]
    return f"{head}…{tail}"


def line(text: str) -> None:
    """A line of text."""
    echo(plain(text))


def warning(text: str) -> None:
    """A line on standard error, for people."""
    progress.hide()
    console(errors=True).print(plain(f"warning: {text}"), soft_wrap=True)


def note(text: str) -> None:
    """A line on standard error, for people and logs."""
    progress.hide()
    click.echo(f"varserve: {plain(text)}", err=True)


def document(content: object) -> None:
    """One JSON document, on a line."""
    echo(json.dumps(content, allow_nan=False))


def time(moment: datetime) -> str:
    """A time for people, by their own clock."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"


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
    return f"{tensors.dtype_name(dtype)} {specs.shape_text(shape)}"


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
