"""Calls of functions."""

from __future__ import annotations

from functools import partial
from typing import Any

from varserve import frames, tensors
from varserve._client import errors
from varserve._client.transport.attempts import attempt
from varserve._client.transport.calls import Call, Op
from varserve._client.values import specs
from varserve._client.values.arguments import Run
from varserve._client.values.function_messages import FunctionMessage, MessageKind
from varserve._client.values.options import ReadOptions, WriteOptions
from varserve._client.values.results import Outputs
from varserve._client.values.specs import Constant
from varserve.v1 import inspection_pb2, model_pb2
from varserve.v1 import model_service_pb2 as pb

from .methods import Scope, method
from .requests import build, headers_of

RUN_FUNCTION = method("RunFunction")
STREAM_RUN_FUNCTION = method("StreamRunFunction", frames.stream_run_function_response)


def run_function(scope: Scope, run: Run, options: WriteOptions) -> Op[Outputs]:
    """RunFunction."""
    request = build(
        pb.RunFunctionRequest,
        inputs={name: tensors.to_tensor(each) for name, each in run.inputs.items()},
        consistency=_consistency(scope, run),
        **_fields(scope.model, run),
        **options.fields(),
    )
    call = Call(RUN_FUNCTION, request, scope.budget)
    reply = yield from attempt(call, repeatable=run.repeatable)
    return Outputs(
        scope.header(reply.header),
        {each.name: tensors.from_tensor(each.tensor) for each in reply.outputs},
        map(function_message, reply.messages),
    )


def stream_run_function(scope: Scope, run: Run, options: WriteOptions) -> Op[Outputs]:
    """StreamRunFunction."""
    from varserve._client.transport.bodies import BodyDownload, upload

    manifest = build(
        pb.RunManifest,
        inputs=headers_of(run.inputs),
        consistency=_consistency(scope, run),
        **_fields(scope.model, run),
        **options.fields(),
    )
    first = pb.StreamRunFunctionRequest(manifest=manifest).SerializeToString()
    body = partial(upload, first, list(run.inputs.values()), scope.limits.chunk_bytes)
    receive = partial(
        BodyDownload,
        lambda result: [each.tensor for each in result.outputs],
        scope.limits.chunk_bytes,
    )
    call = Call(STREAM_RUN_FUNCTION, body, scope.budget, receive)
    result, arrays = yield from attempt(call, repeatable=run.repeatable)
    names = [each.name for each in result.outputs]
    outputs = dict(zip(names, arrays, strict=True))
    return Outputs(scope.header(result.header), outputs, map(function_message, result.messages))


def function_message(message: inspection_pb2.FunctionMessage) -> FunctionMessage:
    """A printed line, or a failed check."""
    return FunctionMessage(
        specs.member(
            MessageKind, "FUNCTION_MESSAGE_KIND_", inspection_pb2.FunctionMessageKind, message.kind
        ),
        message.op,
        tuple(message.iteration),
        message.text,
        tuple(message.parts),
        message.stream,
        message.end,
    )


def _consistency(scope: Scope, run: Run) -> model_pb2.Consistency | None:
    """A function that writes runs on the newest state anyway."""
    return scope.consistency(ReadOptions(linearizable=run.linearizable))


def _fields(model: str, run: Run) -> dict[str, Any]:
    return {
        "model": model,
        "function": run.function,
        "constants": constants_of(run),
        "outputs": run.outputs,
        "messages": run.messages,
    }


def constants_of(run: Run) -> dict[str, model_pb2.Constant]:
    """The constants of a call, by name."""
    return {name: _constant(name, each) for name, each in run.constants.items()}


_CONSTANT_KINDS = {type(None): "none", bool: "bool", int: "int", float: "float", str: "string"}


def _constant(name: str, constant: Constant) -> model_pb2.Constant:
    value = constant.value
    kind = "repr" if constant.is_repr else _CONSTANT_KINDS[type(value)]
    with errors.about(f"constant {name!r}"):
        return build(model_pb2.Constant, **{f"{kind}_value": True if value is None else value})
