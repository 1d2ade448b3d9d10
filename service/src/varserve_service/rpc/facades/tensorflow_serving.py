"""TensorFlow Serving's protocol: `PredictionService` and `ModelService` of `tensorflow.serving`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, TypeVar

import numpy as np

from varserve import tensors
from varserve.tensors import Array
from varserve_service.access.policy import Verb
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.registry import STABLE, bare_name
from varserve_service.core.ports.loaded_model import (
    FunctionKind,
    FunctionSpec,
    ModelState,
    Value,
)
from varserve_service.core.ports.messages import Header
from varserve_service.rpc.authorization import requirements
from varserve_service.rpc.authorization.requirements import Requirements
from varserve_service.rpc.calls.call import RpcCall
from varserve_service.rpc.messages import translate
from varserve_service.rpc.row import Row
from varserve_service.rpc.services import runs
from varserve_service.rpc.services.backend import Backend

from . import tensorflow_tensors as protos
from .contracts import message, service
from .naming import DEFAULT_SIGNATURE, changing, model_name, tensor_inputs

PREDICTION_SERVICE = service("tensorflow.serving.PredictionService")
MODEL_SERVICE = service("tensorflow.serving.ModelService")

PREDICT = "tensorflow/serving/predict"
CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"

_STATES = {
    ModelState.LOADING: "LOADING",
    ModelState.READY: "AVAILABLE",
    ModelState.UNLOADING: "UNLOADING",
    ModelState.FAILED: "END",
}
_UNKNOWN_ERROR = 2  # google.rpc.Code
# Models in one HandleReloadConfigRequest.
_MAX_CONFIGS = 1_000

T = TypeVar("T")


def _new(kind: str, /, **fields: Any) -> Any:
    return message(f"tensorflow.serving.{kind}")(**fields)


def _model(spec: Any) -> str:
    """The model that a ModelSpec names. Raises RequestError."""
    if not spec.name:
        raise translate.malformed("model_spec: expected the name of a model, found none")
    if spec.HasField("version"):
        return model_name(spec.name, str(spec.version.value))
    return model_name(spec.name, spec.version_label)


def _function(spec: Any) -> str:
    name: str = spec.signature_name
    return name or DEFAULT_SIGNATURE


def _answered(response: Any, spec: Any, header: Header) -> Any:
    """Say in a response which model, version and signature answered."""
    response.model_spec.name = spec.name
    response.model_spec.version.value = header.version
    response.model_spec.signature_name = _function(spec)
    return response


# ---- PredictionService ----


async def predict(backend: Backend, request: Any, call: RpcCall) -> Any:
    """Predict."""
    if request.predict_streamed_options.request_state:
        raise translate.malformed("predict_streamed_options: streamed predictions are not served")
    spec = request.model_spec

    def respond(header: Header, values: Mapping[str, Value]) -> Any:
        response = _new("PredictResponse")
        for name, value in values.items():
            protos.encode(value, response.outputs[name])
        return _answered(response, spec, header)

    # A map has no memory of its own in Python: each look-up makes an object.
    inputs = dict(request.inputs)
    outlines = {name: protos.outline(name, tensor) for name, tensor in inputs.items()}
    return await _run(
        backend,
        call,
        runs.Run(_model(spec), _function(spec), list(request.output_filter)),
        partial(protos.decode_all, inputs),
        respond,
        outlines,
    )


async def classify(backend: Backend, request: Any, call: RpcCall) -> Any:
    """Classify: a signature from encoded Examples to classes and scores."""
    result, header = await _on_examples(
        backend, request.model_spec, request.input, CLASSIFY, _classifications, call
    )
    return _answered(_new("ClassificationResponse", result=result), request.model_spec, header)


async def regress(backend: Backend, request: Any, call: RpcCall) -> Any:
    """Regress: a signature from encoded Examples to one number for each."""
    result, header = await _on_examples(
        backend, request.model_spec, request.input, REGRESS, _regressions, call
    )
    return _answered(_new("RegressionResponse", result=result), request.model_spec, header)


async def multi_inference(backend: Backend, request: Any, call: RpcCall) -> Any:
    """MultiInference: several signatures over the same Examples, one after the other."""
    response = _new("MultiInferenceResponse")
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
        _answered(each, task.model_spec, header)
    return response


async def get_model_metadata(backend: Backend, request: Any, call: RpcCall) -> Any:
    """GetModelMetadata: the field `signature_def`, with the signatures that the caller may list."""
    fields = set(request.metadata_field)
    if fields != {"signature_def"}:
        raise translate.malformed(
            f"metadata_field: expected signature_def, found {', '.join(sorted(fields))[:200]!r}"
        )
    spec = request.model_spec
    permissions = call.permissions

    def work(live: LiveModel, deadline: float | None) -> Any:
        description = live.outline()
        if permissions is not None:
            description = permissions.visible(description, live)
        signatures = _new("SignatureDefMap")
        for function in description.functions:
            if function.kind is FunctionKind.SIGNATURE:
                _describe(function, signatures.signature_def[function.name])
        response = _new("GetModelMetadataResponse")
        response.metadata[
            "signature_def"
        ].type_url = f"type.googleapis.com/{signatures.DESCRIPTOR.full_name}"
        response.metadata["signature_def"].value = signatures.SerializeToString()
        response.model_spec.name = spec.name
        response.model_spec.version.value = live.version
        return response

    return await backend.run_on_model(call, _model(spec), work)


def _describe(function: FunctionSpec, signature: Any) -> None:
    signature.method_name = _method(function) or PREDICT
    outputs = [(output.name, output.tensor) for output in function.overloads[0].outputs]
    inputs = [(each.name, kind) for each, kind in tensor_inputs(function)]
    for described, group in ((inputs, signature.inputs), (outputs, signature.outputs)):
        for name, tensor in described:
            info = group[name]
            info.name = f"{function.name}_{name}:0"
            info.dtype = tensors.wire_dtype(tensor.dtype)
            if tensor.shape is None:
                info.tensor_shape.unknown_rank = True
                continue
            info.tensor_shape.SetInParent()
            for size in tensor.shape:
                info.tensor_shape.dim.add(size=-1 if size is None else size)


def _method(function: FunctionSpec) -> str:
    """What a signature is for besides Predict, by its inputs and outputs; empty: nothing."""
    inputs = tensor_inputs(function)
    if len(inputs) != 1 or inputs[0][1].dtype != tensors.STRING:
        return ""
    kinds = {output.name: output.tensor.dtype for output in function.overloads[0].outputs}
    if kinds in (
        {"classes": tensors.STRING, "scores": "float32"},
        {"classes": tensors.STRING},
        {"scores": "float32"},
    ):
        return CLASSIFY
    return REGRESS if kinds == {"outputs": "float32"} else ""


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
    name, function = _model(spec), _function(spec)
    found = backend.models.find(name).function(function)
    if _method(found) != method:
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
    return await _run(
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
    result = _new("ClassificationResult")
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
    return _new("RegressionResult", regressions=[{"value": row[0]} for row in rows])


def _rows(value: Value, name: str, count: int) -> Array:
    """A value as [examples, ...], flat beyond that. Raises RequestError FUNCTION_FAILED."""
    array = value.numpy()
    if not array.ndim or array.shape[0] != count or not array.size:
        raise RequestError(
            Reason.FUNCTION_FAILED,
            f"its output {name!r} has the shape {list(array.shape)}; expected {count} rows",
        )
    return array.reshape(count, -1)


async def _run(
    backend: Backend,
    call: RpcCall,
    run: runs.Run,
    decode: Callable[[], dict[str, Array]],
    respond: Callable[[Header, Mapping[str, Value]], T],
    outlines: Mapping[str, Array],
) -> T:
    total = sum(protos.nbytes(outlined) for outlined in outlines.values())
    if total > backend.facade_message_bytes:
        raise RequestError(
            Reason.VALUE_TOO_LARGE,
            f"the inputs take {total} bytes; expected at most {backend.facade_message_bytes}",
        )

    def strings() -> int:
        return sum(each.size for each in outlines.values() if each.dtype.hasobject)

    with backend.admission.stage(call.method, call.subject, total):
        return await runs.execute(
            backend,
            call,
            run,
            decode,
            respond,
            inputs=len(outlines),
            strings=strings,
            max_output_bytes=backend.facade_message_bytes,
        )


# ---- ModelService ----


async def get_model_status(backend: Backend, request: Any, call: RpcCall) -> Any:
    """GetModelStatus. Why a version failed is for callers that administer the model."""
    name = bare_name(request.model_spec.name)
    permissions = call.permissions
    hidden = permissions is not None and not permissions.lists(name)
    wanted = request.model_spec
    response = _new("GetModelStatusResponse")
    for status in () if hidden else backend.models.versions(name):
        if wanted.HasField("version") and status.version != wanted.version.value:
            continue
        if wanted.version_label and wanted.version_label not in status.labels:
            continue
        each = response.model_version_status.add(
            version=status.version, state=_STATES.get(status.state, "UNKNOWN")
        )
        each.status.SetInParent()
        if status.state is ModelState.FAILED:
            told = permissions is None or permissions.administers(name)
            each.status.error_code = _UNKNOWN_ERROR
            each.status.error_message = status.error if told else "the version could not be loaded"
    if not response.model_version_status:
        raise RequestError(
            Reason.MODEL_NOT_FOUND, f"no version of a model {name[:200]!r}", model=name[:200]
        )
    return response


async def handle_reload_config(backend: Backend, request: Any, call: RpcCall) -> Any:
    """HandleReloadConfigRequest: load the models that are named, and set their labels.

    Models come from the service's own repository, whatever `base_path` says; those that are not
    named stay.
    """
    if request.config.WhichOneof("config") != "model_config_list":
        raise translate.malformed("config: expected a model_config_list, found another or none")
    administration, workers = changing(backend)
    count = len(request.config.model_config_list.config)
    if count > _MAX_CONFIGS:
        raise translate.malformed(f"config: expected at most {_MAX_CONFIGS}, found {count}")
    configs = list(request.config.model_config_list.config)

    def work() -> None:
        for config in configs:
            labels = dict(config.version_labels)
            stable = labels.pop(STABLE, None)
            if stable is not None or backend.models.resolve(config.name) is None:
                administration.load(config.name, stable, STABLE, call.deadline)
            for label, version in labels.items():
                administration.load(config.name, version, label, call.deadline)

    await workers.run(work, call.deadline)
    response = _new("ReloadConfigResponse")
    response.status.SetInParent()
    return response


# ---- what requests require ----


def _nothing(request: Any) -> Requirements:
    """A caller that is who it says it is; the handler shows what it may know of."""
    return Requirements([])


def _described(request: Any) -> Requirements:
    return Requirements([requirements.RequireModel(Verb.LIST, _model(request.model_spec))])


def _predicted(request: Any) -> Requirements:
    def arguments() -> requirements.Arguments:
        return {name: protos.outline(name, each) for name, each in request.inputs.items()}, {}

    spec = request.model_spec
    return Requirements([requirements.RequireRun(_model(spec), _function(spec), arguments)])


def _on(spec: Any, given: Any) -> requirements.RequireRun:
    def arguments() -> requirements.Arguments:
        return {"inputs": _examples(given)}, {}

    return requirements.RequireRun(_model(spec), _function(spec), arguments)


def _judged_by_examples(request: Any) -> Requirements:
    return Requirements([_on(request.model_spec, request.input)])


def _tasks(request: Any) -> Requirements:
    return Requirements([_on(task.model_spec, request.input) for task in request.tasks])


def _reloaded(request: Any) -> Requirements:
    configs = request.config.model_config_list.config
    names = dict.fromkeys(bare_name(config.name) for config in configs)
    return Requirements([requirements.RequireModel(Verb.ADMIN, name) for name in names], True)


_ARGUMENTS: Final = 10_000
_TASKS: Final = 100

ROWS: Final = (
    Row.of(
        PREDICTION_SERVICE,
        "Predict",
        Verb.RUN,
        _predicted,
        predict,
        bounds={"inputs": _ARGUMENTS, "output_filter": _ARGUMENTS},
    ),
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
    Row.of(
        PREDICTION_SERVICE,
        "GetModelMetadata",
        Verb.LIST,
        _described,
        get_model_metadata,
        bounds={"metadata_field": 10},
    ),
    Row.of(MODEL_SERVICE, "GetModelStatus", Verb.LIST, _nothing, get_model_status),
    Row.of(
        MODEL_SERVICE,
        "HandleReloadConfigRequest",
        Verb.ADMIN,
        _reloaded,
        handle_reload_config,
    ),
)
