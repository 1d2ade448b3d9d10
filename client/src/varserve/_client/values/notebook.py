"""How values and handles look in a notebook: HTML with nothing in it that a name could drive.

Pictures are SVG inside the text, in the colour of the text, and say in words what they show. Knows
what calls give; makes no calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from varserve import tensors
from varserve.tensors import Array

from .results import Commit, Commits, Outputs, Snapshot
from .specs import FunctionSpec, VariableSpec, shape_text
from .summaries import Histogram, Summary

_MOST_ROWS = 50
_HEIGHT = 40
_CELL = "text-align:left;vertical-align:top"


def histogram(drawn: Histogram) -> str:
    """Bars, one for each bin, as high as the bin is full."""
    counts = drawn.counts.tolist()
    top = max([1, *counts])
    bars = "".join(
        f"M{at} {_HEIGHT}v{-max(1.0, _HEIGHT * count / top):.1f}h.9V{_HEIGHT}z"
        for at, count in enumerate(counts)
        if count
    )
    low, high = (f"{float(edge):.4g}" for edge in (drawn.edges[0], drawn.edges[-1]))
    told = f"{sum(counts)} elements from {low} to {high}"
    return (
        f'<svg role="img" aria-label="{told}" width="240" height="{_HEIGHT}" '
        f'viewBox="0 0 {max(1, len(counts))} {_HEIGHT}" preserveAspectRatio="none">'
        f'<title>{told}</title><path fill="currentColor" opacity=".7" d="{bars}"/></svg>'
        f"<br><small>{low} … {high}</small>"
    )


def summary(of: Summary) -> str:
    """The numbers of a value, and its histogram."""
    drawn = "" if of.histogram is None else histogram(of.histogram)
    title = f"<b>{escape(of.variable)}</b> {_typed(of.dtype, of.shape)}"
    return f"<div>{title}<br>{drawn}{_pairs(_numbers(of))}</div>"


def variable(spec: VariableSpec, of: Summary | None, note: str) -> str:
    """What a variable is, and how its value is distributed. note: why that is not there."""
    state = f"revision {spec.revision}" if spec.initialized else "no value yet"
    title = f"<b>{escape(spec.name)}</b> {_typed(spec.dtype, spec.shape)}"
    where = f"{escape(spec.device)}, {state}"
    more = f"<small>{escape(note)}</small>" if of is None else ""
    drawn = "" if of is None or of.histogram is None else histogram(of.histogram)
    numbers = "" if of is None else _pairs(_numbers(of))
    return f"<div>{title}<br>{where}<br>{drawn}{more}{numbers}</div>"


def variables(specs: Sequence[VariableSpec]) -> str:
    """A row for each variable."""
    rows = [
        (
            spec.name,
            tensors.dtype_name(spec.dtype),
            shape_text(spec.shape),
            spec.revision if spec.initialized else "no value",
            "yes" if spec.trainable else "",
        )
        for spec in specs[:_MOST_ROWS]
    ]
    head = ("variable", "dtype", "shape", "revision", "trainable")
    return _table(head, rows, len(specs), f"{len(specs)} variables")


def function(spec: FunctionSpec) -> str:
    """A function's overloads, with what they take, give and write."""
    return _functions([spec], f"function {spec.name}")


def functions(specs: Sequence[FunctionSpec]) -> str:
    """A row for each overload of each function."""
    return _functions(specs, f"{len(specs)} functions")


def _functions(specs: Sequence[FunctionSpec], title: str) -> str:
    rows = [
        (
            spec.name,
            ", ".join(map(str, overload.inputs)),
            ", ".join(f"{each.name}: {each.tensor}" for each in overload.outputs),
            ", ".join(overload.writes),
        )
        for spec in specs
        for overload in spec.overloads
    ]
    head = ("function", "inputs", "outputs", "writes")
    return _table(head, rows[:_MOST_ROWS], len(rows), title)


def model(name: str, facts: Mapping[str, object], specs: Sequence[VariableSpec]) -> str:
    """What a model is, and its variables."""
    return f"<div><b>{escape(name)}</b>{_pairs(facts.items())}{variables(specs)}</div>"


def commit(of: Commit) -> str:
    """A change that was made."""
    title = f"<b>revision {of.revision}</b> of {escape(of.model)}"
    value = "" if of.value is None else f"<br><pre>{escape(str(of.value))}</pre>"
    return f"<div>{title}{value}</div>"


def commits(of: Commits) -> str:
    """A row for each commit: who changed what, when and why."""
    rows = []
    for each in of[:_MOST_ROWS]:
        names = ", ".join(each.variables[:3])
        more = each.variable_count - min(3, len(each.variables))
        rows.append(
            (
                each.revision,
                f"{each.info.time:%Y-%m-%d %H:%M:%S}",
                each.info.kind,
                each.info.subject,
                f"{names} and {more} more" if more else names,
                each.info.message,
            )
        )
    head = ("revision", "time (UTC)", "kind", "who", "variables", "message")
    return _table(head, rows, len(of), f"commits of {of.model}")


def arrays(of: Snapshot | Outputs) -> str:
    """A row for each array: what it is, and the beginning of it."""
    revisions = of.revisions if isinstance(of, Snapshot) else None
    rows = [
        (
            name,
            tensors.dtype_name(array.dtype),
            shape_text(array.shape),
            *(() if revisions is None else (revisions[name],)),
            _beginning(array),
        )
        for name, array in list(of.items())[:_MOST_ROWS]
    ]
    head = ("name", "dtype", "shape", *(() if revisions is None else ("written at",)), "value")
    kind = "snapshot" if revisions is not None else "outputs"
    return _table(head, rows, len(of), f"{kind} of {of.model} at revision {of.revision}")


def _beginning(array: Array) -> str:
    import numpy as np

    text = np.array2string(array, threshold=6, edgeitems=2, separator=", ").replace("\n", " ")
    return text if len(text) <= 80 else f"{text[:79]}…"


def _numbers(of: Summary) -> Iterable[tuple[str, object]]:
    for name in ("min", "max", "mean", "standard_deviation", "zeros", "nans", "infinities"):
        value: Any = getattr(of, name)
        if value is not None and not (name in ("zeros", "nans", "infinities") and not value):
            shown = f"{value:.6g}" if isinstance(value, float) else value
            yield name.replace("_", " "), shown
    if of.content_hash:
        yield "hash", of.content_hash[:12]


def _typed(dtype: Any, shape: Any) -> str:
    return escape(f"{tensors.dtype_name(dtype)} {shape_text(shape)}")


def _pairs(pairs: Iterable[tuple[str, object]]) -> str:
    rows = "".join(
        f'<tr><th style="{_CELL}">{escape(name)}</th>'
        f'<td style="{_CELL}">{escape(str(value))}</td></tr>'
        for name, value in pairs
    )
    return f"<table>{rows}</table>"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]], total: int, caption: str) -> str:
    heads = "".join(f'<th style="{_CELL}">{escape(each)}</th>' for each in head)
    body = "".join(
        "<tr>" + "".join(f'<td style="{_CELL}">{escape(str(cell))}</td>' for cell in row) + "</tr>"
        for row in rows
    )
    rest = total - len(rows)
    more = f"<p><small>and {rest} more</small></p>" if rest > 0 else ""
    return (
        f"<div><table><caption>{escape(caption)}</caption>"
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>{more}</div>"
    )
