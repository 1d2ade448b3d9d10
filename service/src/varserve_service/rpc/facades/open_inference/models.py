"""The server and its models: what is live, ready, described and counted."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, Final

from varserve_service.access.policy import Verb
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import ModelState
from varserve_service.rpc.authorization import requirements
from varserve_service.rpc.authorization.requirements import Requirements
from varserve_service.rpc.calls.call import RpcCall
from varserve_service.rpc.facades.naming import (
    DEFAULT_SIGNATURE,
    model_name,
    signature,
    tensor_inputs,
)
from varserve_service.rpc.row import Row
from varserve_service.rpc.services.backend import Backend

from . import tensors as oip
from .messages import SERVICE, identified, new

EXTENSIONS = ("model_repository", "model_configuration", "statistics", "binary_tensor_data")

PLATFORM = "tensorflow_savedmodel"


async def server_live(backend: Backend, request: Any, call: RpcCall) -> Any:
    """ServerLive."""
    return new("ServerLiveResponse", live=True)


async def server_ready(backend: Backend, request: Any, call: RpcCall) -> Any:
    """ServerReady: every model that was asked for can be called."""
    waiting = (ModelState.LOADING,)
    ready = all(status.state not in waiting for status in backend.models.statuses)
    return new("ServerReadyResponse", ready=ready)


async def server_metadata(backend: Backend, request: Any, call: RpcCall) -> Any:
    """ServerMetadata."""
    return new(
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
    return new("ModelReadyResponse", ready=ready)


async def model_metadata(backend: Backend, request: Any, call: RpcCall) -> Any:
    """ModelMetadata: the inputs and outputs of the default signature."""
    name = model_name(request.name, request.version)

    def work(live: LiveModel, deadline: float | None) -> Any:
        with backend.computing.turn():
            return described(live)

    def described(live: LiveModel) -> Any:
        spec = signature(live, DEFAULT_SIGNATURE, call.permissions)
        response = new(
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
    response = new("ModelConfigResponse")
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
    response = new("ModelStatisticsResponse")
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


def _described(request: Any) -> Requirements:
    name = model_name(request.name, request.version)
    return Requirements([requirements.RequireModel(Verb.LIST, name)])


def _counted(request: Any) -> Requirements:
    if request.name:
        return _described(request)
    return Requirements([requirements.RequireAnyModel(Verb.LIST)])


ROWS: Final = (
    Row.of(SERVICE, "ServerLive", Verb.LIST, identified, server_live, always_admitted=True),
    Row.of(SERVICE, "ServerReady", Verb.LIST, identified, server_ready, always_admitted=True),
    Row.of(SERVICE, "ModelReady", Verb.LIST, identified, model_ready, always_admitted=True),
    Row.of(SERVICE, "ServerMetadata", Verb.LIST, identified, server_metadata),
    Row.of(SERVICE, "ModelMetadata", Verb.LIST, _described, model_metadata),
    Row.of(SERVICE, "ModelConfig", Verb.LIST, _described, model_config),
    Row.of(SERVICE, "ModelStatistics", Verb.LIST, _counted, model_statistics),
)
