"""`/v2`: the Open Inference Protocol's REST, with the extension for tensors in raw bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

import varserve
from varserve import InvalidRequest, ModelState, NotFound, Outputs, Unavailable, aio, open_inference
from varserve.tensors import Array
from varserve.web.pages.common import caller_of
from varserve.web.rest import arrays
from varserve.web.rest.common import (
    body_of,
    json_of,
    model_of,
    run,
    shape_from,
    signature_of,
    sizes,
    tensors_of,
)

HEADER_LENGTH = "inference-header-content-length"
PLATFORM = "tensorflow_savedmodel"


async def live(request: Request) -> Response:
    """GET: this process answers."""
    return JSONResponse({"live": True})


async def ready(request: Request) -> Response:
    """GET: the service answers, and no model is still being loaded."""
    models = await caller_of(request).client.models()
    loading = any(each.state is ModelState.LOADING for each in models)
    return JSONResponse({"ready": not loading}, 503 if loading else 200)


async def server(request: Request) -> Response:
    """GET: what this is."""
    return JSONResponse(
        {
            "name": "varserve",
            "version": varserve.__version__,
            "extensions": ["binary_tensor_data"],
        }
    )


async def model_ready(request: Request) -> Response:
    """GET: a model can be called."""
    try:
        model = await model_of(request)
    except (NotFound, Unavailable):
        return JSONResponse({"ready": False}, 404)
    return JSONResponse({"name": model.name, "ready": True})


async def metadata(request: Request) -> Response:
    """GET: inputs and outputs of the default signature."""
    model = await model_of(request)
    function = signature_of(model, "")
    inputs = [
        {
            "name": name,
            "datatype": arrays.datatype(kind.dtype, f"input {name!r}"),
            "shape": sizes(kind.shape),
        }
        for name, (_, kind) in tensors_of(function).items()
    ]
    outputs = [
        {
            "name": each.name,
            "datatype": arrays.datatype(each.tensor.dtype, f"output {each.name!r}"),
            "shape": sizes(each.tensor.shape),
        }
        for each in function.overloads[0].outputs
    ]
    return JSONResponse(
        {
            "name": request.path_params["model"],
            "versions": [str(model.version)],
            "platform": PLATFORM,
            "inputs": inputs,
            "outputs": outputs,
        }
    )


async def infer(request: Request) -> Response:
    """POST: an inference; tensors in JSON, or in raw bytes after it."""
    data = memoryview(await body_of(request))
    length = _header_length(request.headers.get(HEADER_LENGTH), len(data))
    content = await run_in_threadpool(json_of, data[:length])
    model = await model_of(request)
    parameters = _mapping(content.get("parameters"), "parameters")
    function = signature_of(model, str(parameters.get("signature_name", "")))
    inputs = await run_in_threadpool(_inputs, function, content, data[length:])
    wanted = _wanted(content, parameters)
    outputs = await run(request, function, inputs, list(wanted))
    return await run_in_threadpool(_answer, request, content, outputs, wanted, parameters)


def _header_length(given: str | None, size: int) -> int:
    if given is None:
        return size
    if not given.isascii() or not given.isdecimal() or int(given) > size:
        raise HTTPException(400, f"{HEADER_LENGTH}: expected at most {size}, found {given[:40]!r}")
    return int(given)


def _mapping(value: Any, thing: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRequest(f"{thing}: expected an object, found another value")
    return value


def _listed(value: Any, thing: str) -> list[dict[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise InvalidRequest(f"{thing}: expected a list of objects, found another value")
    return value


def _inputs(function: aio.Function, content: dict[str, Any], raw: memoryview) -> dict[str, Array]:
    known = tensors_of(function)
    found: dict[str, Array] = {}
    position = 0
    for each in _listed(content.get("inputs"), "inputs"):
        name = each.get("name")
        thing = f"input {str(name)[:200]!r}"
        if not isinstance(name, str) or name not in known:
            raise InvalidRequest(
                f"function {function.name!r} has no {thing}; its inputs: {', '.join(known)}"
            )
        if name in found:
            raise InvalidRequest(f"{thing}: expected each name once, found it twice")
        dtype = open_inference.DTYPES.get(str(each.get("datatype")))
        if dtype is None:
            raise InvalidRequest(
                f"{thing}: expected a datatype of {', '.join(open_inference.DTYPES)}, found "
                f"{str(each.get('datatype'))[:40]!r}"
            )
        shape = shape_from(each.get("shape"), thing)
        size = _mapping(each.get("parameters"), thing).get("binary_data_size")
        if size is None:
            array = arrays.from_json(each.get("data"), dtype, thing)
            try:
                # Flat or nested, as the protocol allows.
                found[name] = array.reshape(shape)
            except ValueError:
                raise InvalidRequest(
                    f"{thing}: its data has {array.size} elements, and its shape is {list(shape)}"
                ) from None
            continue
        if type(size) is not int or not 0 <= size <= len(raw) - position:
            left = len(raw) - position
            raise InvalidRequest(f"{thing}: expected {size!r} bytes of data, found {left}")
        data = raw[position : position + size]
        found[name] = arrays.from_raw(data, dtype, shape, thing)
        position += size
    if position != len(raw):
        raise InvalidRequest(f"found {len(raw) - position} bytes after the data of the inputs")
    return found


def _wanted(content: dict[str, Any], parameters: Mapping[str, Any]) -> dict[str, bool]:
    """Outputs by name, and whether each is to be raw bytes; none: all of them."""
    default = bool(parameters.get("binary_data_output", False))
    found = {}
    for each in _listed(content.get("outputs"), "outputs"):
        asked = _mapping(each.get("parameters"), "outputs").get("binary_data", default)
        found[str(each.get("name"))] = bool(asked)
    return found


def _answer(
    request: Request,
    content: dict[str, Any],
    outputs: Outputs,
    wanted: dict[str, bool],
    parameters: Mapping[str, Any],
) -> Response:
    default = bool(parameters.get("binary_data_output", False))
    tensors, parts = [], []
    for name, value in outputs.items():
        tensor: dict[str, Any] = {
            "name": name,
            "datatype": arrays.datatype(value.dtype, f"output {name!r}"),
            "shape": list(value.shape),
        }
        if wanted.get(name, default):
            parts.append(arrays.to_raw(value))
            tensor["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            tensor["data"] = arrays.to_json(value.ravel())
        tensors.append(tensor)
    answer = {
        "model_name": request.path_params["model"],
        "model_version": str(outputs.version),
        "parameters": {"varserve_revision": outputs.revision},
        "outputs": tensors,
    }
    if isinstance(content.get("id"), str):
        answer["id"] = content["id"]
    header = json.dumps(answer).encode()
    if not parts:
        return Response(header, media_type="application/json")
    return Response(
        header + b"".join(parts),
        media_type="application/octet-stream",
        headers={HEADER_LENGTH: str(len(header))},
    )


def routes() -> list[BaseRoute]:
    """All paths of the protocol."""
    found: list[BaseRoute] = [
        Route("/v2", server),
        Route("/v2/health/live", live),
        Route("/v2/health/ready", ready),
    ]
    for where in ("", "/versions/{version}"):
        base = f"/v2/models/{{model}}{where}"
        found += [
            Route(f"{base}/ready", model_ready),
            Route(f"{base}/infer", infer, methods=["POST"]),
            Route(base, metadata),
        ]
    return found
