"""The history of a model, and what changes it: assign and revert."""

from __future__ import annotations

import json

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from varserve import VarserveError, aio
from varserve.tensors import as_array, dtype_name
from varserve.web.pages.common import (
    PAGE_ROWS,
    check_writable,
    integer,
    literal,
    model_of,
    read_form,
    render,
    whole,
)


async def commits(request: Request) -> Response:
    """The history, the newest commit first."""
    model = await model_of(request)
    before = integer(request, "before")
    pattern = request.query_params.get("filter", "").strip()
    listed = await model.commits(
        f"*{literal(pattern)}*" if pattern else (), limit=PAGE_ROWS, before=before
    )
    return render(
        request,
        "commits.html",
        model=model,
        commits=listed,
        filter=pattern,
        older=listed[-1].revision if len(listed) == PAGE_ROWS else None,
        may_revert=request.app.state.options.writable
        and all(each.spec.may_assign for each in model.variables.values()),
    )


async def revert(request: Request) -> Response:
    """POST: give a variable, or all of them, the values of a revision, as a new commit."""
    form = await read_form(request)
    check_writable(request)
    model = await model_of(request, now=True)
    names = [form["variable"]] if form.get("variable") else []
    to = whole(form.get("revision", ""), "revision")
    message = form.get("message", "").strip() or f"back to revision {to}"
    await model.revert(to, names, message=message)
    return _back(request, model, names)


async def assign(request: Request) -> Response:
    """POST: set a variable to a value in JSON, if nobody wrote it since the page was made."""
    form = await read_form(request)
    check_writable(request)
    model = await model_of(request, now=True)
    handle = model.variables[request.path_params["variable"]]
    try:
        value = as_array(json.loads(form.get("value", "")), dtype_name(handle.dtype))
    except (ValueError, VarserveError) as error:
        raise HTTPException(400, f"the value of {handle.name}: expected JSON: {error}") from None
    if value.dtype.kind in "fc" and not np.isfinite(value).all() and not form.get("non_finite"):
        raise HTTPException(400, f"the value of {handle.name} has NaN or infinite elements")
    await handle.assign(
        value,
        if_revision_match=whole(form.get("revision", ""), "revision"),
        message=form.get("message", "").strip(),
    )
    return _back(request, model, [handle.name])


def _back(request: Request, model: aio.Model, names: list[str]) -> Response:
    if names:
        url = request.url_for("variable", model=model.name, variable=names[0])
    else:
        url = request.url_for("commits", model=model.name)
    return RedirectResponse(url.path, status_code=303)
