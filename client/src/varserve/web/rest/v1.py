"""`/v1/models`: TensorFlow Serving's REST."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from varserve import FunctionKind, InvalidRequest, ModelState, Outputs, aio
from varserve.tensors import STRING, Array, dtype_name, wire_dtype
from varserve.v1 import tensor_pb2
from varserve.web.pages.common import caller_of
from varserve.web.rest import arrays
from varserve.web.rest.common import (
    body_of,
    json_of,
    model_of,
    run,
    signature_of,
    sizes,
    tensors_of,
)
from varserve.web.rest.examples import classify, method_of, regress

_STATES = {
    ModelState.LOADING: "LOADING",
    ModelState.READY: "AVAILABLE",
    ModelState.UNLOADING: "UNLOADING",
    ModelState.FAILED: "END",
}


async def status(request: Request) -> Response:
    """GET: the state of each version of a model that is known; as KServe has it, in a word."""
    params = request.path_params
    found = [
        each
        for each in await caller_of(request).client.models()
        if each.name == params["model"]
        and str(params.get("version", each.version)) == str(each.version)
        and params.get("label", "") in ("", *each.labels)
    ]
    if not found:
        raise HTTPException(404, f"no version of a model {params['model']!r}")
    versions = [
        {
            "version": str(each.version),
            "state": _STATES.get(each.state, "UNKNOWN"),
            "status": {
                "error_code": "UNKNOWN" if each.state is ModelState.FAILED else "OK",
                "error_message": "",
            },
        }
        for each in found
    ]
    ready = any(each.state is ModelState.READY for each in found)
    return JSONResponse({"model_version_status": versions, "name": params["model"], "ready": ready})


async def metadata(request: Request) -> Response:
    """GET: the signatures of a model."""
    model = await model_of(request)
    signatures = {
        function.name: {
            "inputs": {
                name: _info(function.name, name, kind)
                for name, (_, kind) in tensors_of(function).items()
            },
            "outputs": {
                output.name: _info(function.name, output.name, output.tensor)
                for output in function.overloads[0].outputs
            },
            "method_name": method_of(function) or "tensorflow/serving/predict",
        }
        for function in model.functions.values()
        if function.kind is FunctionKind.SIGNATURE
    }
    spec = {
        "name": request.path_params["model"],
        "signature_name": "",
        "version": str(model.version),
    }
    return JSONResponse(
        {
            "model_spec": spec,
            "metadata": {"signature_def": {"signature_def": signatures}},
        }
    )


def _info(function: str, name: str, tensor: Any) -> dict[str, Any]:
    word = tensor_pb2.DataType.Name(wire_dtype(dtype_name(tensor.dtype)))
    word = {"FLOAT32": "FLOAT", "FLOAT64": "DOUBLE", "FLOAT16": "HALF"}.get(
        word.removeprefix("DATA_TYPE_"), word.removeprefix("DATA_TYPE_")
    )
    shape = {
        "dim": [{"size": str(size), "name": ""} for size in sizes(tensor.shape)],
        "unknown_rank": tensor.shape is None,
    }
    return {"dtype": f"DT_{word}", "tensor_shape": shape, "name": f"{function}_{name}:0"}


async def predict(request: Request) -> Response:
    """POST: a prediction, with instances in rows or inputs in columns."""
    content = await run_in_threadpool(json_of, await body_of(request))
    model = await model_of(request)
    function = signature_of(model, str(content.get("signature_name", "")))
    if ("instances" in content) == ("inputs" in content):
        raise HTTPException(400, "expected either `instances` or `inputs`")
    by_row = "instances" in content
    read = _rows if by_row else _columns
    inputs = await run_in_threadpool(read, function, content)
    outputs = await run(request, function, inputs, [])
    answer = _in_rows if by_row else _in_columns
    # NaN and infinities as TensorFlow Serving writes them, though JSON has no such numbers.
    text = await run_in_threadpool(lambda: json.dumps(answer(outputs)))
    headers = {"varserve-revision": str(outputs.revision)}
    return Response(text, media_type="application/json", headers=headers)


def _rows(function: aio.Function, content: dict[str, Any]) -> dict[str, Array]:
    instances = content["instances"]
    if not isinstance(instances, list) or not instances:
        raise InvalidRequest("instances: expected a list of at least one, found another value")
    names = list(tensors_of(function))
    named = [isinstance(each, dict) and set(each) != {"b64"} for each in instances]
    if any(named) and not all(named):
        raise InvalidRequest("instances: expected objects with the same names, found others beside")
    if not named[0]:
        return _arrays(function, {_only(names): instances})
    columns: dict[str, list[Any]] = {name: [] for name in instances[0]}
    for each in instances:
        if each.keys() != columns.keys():
            raise InvalidRequest("instances: expected objects with the same names")
        for name, value in each.items():
            columns[name].append(value)
    return _arrays(function, columns)


def _columns(function: aio.Function, content: dict[str, Any]) -> dict[str, Array]:
    given = content["inputs"]
    if isinstance(given, dict) and set(given) != {"b64"}:
        return _arrays(function, given)
    return _arrays(function, {_only(list(tensors_of(function))): given})


def _only(names: list[str]) -> str:
    if len(names) != 1:
        raise InvalidRequest(f"expected inputs by name: {', '.join(names) or 'it has none'}")
    return names[0]


def _arrays(function: aio.Function, given: dict[str, Any]) -> dict[str, Array]:
    known = tensors_of(function)
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise InvalidRequest(
            f"function {function.name!r} has no input {unknown[0]!r}; its inputs: "
            f"{', '.join(known)}"
        )
    return {
        name: arrays.from_json(value, dtype_name(known[name][1].dtype), f"input {name!r}")
        for name, value in given.items()
    }


def _in_columns(outputs: Outputs) -> dict[str, Any]:
    found = {name: _encoded(name, value) for name, value in outputs.items()}
    return {"outputs": next(iter(found.values())) if len(found) == 1 else found}


def _in_rows(outputs: Outputs) -> dict[str, Any]:
    counts = {np.shape(value)[0] if np.ndim(value) else None for value in outputs.values()}
    if len(counts) != 1 or None in counts:
        raise InvalidRequest("its outputs have no common rows; ask with `inputs` in columns")
    found = {name: _encoded(name, value) for name, value in outputs.items()}
    if len(found) == 1:
        return {"predictions": next(iter(found.values()))}
    return {
        "predictions": [
            dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)
        ]
    }


def _encoded(name: str, value: Array) -> Any:
    array = np.asarray(value)
    as_base64 = dtype_name(array.dtype) == STRING and name.endswith("_bytes")
    return arrays.to_json(array, as_base64=as_base64)


def routes() -> list[BaseRoute]:
    """All paths of TensorFlow Serving."""
    found: list[BaseRoute] = []
    for where in ("", "/versions/{version:int}", "/labels/{label}"):
        base = f"/v1/models/{{model}}{where}"
        found += [
            Route(f"{base}:predict", predict, methods=["POST"]),
            Route(f"{base}:classify", classify, methods=["POST"]),
            Route(f"{base}:regress", regress, methods=["POST"]),
            Route(f"{base}/metadata", metadata),
            Route(base, status),
        ]
    return found
