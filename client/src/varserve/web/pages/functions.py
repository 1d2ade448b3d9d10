"""The pages of functions: their signatures, and a form that runs one or looks inside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from varserve import VarserveError, aio
from varserve.web.pages import inside
from varserve.web.pages.common import caller_of, check_writable, model_of, read_form, render
from varserve.web.pages.values import inputs_of, shown


async def functions(request: Request) -> Response:
    """The functions of a model."""
    model = await model_of(request)
    return render(request, "functions.html", model=model, functions=list(model.functions.values()))


async def function(request: Request) -> Response:
    """One function: its signature and inner tensors, and with POST a run or a look inside."""
    model = await model_of(request)
    caller = caller_of(request)
    handle = model.functions[request.path_params["function"]]
    listing = None
    if handle.spec.may_inspect:
        listing = await inside.listing(request, caller, model, handle)
    given: Mapping[str, str] = {}
    answer: dict[str, Any] = {}
    if request.method == "POST":
        given = await read_form(request)
        looks = given.get("action") == "inspect"
        if handle.spec.may_write and not looks:
            check_writable(request)
        answer = await _answer(handle, given, listing or inside.Listing() if looks else None)
    chosen = inside.chosen(given)
    listed = {tensor.name for tensor in listing.tensors} if listing else set()
    return render(
        request,
        "function.html",
        model=model,
        function=handle,
        spec=handle.spec,
        listing=listing,
        given=given,
        chosen=chosen,
        chosen_besides=[name for name in chosen if name not in listed],
        answer=answer,
    )


async def _answer(
    handle: aio.Function, form: Mapping[str, str], listing: inside.Listing | None
) -> dict[str, Any]:
    """What came of a run, or with a `listing` of a look inside; or why nothing did."""
    outputs: Mapping[str, Any]
    try:
        inputs = inputs_of(handle.spec, form)
        if listing is None:
            found = await handle.call(inputs)
            outputs, revision, look = found, found.revision, None
        else:
            look, outputs = await inside.look(handle, inputs, form, listing.everything)
            revision = look.revision
    except (VarserveError, ValueError) as error:
        messages, more = inside.said(getattr(error, "messages", ()))
        return {"problem": str(error), "messages": messages, "more_messages": more}
    return {
        "look": look,
        "revision": revision,
        "outputs": [(name, shown(value)) for name, value in outputs.items()],
    }
