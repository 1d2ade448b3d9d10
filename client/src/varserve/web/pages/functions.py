"""The pages of functions: their signatures, and a form that runs one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from varserve import Constant, FunctionSpec, Histogram, InputSpec, TensorSpec, VarserveError
from varserve.tensors import Array, as_array, dtype_name
from varserve.web.pages.common import BINS, check_writable, model_of, read_form, render


async def functions(request: Request) -> Response:
    """The functions of a model."""
    model = await model_of(request)
    return render(request, "functions.html", model=model, functions=list(model.functions.values()))


async def function(request: Request) -> Response:
    """One function: its signature, and with POST a call."""
    model = await model_of(request)
    handle = model.functions[request.path_params["function"]]
    spec = handle.spec
    context: dict[str, Any] = {"given": {}, "outputs": None, "problem": "", "revision": None}
    if request.method == "POST":
        form = await read_form(request)
        if spec.may_write:
            check_writable(request)
        context["given"] = form
        try:
            outputs = await handle.call(_inputs(spec, form))
        except (VarserveError, ValueError) as error:
            context["problem"] = str(error)
        else:
            context["revision"] = outputs.revision
            context["outputs"] = [(name, value, _shown(value)) for name, value in outputs.items()]
    return render(request, "function.html", model=model, function=handle, spec=spec, **context)


def _inputs(spec: FunctionSpec, form: Mapping[str, str]) -> dict[str, Any]:
    """The inputs that a form has, as JSON. Raises ValueError."""
    found: dict[str, Any] = {}
    for name, kinds in spec.inputs.items():
        text = form.get(f"input:{name}", "").strip()
        if not text:
            continue
        try:
            value = json.loads(text)
        except ValueError as error:
            raise ValueError(f"input {name}: expected JSON, found {text[:80]!r}: {error}") from None
        found[name] = _input(kinds, value)
    return found


def _input(kinds: tuple[InputSpec, ...], value: Any) -> Any:
    for each in kinds:
        if isinstance(each.kind, Constant) and each.kind.matches(value):
            return value
    for each in kinds:
        if isinstance(each.kind, TensorSpec):
            return as_array(value, dtype_name(each.kind.dtype))
    return value


def _shown(value: Array) -> dict[str, Any]:
    """An output in a few words: its first elements, and a picture of its values."""
    array = np.asarray(value)
    text = np.array2string(array, threshold=40, precision=5, max_line_width=100)
    picture = None
    if array.dtype.kind in "fiub" and array.size > 1:
        floats = array.astype(np.float64).ravel()
        finite = floats[np.isfinite(floats)]
        if finite.size:
            counts, edges = np.histogram(finite, BINS)
            picture = Histogram(counts.astype(np.int64), edges)
    return {"text": text, "histogram": picture, "dtype": dtype_name(array.dtype)}
