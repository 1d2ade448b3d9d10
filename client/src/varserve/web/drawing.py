"""Pictures of values as SVG: histograms, heat maps and lines over revisions.

Knows numpy and markup; knows no HTTP. Every picture has a text that says what it shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup, escape

from varserve import Histogram
from varserve.tensors import Array


def number(value: float | int | bool | None) -> str:
    """A number in at most four significant digits; whole numbers whole."""
    if value is None:
        return ""
    if isinstance(value, (bool, int)):
        return str(value)
    return f"{value:.4g}"


def histogram(drawn: Histogram | None, width: int = 140, height: int = 26) -> Markup:
    """Bars, one for each bin, as high as the bin is full."""
    if drawn is None or not drawn.counts.size:
        return Markup("")
    counts = drawn.counts.astype(np.float64)
    top = counts.max() or 1.0
    bins = counts.size
    bars = "".join(
        f"M{at} {height}v{-max(1.0, height * count / top):.1f}h.92v{height}z"
        for at, count in enumerate(counts.tolist())
        if count
    )
    fullest = int(counts.argmax())
    text = (
        f"{int(counts.sum())} values from {number(float(drawn.edges[0]))} "
        f"to {number(float(drawn.edges[-1]))}; most of them from "
        f"{number(float(drawn.edges[fullest]))} to {number(float(drawn.edges[fullest + 1]))}"
    )
    return _svg(
        "histogram", width, height, f"0 0 {bins} {height}", text, Markup('<path d="{}"/>'), bars
    )


class Point(NamedTuple):
    """One value over revisions: where it lay, and between what."""

    revision: int
    low: float | None
    mean: float
    high: float | None


def over_revisions(points: Sequence[Point], width: int = 640, height: int = 160) -> Markup:
    """A band from the smallest to the largest element, and a line of means, by revision."""
    drawn = [
        (float(each.low), each.mean, float(each.high), each.revision)
        for each in sorted(points)
        if each.low is not None and each.high is not None
    ]
    if len(drawn) < 2:
        return Markup("")
    low, high = min(each[0] for each in drawn), max(each[2] for each in drawn)
    span = (high - low) or 1.0
    left, bottom = 64, 18

    def x(at: int) -> float:
        return left + (width - left - 8) * at / (len(drawn) - 1)

    def y(value: float) -> float:
        return 4 + (height - bottom - 8) * (1 - (value - low) / span)

    upper = " ".join(f"{x(at):.1f},{y(each[2]):.1f}" for at, each in enumerate(drawn))
    lower = " ".join(
        f"{x(at):.1f},{y(each[0]):.1f}" for at, each in reversed(list(enumerate(drawn)))
    )
    means = " ".join(f"{x(at):.1f},{y(each[1]):.1f}" for at, each in enumerate(drawn))
    marks = Markup("").join(
        Markup('<circle cx="{}" cy="{}" r="3"><title>revision {}: mean {}</title></circle>').format(
            f"{x(at):.1f}", f"{y(each[1]):.1f}", each[3], number(each[1])
        )
        for at, each in enumerate(drawn)
    )
    body = Markup(
        '<polygon class="band" points="{} {}"/><polyline points="{}"/>{}'
        '<text x="0" y="12">{}</text><text x="0" y="{}">{}</text>'
        '<text x="{}" y="{}">{}</text><text x="{}" y="{}" text-anchor="end">{}</text>'
    ).format(
        *(upper, lower, means, marks, number(high), height - bottom, number(low)),
        *(left, height - 2, drawn[0][3], width - 4, height - 2, drawn[-1][3]),
    )
    text = (
        f"from revision {drawn[0][3]} to {drawn[-1][3]} the mean went from {number(drawn[0][1])} "
        f"to {number(drawn[-1][1])}; all elements lie between {number(low)} and {number(high)}"
    )
    return _svg("lines", width, height, f"0 0 {width} {height}", text, body)


def heat_map(values: Array) -> Markup:
    """A square for each element of a matrix, from blue (below zero) to orange (above).

    values: float64 [rows, columns]. What is neither NaN nor infinite is scaled by the largest
    absolute value; the others are crossed out.
    """
    rows, columns = values.shape
    cell = min(28, max(9, 460 // max(rows, columns)))
    finite = np.isfinite(values)
    top = float(np.abs(values[finite]).max()) if finite.any() else 0.0
    cells = Markup("").join(
        Markup('<rect x="{}" y="{}" width="1" height="1" class="{}" opacity="{}">{}</rect>').format(
            column,
            row,
            _kind(value),
            "1" if not np.isfinite(value) else f"{abs(value) / (top or 1.0):.3f}",
            Markup("<title>[{}, {}] = {}</title>").format(row, column, number(value)),
        )
        for (row, column), value in zip(
            np.ndindex(rows, columns), values.ravel().tolist(), strict=True
        )
    )
    text = f"{rows} by {columns} elements, the largest absolute value is {number(top)}"
    view = f"0 0 {columns} {rows}"
    return _svg("heat", columns * cell, rows * cell, view, text, cells)


def _kind(value: float) -> str:
    if not np.isfinite(value):
        return "odd"
    return "above" if value >= 0 else "below"


def _svg(
    kind: str, width: int, height: int, view: str, text: str, body: Markup, *given: object
) -> Markup:
    stretch = ' preserveAspectRatio="none"' if kind == "histogram" else ""
    return Markup(
        '<svg class="{}" role="img" aria-label="{}" width="{}" height="{}" viewBox="{}"{}>'
        "<title>{}</title>{}</svg>"
    ).format(
        *(kind, text, width, height, view, Markup(stretch)),
        *(escape(text), body.format(*given) if given else body),
    )
