"""Predict, and the description of the signatures that it can run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, TypeVar

from varserve import tensors
from varserve.tensors import Array
from varserve_service.access.policy import Verb
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import FunctionKind, FunctionSpec, Value
from varserve_service.core.ports.messages import Header
from varserve_service.rpc.authorization import requirements
from varserve_service.rpc.authorization.requirements import Requirements
from varserve_service.rpc.calls.call import RpcCall
from varserve_service.rpc.facades.naming import tensor_inputs
from varserve_service.rpc.messages import translate
from varserve_service.rpc.row import Row
from varserve_service.rpc.services import runs
from varserve_service.rpc.services.backend import Backend

from . import tensors as protos
from .messages import PREDICTION_SERVICE, answered, function_of, model_of, new

PREDICT = "tensorflow/serving/predict"

CLASSIFY = "tensorflow/serving/classify"

REGRESS = "tensorflow/serving/regress"

T = TypeVar("T")


async def predict(backend: Backend, request: Any, call: RpcCall) -> Any:
    """Predict."""
    if request.predict_streamed_options.request_state:
        raise translate.malformed("predict_streamed_options: streamed predictions are not served")
    spec = request.model_spec

    def respond(header: Header, values: Mapping[str, Value]) -> Any:
        response = new("PredictResponse")
        for name, value in values.items():
            protos.encode(value, response.outputs[name])
        return answered(response, spec, header)

    # A map has no memory of its own in Python: each look-up makes an object.
    inputs = dict(request.inputs)
    outlines = {name: protos.outline(name, tensor) for name, tensor in inputs.items()}
    return await run_function(
        backend,
        call,
        runs.Run(model_of(spec), function_of(spec), list(request.output_filter)),
        partial(protos.decode_all, inputs),
        respond,
        outlines,
    )


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
        with backend.computing.turn():
            return described(live)

    def described(live: LiveModel) -> Any:
        description = live.outline()
        if permissions is not None:
            description = permissions.visible(description, live)
        signatures = new("SignatureDefMap")
        for function in description.functions:
            if function.kind is FunctionKind.SIGNATURE:
                _describe(function, signatures.signature_def[function.name])
        response = new("GetModelMetadataResponse")
        response.metadata[
            "signature_def"
        ].type_url = f"type.googleapis.com/{signatures.DESCRIPTOR.full_name}"
        response.metadata["signature_def"].value = signatures.SerializeToString()
        response.model_spec.name = spec.name
        response.model_spec.version.value = live.version
        return response

    return await backend.run_on_model(call, model_of(spec), work)


def _describe(function: FunctionSpec, signature: Any) -> None:
    signature.method_name = method_of(function) or PREDICT
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


def method_of(function: FunctionSpec) -> str:
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


async def run_function(
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


def _described(request: Any) -> Requirements:
    return Requirements([requirements.RequireModel(Verb.LIST, model_of(request.model_spec))])


def _predicted(request: Any) -> Requirements:
    def arguments() -> requirements.Arguments:
        return {name: protos.outline(name, each) for name, each in request.inputs.items()}, {}

    spec = request.model_spec
    return Requirements([requirements.RequireRun(model_of(spec), function_of(spec), arguments)])


_ARGUMENTS: Final = 10_000

ROWS: Final = (
    Row.of(
        PREDICTION_SERVICE,
        "Predict",
        Verb.RUN,
        _predicted,
        predict,
        bounds={"inputs": _ARGUMENTS, "output_filter": _ARGUMENTS},
    ),
    Row.of(
        PREDICTION_SERVICE,
        "GetModelMetadata",
        Verb.LIST,
        _described,
        get_model_metadata,
        bounds={"metadata_field": 10},
    ),
)
