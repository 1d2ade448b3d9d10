"""What the page of a function shows of its inside: inner tensors, and a look at one run.

A look is never a commit, so it is there on pages that are read-only. The caller's own right to
inspect the function shows and hides it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from starlette.requests import Request

from varserve import (
    AccessDenied,
    FunctionMessage,
    InnerTensor,
    InspectionTooLarge,
    InspectionUnsupported,
    Iterations,
    NonFinite,
    Summary,
    TensorPlace,
    aio,
)
from varserve.web.connections import Caller
from varserve.web.pages.common import BINS, PAGE_ROWS, integer, page_of
from varserve.web.pages.values import shown

_PROBE = "probe:"
_MOST_ROWS = 500
"""Probes of one look that are shown, iterations counted; and as many messages."""

_PLACES = {
    TensorPlace.TOP: "",
    TensorPlace.LOOP: "in a loop",
    TensorPlace.BRANCH: "in a branch",
    TensorPlace.XLA: "inside XLA",
}


class Listing(NamedTuple):
    """The inner tensors that fit a filter, a page of them. `problem`: why there are none."""

    everything: Sequence[InnerTensor] = ()
    tensors: Sequence[InnerTensor] = ()
    fitting: int = 0
    filter: str = ""
    overload: int = 0
    page: int = 0
    pages: int = 1
    problem: str = ""


def place_text(tensor: InnerTensor) -> str:
    """Where an inner tensor stands, in words; nothing for what every run computes once."""
    return _PLACES.get(tensor.place, str(tensor.place))


async def listing(
    request: Request, caller: Caller, model: aio.Model, handle: aio.Function
) -> Listing | None:
    """The inner tensors that the address asks for; None for a caller who may not know of them."""
    overload = min(max(0, integer(request, "overload") or 0), len(handle.overloads) - 1)
    text = request.query_params.get("filter", "").strip()
    try:
        found = await caller.inner_tensors(model, handle, overload)
    except AccessDenied:
        return None
    except (InspectionUnsupported, InspectionTooLarge) as error:
        return Listing(problem=str(error))
    wanted = text.lower()
    fitting = [
        each
        for each in found
        if wanted in each.name.lower() or wanted == each.op.lower() or wanted in each.source.lower()
    ]
    page, pages = page_of(request, len(fitting))
    rows = fitting[page * PAGE_ROWS : (page + 1) * PAGE_ROWS]
    return Listing(found, rows, len(fitting), text, overload, page, pages)


class Row(NamedTuple):
    """One probe, in one iteration: its summary."""

    name: str
    iteration: str
    summary: Summary
    tensor: InnerTensor | None


class Look(NamedTuple):
    """What was seen of one run."""

    revision: int
    rows: Sequence[Row]
    more_rows: int
    messages: Sequence[tuple[str, FunctionMessage]]
    more_messages: int
    first_non_finite: str
    gradients: Sequence[tuple[str, str, Any]]
    not_run: Sequence[str]
    notes: Sequence[str]
    asked_non_finite: bool


async def look(
    handle: aio.Function,
    inputs: Mapping[str, Any],
    form: Mapping[str, str],
    tensors: Sequence[InnerTensor],
) -> tuple[Look, Mapping[str, Any]]:
    """Run the function and look at what the form asks for; its outputs too.

    `tensors`: what is known of its inner tensors. Raises VarserveError.
    """
    find = bool(form.get("non_finite"))
    seen = await handle.inspect(
        dict(inputs),
        probe=[*chosen(form), *form.get("patterns", "").split()],
        summarize=BINS,
        find_non_finite=find,
        gradients_of=form.get("gradients_of", ""),
        wrt=form.get("wrt", "").split() if form.get("gradients_of") else (),
    )
    by_name = {each.name: each for each in tensors}
    rows = [
        Row(name, _iteration(iteration), summary, by_name.get(name))
        for name, iteration, summary in _each(seen.probes)
    ]
    first = seen.first_non_finite
    found = Look(
        seen.revision,
        rows[:_MOST_ROWS],
        max(0, len(rows) - _MOST_ROWS),
        *said(seen.messages),
        "" if first is None else _not_finite(first),
        [
            (name, _iteration(iteration), None if value is None else shown(value))
            for name, iteration, value in _each(seen.gradients)
        ][:_MOST_ROWS],
        seen.not_run,
        seen.notes,
        find,
    )
    return found, seen.outputs


def chosen(form: Mapping[str, str]) -> list[str]:
    """The names that are ticked."""
    return [name.removeprefix(_PROBE) for name in form if name.startswith(_PROBE)]


def said(messages: Sequence[FunctionMessage]) -> tuple[list[tuple[str, FunctionMessage]], int]:
    """Messages with their iterations in words, as many as are shown, and how many more."""
    told = [(_iteration(each.iteration), each) for each in messages[:_MOST_ROWS]]
    return told, max(0, len(messages) - _MOST_ROWS)


def _each(found: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...], Any]]:
    for name, content in found.items():
        if isinstance(content, Iterations):
            for iteration, each in zip(content.iterations, content, strict=True):
                yield name, iteration, each
        else:
            yield name, (), content


def _iteration(iteration: tuple[int, ...]) -> str:
    return ", ".join(map(str, iteration))


def _not_finite(found: NonFinite) -> str:
    counts = (
        (found.nans, "NaN"),
        (found.positive_infinities, "+inf"),
        (found.negative_infinities, "-inf"),
    )
    told = ", ".join(f"{count} {what}" for count, what in counts if count)
    at = f" in iteration {_iteration(found.iteration)}" if found.iteration else ""
    return f"{found.name} ({found.op}){at}: {told}"
