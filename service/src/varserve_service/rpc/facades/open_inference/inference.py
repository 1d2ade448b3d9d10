"""ModelInfer, and the stream of such requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from varserve import tensors
from varserve_service.access.policy import Verb
from varserve_service.core.ports.loaded_model import Value
from varserve_service.core.ports.messages import Header
from varserve_service.rpc.authorization import requirements
from varserve_service.rpc.authorization.requirements import Requirements
from varserve_service.rpc.calls.call import RpcCall
from varserve_service.rpc.facades.contracts import message
from varserve_service.rpc.facades.naming import DEFAULT_SIGNATURE, model_name
from varserve_service.rpc.failures import Failed
from varserve_service.rpc.messages import translate
from varserve_service.rpc.row import Row
from varserve_service.rpc.services import runs
from varserve_service.rpc.services.backend import Backend

from . import tensors as oip
from .messages import SERVICE, identified, new

# Requests of one stream that are worked on at once.
_STREAM_WINDOW: Final = 16

# A refused request of a stream is decoded again, for its id, up to so many bytes.
_QUICK_BYTES = 64 << 10


async def model_infer(backend: Backend, request: Any, call: RpcCall) -> Any:
    """ModelInfer."""
    for thing in (request, *request.inputs, *request.outputs):
        for parameter in thing.parameters:
            if parameter.startswith("shared_memory"):
                raise translate.malformed("shared memory is not served; send the tensors' bytes")
    name = model_name(request.model_name, request.model_version)
    live = backend.models.find(name)
    wanted = [output.name for output in request.outputs]

    def respond(header: Header, values: Mapping[str, Value]) -> Any:
        response = new(
            "ModelInferResponse",
            model_name=request.model_name,
            model_version=str(header.version),
            id=request.id,
        )
        response.parameters["varserve_revision"].int64_param = header.revision
        if "triton_enable_empty_final_response" in request.parameters:
            response.parameters["triton_final_response"].bool_param = True
        for key in wanted or values:
            value = values[key]
            datatype = oip.datatype(value.dtype, f"output {key!r}")
            response.outputs.add(name=key, datatype=datatype, shape=value.shape)
            response.raw_output_contents.append(oip.raw(value))
        return response

    contents = sum(len(raw) for raw in request.raw_input_contents)
    counts = backend.inference_counts.of(live)
    began = time.monotonic_ns()
    succeeded = False
    try:
        with backend.admission.stage(call.method, call.subject, contents):
            response = await runs.execute(
                backend,
                call,
                runs.Run(name, _signature_name(request.parameters), wanted),
                lambda: oip.inputs(request),
                respond,
                inputs=len(request.inputs),
                strings=lambda: _strings(request),
                max_output_bytes=backend.facade_message_bytes,
            )
        succeeded = True
        return response
    finally:
        counts.add(time.monotonic_ns() - began, succeeded=succeeded)


async def model_stream_infer(backend: Backend, request: None, call: RpcCall) -> None:
    """ModelStreamInfer: answers in the order of the requests; a failure ends its request alone.

    Each request is judged and counted as a call of ModelInfer of its own.
    """
    answers: asyncio.Queue[asyncio.Task[Any] | None] = asyncio.Queue(_STREAM_WINDOW)

    async def read() -> None:
        try:
            async for data in call:
                await answers.put(asyncio.create_task(_streamed(backend, data, call)))
        finally:
            await answers.put(None)

    reader = asyncio.create_task(read())
    try:
        while (answer := await answers.get()) is not None:
            await call.write(await answer)
        await reader
    finally:
        reader.cancel()
        while not answers.empty():
            left = answers.get_nowait()
            if left is not None:
                left.cancel()


async def _streamed(backend: Backend, data: bytes, call: RpcCall) -> Any:
    try:
        answer = await backend.nested(f"{SERVICE.full_name}.ModelInfer", data, call)
        return new("ModelStreamInferResponse", infer_response=answer)
    except Failed as error:
        response = new("ModelStreamInferResponse", error_message=error.failure.message)
        if len(data) <= _QUICK_BYTES:  # to decode a large one takes a thread
            request = message("inference.ModelInferRequest").FromString(data)
            response.infer_response.id = request.id
            response.infer_response.model_name = request.model_name
        return response


def _signature_name(parameters: Any) -> str:
    given: str = parameters["signature_name"].string_param if "signature_name" in parameters else ""
    return given or DEFAULT_SIGNATURE


def _strings(request: Any) -> int:
    """Strings among the inputs: many of them are work for a thread."""
    return sum(
        len(each.contents.bytes_contents) if each.contents.bytes_contents else _longest(each.shape)
        for each in request.inputs
        if each.datatype == "BYTES"
    )


def _longest(shape: Sequence[int]) -> int:
    return max(shape, default=0) if len(shape) <= tensors.MAX_RANK else 0


def _inferred(request: Any) -> Requirements:
    def arguments() -> requirements.Arguments:
        return oip.outlines(request), {}

    name = model_name(request.model_name, request.model_version)
    function = _signature_name(request.parameters)
    return Requirements([requirements.RequireRun(name, function, arguments)])


_ITEMS: Final = 10_000

_INFERENCE_BOUNDS: Final = {
    "parameters": 100,
    "inputs": _ITEMS,
    "outputs": _ITEMS,
    "raw_input_contents": _ITEMS,
}

ROWS: Final = (
    Row.of(SERVICE, "ModelInfer", Verb.RUN, _inferred, model_infer, bounds=_INFERENCE_BOUNDS),
    Row.of(
        SERVICE,
        "ModelStreamInfer",
        Verb.RUN,
        identified,
        model_stream_infer,
        bounds=_INFERENCE_BOUNDS,
    ),
)
