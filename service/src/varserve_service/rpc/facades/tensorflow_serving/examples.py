"""Classify, Regress and MultiInference: signatures over encoded Examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import numpy as np

from varserve.tensors import Array
from varserve_service.access.policy import Verb
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.ports.loaded_model import Value
from varserve_service.core.ports.messages import Header
from varserve_service.rpc.authorization import requirements
from varserve_service.rpc.authorization.requirements import Requirements
from varserve_service.rpc.calls.call import RpcCall
from varserve_service.rpc.facades.naming import tensor_inputs
from varserve_service.rpc.messages import translate
from varserve_service.rpc.row import Row
from varserve_service.rpc.services import runs
from varserve_service.rpc.services.backend import Backend

from .messages import PREDICTION_SERVICE, answered, function_of, model_of, new
from .predicting import CLASSIFY, REGRESS, method_of, run_function

T = TypeVar("T")


async def classify(backend: Backend, request: Any, call: RpcCall) -> Any:
    """Classify: a signature from encoded Examples to classes and scores."""
    result, header = await _on_examples(
        backend, request.model_spec, request.input, CLASSIFY, _classifications, call
    )
    return answered(new("ClassificationResponse", result=result), request.model_spec, header)


async def regress(backend: Backend, request: Any, call: RpcCall) -> Any:
    """Regress: a signature from encoded Examples to one number for each."""
    result, header = await _on_examples(
        backend, request.model_spec, request.input, REGRESS, _regressions, call
    )
    return answered(new("RegressionResponse", result=result), request.model_spec, header)


async def multi_inference(backend: Backend, request: Any, call: RpcCall) -> Any:
    """MultiInference: several signatures over the same Examples, one after the other."""
    response = new("MultiInferenceResponse")
    for task in request.tasks:
        readers: dict[str, tuple[str, Callable[..., Any]]] = {
            CLASSIFY: ("classification_result", _classifications),
            REGRESS: ("regression_result", _regressions),
        }
        if task.method_name not in readers:
            raise translate.malformed(
                f"tasks: expected the method {CLASSIFY} or {REGRESS}, found "
                f"{task.method_name[:100]!r}"
            )
        field, read = readers[task.method_name]
        result, header = await _on_examples(
            backend, task.model_spec, request.input, task.method_name, read, call
        )
        each = response.results.add(**{field: result})
        answered(each, task.model_spec, header)
    return response


async def _on_examples(
    backend: Backend,
    spec: Any,
    given: Any,
    method: str,
    read: Callable[[Mapping[str, Value], int], T],
    call: RpcCall,
) -> tuple[T, Header]:
    """Run a signature over encoded Examples; the result that `read` makes, and the state it is of.

    Raises RequestError OVERLOAD_MISMATCH for a signature that is not for `method`.
    """
    name, function = model_of(spec), function_of(spec)
    found = backend.models.find(name).function(function)
    if method_of(found) != method:
        raise RequestError(
            Reason.OVERLOAD_MISMATCH,
            f"function {function[:200]!r} is not for {method}: expected one input of strings and "
            f"{'classes or scores' if method == CLASSIFY else 'outputs'}; use Predict",
        )
    ((each, _),) = tensor_inputs(found)
    examples = _examples(given)

    def respond(header: Header, values: Mapping[str, Value]) -> tuple[T, Header]:
        return read(values, len(examples)), header

    run = runs.Run(name, function)
    return await run_function(
        backend, call, run, lambda: {each.name: examples}, respond, {each.name: examples}
    )


def _examples(given: Any) -> Array:
    """The encoded Examples of an Input. Raises RequestError for none."""
    encoded = list(given.example_list.examples)
    if given.WhichOneof("kind") == "example_list_with_context":
        inner = given.example_list_with_context
        # Two encoded messages one after the other are the encoding of both merged.
        encoded = [inner.context + example for example in inner.examples]
    if not encoded:
        raise translate.malformed("input: expected at least one Example, found none")
    array = np.empty(len(encoded), object)
    array[:] = encoded
    return array


def _classifications(values: Mapping[str, Value], count: int) -> Any:
    classes, scores = (
        _rows(values[name], name, count) if name in values else None
        for name in ("classes", "scores")
    )
    result = new("ClassificationResult")
    for row in range(count):
        listed = result.classifications.add()
        width = len((classes if classes is not None else scores)[row])  # type: ignore[index]
        for column in range(width):
            each = listed.classes.add()
            if classes is not None:
                each.label = classes[row][column].decode(errors="replace")
            if scores is not None:
                each.score = scores[row][column]
    return result


def _regressions(values: Mapping[str, Value], count: int) -> Any:
    rows = _rows(values["outputs"], "outputs", count)
    return new("RegressionResult", regressions=[{"value": row[0]} for row in rows])


def _rows(value: Value, name: str, count: int) -> Array:
    """A value as [examples, ...], flat beyond that. Raises RequestError FUNCTION_FAILED."""
    array = value.numpy()
    if not array.ndim or array.shape[0] != count or not array.size:
        raise RequestError(
            Reason.FUNCTION_FAILED,
            f"its output {name!r} has the shape {list(array.shape)}; expected {count} rows",
        )
    return array.reshape(count, -1)


def _on(spec: Any, given: Any) -> requirements.RequireRun:
    def arguments() -> requirements.Arguments:
        return {"inputs": _examples(given)}, {}

    return requirements.RequireRun(model_of(spec), function_of(spec), arguments)


def _judged_by_examples(request: Any) -> Requirements:
    return Requirements([_on(request.model_spec, request.input)])


def _tasks(request: Any) -> Requirements:
    return Requirements([_on(task.model_spec, request.input) for task in request.tasks])


_TASKS: Final = 100

ROWS: Final = (
    Row.of(PREDICTION_SERVICE, "Classify", Verb.RUN, _judged_by_examples, classify),
    Row.of(PREDICTION_SERVICE, "Regress", Verb.RUN, _judged_by_examples, regress),
    Row.of(
        PREDICTION_SERVICE,
        "MultiInference",
        Verb.RUN,
        _tasks,
        multi_inference,
        bounds={"tasks": _TASKS},
    ),
)
