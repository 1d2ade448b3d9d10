"""The Open Inference Protocol with Triton's additions: `inference.GRPCInferenceService`.

A function other than the default signature is named by the parameter `signature_name`; the answer
has the revision that it ran at as the parameter `varserve_revision`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final

from varserve import tensors
from varserve_service.access.policy import Verb
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.registry import STABLE, bare_name
from varserve_service.core.ports.loaded_model import ModelState, Value
from varserve_service.core.ports.messages import Header
from varserve_service.rpc.authorization import requirements
from varserve_service.rpc.authorization.requirements import Requirements
from varserve_service.rpc.calls.call import RpcCall
from varserve_service.rpc.failures import Failed
from varserve_service.rpc.messages import translate
from varserve_service.rpc.row import Row
from varserve_service.rpc.services import runs
from varserve_service.rpc.services.admin import administration_of
from varserve_service.rpc.services.backend import Backend

from . import open_inference_tensors as oip
from .contracts import message, service
from .naming import DEFAULT_SIGNATURE, changing, model_name, signature, tensor_inputs

SERVICE = service("inference.GRPCInferenceService")
EXTENSIONS = ("model_repository", "model_configuration", "statistics", "binary_tensor_data")
PLATFORM = "tensorflow_savedmodel"

_STATES = {
    ModelState.READY: "READY",
    ModelState.LOADING: "LOADING",
    ModelState.UNLOADING: "UNLOADING",
}
# Requests of one stream that are worked on at once.
_STREAM_WINDOW: Final = 16


def _new(kind: str, /, **fields: Any) -> Any:
    return message(f"inference.{kind}")(**fields)


# ---- the server and its models ----


async def server_live(backend: Backend, request: Any, call: RpcCall) -> Any:
    """ServerLive."""
    return _new("ServerLiveResponse", live=True)


async def server_ready(backend: Backend, request: Any, call: RpcCall) -> Any:
    """ServerReady: every model that was asked for can be called."""
    waiting = (ModelState.LOADING,)
    ready = all(status.state not in waiting for status in backend.models.statuses)
    return _new("ServerReadyResponse", ready=ready)


async def server_metadata(backend: Backend, request: Any, call: RpcCall) -> Any:
    """ServerMetadata."""
    return _new(
        "ServerMetadataResponse",
        name="varserve",
        version=version("varserve-service"),
        extensions=EXTENSIONS,
    )


async def model_ready(backend: Backend, request: Any, call: RpcCall) -> Any:
    """ModelReady. A model that the caller may not know of is not ready, like one that is absent."""
    live = backend.models.resolve(model_name(request.name, request.version))
    permissions = call.permissions
    ready = live is not None and (permissions is None or permissions.lists(live.name))
    return _new("ModelReadyResponse", ready=ready)


async def model_metadata(backend: Backend, request: Any, call: RpcCall) -> Any:
    """ModelMetadata: the inputs and outputs of the default signature."""
    name = model_name(request.name, request.version)

    def work(live: LiveModel, deadline: float | None) -> Any:
        spec = signature(live, DEFAULT_SIGNATURE, call.permissions)
        response = _new(
            "ModelMetadataResponse",
            name=request.name,
            platform=PLATFORM,
            versions=[
                str(status.version)
                for status in backend.models.versions(live.name)
                if status.live is not None
            ],
        )
        for each, kind in tensor_inputs(spec):
            datatype = oip.datatype(kind.dtype, f"input {each.name!r}")
            response.inputs.add(name=each.name, datatype=datatype, shape=_sizes(kind.shape))
        for output in spec.overloads[0].outputs:
            datatype = oip.datatype(output.tensor.dtype, f"output {output.name!r}")
            sizes = _sizes(output.tensor.shape)
            response.outputs.add(name=output.name, datatype=datatype, shape=sizes)
        return response

    return await backend.run_on_model(call, name, work)


async def model_config(backend: Backend, request: Any, call: RpcCall) -> Any:
    """ModelConfig, for clients that look there for inputs and outputs."""
    metadata = await model_metadata(backend, request, call)
    response = _new("ModelConfigResponse")
    config = response.config
    config.name, config.platform, config.backend = request.name, PLATFORM, "varserve"
    for group, described in ((config.input, metadata.inputs), (config.output, metadata.outputs)):
        for each in described:
            word = "STRING" if each.datatype == "BYTES" else each.datatype
            group.add(name=each.name, data_type=f"TYPE_{word}", dims=each.shape)
    return response


async def model_statistics(backend: Backend, request: Any, call: RpcCall) -> Any:
    """ModelStatistics: the calls of this protocol since the version was loaded."""
    wanted = model_name(request.name, request.version)
    if request.name:
        lives = [backend.models.find(wanted)]
    else:
        lives = list(backend.models.sorted)
    permissions = call.permissions
    response = _new("ModelStatisticsResponse")
    for live in lives:
        if permissions is not None and not permissions.lists(live.name):
            continue
        counts = backend.inference_counts.of(live)
        stats = response.model_stats.add(
            name=live.name,
            version=str(live.version),
            last_inference=counts.last_at,
            inference_count=counts.succeeded,
            execution_count=counts.succeeded,
        )
        stats.inference_stats.success.count = counts.succeeded
        stats.inference_stats.success.ns = counts.succeeded_ns
        stats.inference_stats.fail.count = counts.failed
        stats.inference_stats.fail.ns = counts.failed_ns
    return response


def _sizes(shape: tuple[int | None, ...] | None) -> list[int]:
    return [-1] if shape is None else [-1 if size is None else size for size in shape]


# ---- inference ----


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
        response = _new(
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


# A refused request of a stream is decoded again, for its id, up to so many bytes.
_QUICK_BYTES = 64 << 10


async def _streamed(backend: Backend, data: bytes, call: RpcCall) -> Any:
    try:
        answer = await backend.nested(f"{SERVICE.full_name}.ModelInfer", data, call)
        return _new("ModelStreamInferResponse", infer_response=answer)
    except Failed as error:
        response = _new("ModelStreamInferResponse", error_message=error.failure.message)
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


# ---- the repository ----


async def repository_index(backend: Backend, request: Any, call: RpcCall) -> Any:
    """RepositoryIndex."""
    administration, _ = administration_of(backend)
    permissions = call.permissions
    response = _new("RepositoryIndexResponse")
    for known in await backend.lister.run(administration.versions, call.deadline):
        header = known.header
        if permissions is not None and not permissions.administers(header.model):
            continue
        state = "UNAVAILABLE" if known.state is None else _STATES.get(known.state, "UNAVAILABLE")
        if request.ready and state != "READY":
            continue
        response.models.add(
            name=header.model, version=str(header.version), state=state, reason=known.error
        )
    return response


async def repository_model_load(backend: Backend, request: Any, call: RpcCall) -> Any:
    """RepositoryModelLoad: the newest version, under its plain name."""
    if request.parameters:
        raise translate.malformed(
            "parameters: expected none, found "
            f"{', '.join(sorted(request.parameters))[:200]}; models come from the repository alone"
        )
    administration, workers = changing(backend)

    def work() -> Header:
        return administration.load(request.model_name, None, STABLE, call.deadline)

    call.note_header(await workers.run(work, call.deadline))
    return _new("RepositoryModelLoadResponse")


async def repository_model_unload(backend: Backend, request: Any, call: RpcCall) -> Any:
    """RepositoryModelUnload: all versions and labels."""
    administration, workers = changing(backend)

    def work() -> list[Header]:
        return administration.unload(request.model_name, None, call.deadline)

    await workers.run(work, call.deadline)
    return _new("RepositoryModelUnloadResponse")


# ---- what requests require ----


def _nothing(request: Any) -> Requirements:
    """A caller that is who it says it is."""
    return Requirements([])


def _described(request: Any) -> Requirements:
    name = model_name(request.name, request.version)
    return Requirements([requirements.RequireModel(Verb.LIST, name)])


def _counted(request: Any) -> Requirements:
    if request.name:
        return _described(request)
    return Requirements([requirements.RequireAnyModel(Verb.LIST)])


def _inferred(request: Any) -> Requirements:
    def arguments() -> requirements.Arguments:
        return oip.outlines(request), {}

    name = model_name(request.model_name, request.model_version)
    function = _signature_name(request.parameters)
    return Requirements([requirements.RequireRun(name, function, arguments)])


def _indexed(request: Any) -> Requirements:
    return Requirements([requirements.RequireAnyModel(Verb.ADMIN)])


def _administered(request: Any) -> Requirements:
    name = bare_name(request.model_name)
    return Requirements([requirements.RequireModel(Verb.ADMIN, name)], True)


_ITEMS: Final = 10_000
_INFERENCE_BOUNDS: Final = {
    "parameters": 100,
    "inputs": _ITEMS,
    "outputs": _ITEMS,
    "raw_input_contents": _ITEMS,
}
_PARAMETERS: Final = {"parameters": 100}

ROWS: Final = (
    Row.of(SERVICE, "ServerLive", Verb.LIST, _nothing, server_live, always_admitted=True),
    Row.of(SERVICE, "ServerReady", Verb.LIST, _nothing, server_ready, always_admitted=True),
    Row.of(SERVICE, "ModelReady", Verb.LIST, _nothing, model_ready, always_admitted=True),
    Row.of(SERVICE, "ServerMetadata", Verb.LIST, _nothing, server_metadata),
    Row.of(SERVICE, "ModelMetadata", Verb.LIST, _described, model_metadata),
    Row.of(SERVICE, "ModelConfig", Verb.LIST, _described, model_config),
    Row.of(SERVICE, "ModelStatistics", Verb.LIST, _counted, model_statistics),
    Row.of(
        SERVICE,
        "ModelInfer",
        Verb.RUN,
        _inferred,
        model_infer,
        bounds=_INFERENCE_BOUNDS,
    ),
    Row.of(
        SERVICE,
        "ModelStreamInfer",
        Verb.RUN,
        _nothing,
        model_stream_infer,
        bounds=_INFERENCE_BOUNDS,
    ),
    Row.of(SERVICE, "RepositoryIndex", Verb.ADMIN, _indexed, repository_index),
    Row.of(
        SERVICE,
        "RepositoryModelLoad",
        Verb.ADMIN,
        _administered,
        repository_model_load,
        bounds=_PARAMETERS,
    ),
    Row.of(
        SERVICE,
        "RepositoryModelUnload",
        Verb.ADMIN,
        _administered,
        repository_model_unload,
        bounds=_PARAMETERS,
    ),
)
