"""The pages of models and variables."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from varserve import (
    AccessDenied,
    ListedCommit,
    RevisionCompacted,
    Summary,
    VariableUninitialized,
    aio,
)
from varserve.tensors import STRING, Array, dtype_name
from varserve.web import drawing
from varserve.web.pages.common import (
    BINS,
    PAGE_ROWS,
    caller_of,
    clamped,
    integer,
    literal,
    model_of,
    page_of,
    render,
)

WINDOW = 48
"""Rows and columns of a heat map at most."""
HISTORY = 12
"""Revisions of a variable that are looked at, the newest ones."""
TEXT_ELEMENTS = 256
"""A value of at most so many elements can be edited as text, and is shown in numbers."""


async def models(request: Request) -> Response:
    """All models and versions. Whoever asks for no page is told that this is alive (KServe)."""
    if request.headers.get("accept") in ("*/*", "application/json"):
        return JSONResponse({"status": "alive"})
    return render(request, "models.html", models=await caller_of(request).client.models())


async def variables(request: Request) -> Response:
    """The variables of a model that fit a filter, a page at a time, with their histograms."""
    model = await model_of(request)
    text = request.query_params.get("filter", "").strip()
    trainable = request.query_params.get("trainable", "")
    names = [
        name
        for name, handle in model.variables.items()
        if text.lower() in name.lower() and (not trainable or handle.trainable)
    ]
    page, pages = page_of(request, len(names))
    shown = names[page * PAGE_ROWS : (page + 1) * PAGE_ROWS]
    summaries, problem = await _summaries(model, shown)
    return render(
        request,
        "variables.html",
        model=model,
        nbytes=sum(handle.nbytes for handle in model.variables.values()),
        names=shown,
        total=len(names),
        summaries=summaries,
        problem=problem,
        filter=text,
        trainable=trainable,
        page=page,
        pages=pages,
    )


async def _summaries(model: aio.Model, names: list[str]) -> tuple[Mapping[str, Summary], str]:
    """Summaries of those that have a value; why there are none, where the caller may not."""
    wanted = [name for name in names if model.variables[name].initialized]
    if not wanted:
        return {}, ""
    try:
        return await model.summaries(dict.fromkeys(wanted), bins=BINS, content_hash=False), ""
    except AccessDenied as error:
        return {}, str(error)


async def variable(request: Request) -> Response:
    """One variable: its values now, over revisions, and what lies between two of them."""
    model = await model_of(request)
    handle = model.variables[request.path_params["variable"]]
    at, start, end = (integer(request, name) for name in ("at", "from", "to"))
    listed = await model.commits(literal(handle.name), limit=HISTORY)
    context: dict[str, Any] = {"summary": None, "problem": "", "history": [], "difference": None}
    try:
        context["summary"] = await handle.summary(bins=2 * BINS, at_revision=at)
        context["history"] = await _history(handle, listed)
        window = _window(request, handle)
        if window is not None:
            context |= {"window": window, **_elements(await _read(handle, window, at), handle)}
        if start is not None and end is not None:
            context["difference"] = await _difference(handle, window, start, end)
    except (AccessDenied, VariableUninitialized, RevisionCompacted) as error:
        context["problem"] = str(error)
    return render(
        request,
        "variable.html",
        model=model,
        variable=handle,
        lines=drawing.over_revisions([_point(row) for row in context["history"] if row.summary]),
        at=at,
        **context,
    )


class HistoryRow(NamedTuple):
    """What a commit left of a variable; `commit` is None for what was there before the others."""

    revision: int
    commit: ListedCommit | None
    summary: Summary | None


async def _history(handle: aio.Variable, listed: Sequence[ListedCommit]) -> list[HistoryRow]:
    """The commits that wrote a variable, the newest first, and what was there before them."""

    async def at(revision: int) -> Summary | None:
        try:
            return await handle.summary(bins=BINS, at_revision=revision)
        except (RevisionCompacted, VariableUninitialized):
            return None

    summaries = await asyncio.gather(*(at(commit.revision) for commit in listed))
    rows = [
        HistoryRow(commit.revision, commit, summary)
        for commit, summary in zip(listed, summaries, strict=True)
    ]
    if rows:
        before = rows[-1].revision - 1
        summary = await at(before)
        if summary is not None:
            rows.append(HistoryRow(before, None, summary))
    return rows


def _point(row: HistoryRow) -> drawing.Point:
    assert row.summary is not None
    return drawing.Point(row.revision, row.summary.min, row.summary.mean, row.summary.max)


class Window(NamedTuple):
    """A part of a variable that is shown as a matrix."""

    sizes: tuple[int, ...]
    """Of the variable."""
    lead: tuple[int, ...]
    """Indices into all dimensions but the last two."""
    row: int
    column: int

    @property
    def region(self) -> tuple[int | slice, ...]:
        """As numpy takes it."""
        first = (self.row, self.column)[-len(self.sizes) :]
        inner = zip(first, self.sizes[-2:], strict=True)
        return (*self.lead, *(slice(at, min(size, at + WINDOW)) for at, size in inner))


def _window(request: Request, handle: aio.Variable) -> Window | None:
    """The window that the address asks for; None for what no matrix shows."""
    shape = handle.shape
    if shape is None or dtype_name(handle.dtype) == STRING:
        return None
    sizes = tuple(size for size in shape if size)
    if len(sizes) != len(shape):
        return None  # a dimension that is not fixed, or empty
    rows, columns = (1, 1, *sizes)[-2:]
    lead = tuple(clamped(request, f"i{axis}", size) for axis, size in enumerate(sizes[:-2]))
    return Window(sizes, lead, clamped(request, "row", rows), clamped(request, "column", columns))


async def _read(handle: aio.Variable, window: Window, at: int | None) -> Array:
    """The window at a revision, float64 [rows, columns]."""
    part = handle[window.region] if window.sizes else handle
    value = np.asarray(await part.numpy(at_revision=at))
    floats = (np.abs(value) if value.dtype.kind == "c" else value).astype(np.float64)
    return floats.reshape(-1, floats.shape[-1] if floats.ndim else 1)


def _elements(matrix: Array, handle: aio.Variable) -> dict[str, Any]:
    whole = matrix.size == math.prod(size or 0 for size in handle.shape or ())
    short = matrix.size <= TEXT_ELEMENTS
    value = matrix.reshape([size or 0 for size in handle.shape or ()]).tolist() if whole else None
    return {
        "matrix": drawing.heat_map(matrix),
        "cells": matrix.tolist() if short else None,
        "text": json.dumps(value) if short and whole and handle.dtype.kind != "c" else "",
    }


async def _difference(
    handle: aio.Variable, window: Window | None, start: int, end: int
) -> dict[str, Any]:
    """What a variable was at two revisions, and the change of what the window shows."""
    one, other = await asyncio.gather(
        handle.summary(bins=BINS, at_revision=start), handle.summary(bins=BINS, at_revision=end)
    )
    difference: dict[str, Any] = {
        "start": start,
        "end": end,
        "one": one,
        "other": other,
        "equal": one.content_hash == other.content_hash,
    }
    if window is None or one.shape != other.shape:
        return difference
    before, after = await asyncio.gather(_read(handle, window, start), _read(handle, window, end))
    change = after - before
    finite = np.abs(change[np.isfinite(change)])
    return difference | {
        "picture": drawing.heat_map(change),
        "largest": float(finite.max()) if finite.size else math.nan,
        "changed": int(np.count_nonzero(change)),
        "shown": change.size,
    }
