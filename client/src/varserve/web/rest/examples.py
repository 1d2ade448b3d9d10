"""`/v1/models/M:classify` and `:regress`: signatures over Examples, which come as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from varserve import InvalidRequest, Outputs, aio
from varserve.examples import encode
from varserve.tensors import STRING, Array, dtype_name
from varserve.web.rest import arrays
from varserve.web.rest.common import body_of, json_of, model_of, run, signature_of, tensors_of

CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"

_METHODS = {
    frozenset({("classes", STRING), ("scores", "float32")}): CLASSIFY,
    frozenset({("classes", STRING)}): CLASSIFY,
    frozenset({("scores", "float32")}): CLASSIFY,
    frozenset({("outputs", "float32")}): REGRESS,
}
"""What a signature is for by its outputs."""


def method_of(function: aio.Function) -> str:
    """What a signature is for besides `:predict`; empty: nothing."""
    inputs = [kind for _, kind in tensors_of(function).values()]
    if len(inputs) != 1 or dtype_name(inputs[0].dtype) != STRING:
        return ""
    outputs = frozenset(
        (each.name, dtype_name(each.tensor.dtype)) for each in function.overloads[0].outputs
    )
    return _METHODS.get(outputs, "")


async def classify(request: Request) -> Response:
    """POST: for each example its classes, as pairs of label and score."""
    return await _on_examples(request, CLASSIFY, _classes)


async def regress(request: Request) -> Response:
    """POST: for each example one number."""
    return await _on_examples(request, REGRESS, _numbers)


async def _on_examples(
    request: Request, method: str, read: Callable[[Outputs, int], list[Any]]
) -> Response:
    content = await run_in_threadpool(json_of, await body_of(request))
    model = await model_of(request)
    function = signature_of(model, str(content.get("signature_name", "")))
    if method_of(function) != method:
        raise InvalidRequest(
            f"function {function.name!r} is not for {method}: expected one input of strings and "
            f"{'classes or scores' if method == CLASSIFY else 'outputs'}; use :predict"
        )
    examples = await run_in_threadpool(_examples, content)
    (name,) = tensors_of(function)
    outputs = await run(request, function, {name: examples}, [])
    text = await run_in_threadpool(lambda: json.dumps({"result": read(outputs, len(examples))}))
    headers = {"varserve-revision": str(outputs.revision)}
    return Response(text, media_type="application/json", headers=headers)


def _examples(content: dict[str, Any]) -> Array:
    """The encoded examples of a body, each with the features of the context that it lacks."""
    given, context = content.get("examples"), content.get("context", {})
    if not isinstance(given, list) or not given or not isinstance(context, dict):
        raise HTTPException(400, "expected `examples`, a list of objects, and `context`, an object")
    encoded = np.empty(len(given), object)
    for number, example in enumerate(given):
        if not isinstance(example, dict):
            raise HTTPException(400, f"examples: expected objects, found another value at {number}")
        try:
            encoded[number] = encode(
                {name: arrays.decoded(value) for name, value in {**context, **example}.items()}
            )
        except ValueError as error:
            raise InvalidRequest(f"examples: {number}: {error}") from None
    return encoded


def _classes(outputs: Outputs, count: int) -> list[Any]:
    labels = _rows(outputs, "classes", count)
    scores = _rows(outputs, "scores", count)
    texts = None if labels is None else arrays.to_json(labels)
    numbers = None if scores is None else scores.tolist()
    width = len((texts or numbers or [[]])[0])
    return [
        [
            ["" if texts is None else texts[row][at], 0.0 if numbers is None else numbers[row][at]]
            for at in range(width)
        ]
        for row in range(count)
    ]


def _numbers(outputs: Outputs, count: int) -> list[Any]:
    rows = _rows(outputs, "outputs", count)
    return [] if rows is None else rows[:, 0].tolist()


def _rows(outputs: Outputs, name: str, count: int) -> Array | None:
    """An output as [examples, ...], flat beyond that; None where there is none."""
    if name not in outputs:
        return None
    array = np.asarray(outputs[name])
    if not array.ndim or array.shape[0] != count or not array.size:
        raise InvalidRequest(
            f"its output {name!r} has the shape {list(array.shape)}; expected {count} rows"
        )
    return array.reshape(count, -1)
