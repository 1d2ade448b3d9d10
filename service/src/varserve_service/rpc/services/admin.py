"""The calls of AdminService.

All of them work on threads of their own: a model that is being loaded does not occupy the threads
of those that are served. Changes wait for their turn; lists do not wait for changes.
"""

from __future__ import annotations

from functools import partial

from varserve.v1 import admin_service_pb2 as pb
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.ports.administration import Administration, KnownVersion, SaveFormat
from varserve_service.rpc.calls.call import RpcCall
from varserve_service.rpc.messages import descriptions, translate
from varserve_service.rpc.serving.workers import Workers

from .backend import Backend

_FORMATS = {
    pb.SAVE_FORMAT_UNSPECIFIED: SaveFormat.SAVED_MODEL,
    pb.SAVE_FORMAT_SAVED_MODEL: SaveFormat.SAVED_MODEL,
    pb.SAVE_FORMAT_CHECKPOINT: SaveFormat.CHECKPOINT,
    pb.SAVE_FORMAT_SAFETENSORS: SaveFormat.SAFETENSORS,
}


async def load_model(
    backend: Backend, request: pb.LoadModelRequest, call: RpcCall
) -> pb.LoadModelResponse:
    """LoadModel."""
    administration, workers = administration_of(backend)
    version = translate.optional(request, "version")
    if version is not None and version < 0:
        raise translate.malformed(f"version: expected 0 or more, found {version}")
    work = partial(administration.load, request.model, version, request.label, call.deadline)
    header = await workers.run(work, call)
    return pb.LoadModelResponse(header=translate.header(header))


async def unload_model(
    backend: Backend, request: pb.UnloadModelRequest, call: RpcCall
) -> pb.UnloadModelResponse:
    """UnloadModel."""
    administration, workers = administration_of(backend)
    work = partial(administration.unload, request.model, request.label or None, call.deadline)
    headers = await workers.run(work, call)
    return pb.UnloadModelResponse(headers=map(translate.header, headers))


async def save_model(
    backend: Backend, request: pb.SaveModelRequest, call: RpcCall
) -> pb.SaveModelResponse:
    """SaveModel."""
    administration, workers = administration_of(backend)
    save_format = _FORMATS.get(request.format)
    if save_format is None:
        raise translate.malformed(f"format: expected a SaveFormat, found {request.format}")
    work = partial(administration.save, request.model, request.folder, save_format, call.deadline)
    saved = await workers.run(work, call)
    return pb.SaveModelResponse(
        header=translate.header(saved.header),
        variable_count=saved.variables,
        byte_length=saved.nbytes,
    )


async def list_versions(
    backend: Backend, request: pb.ListVersionsRequest, call: RpcCall
) -> pb.ListVersionsResponse:
    """ListVersions."""
    administration, _ = administration_of(backend)
    permissions = call.permissions
    work = partial(administration.versions, request.model)
    versions = await backend.lister.run(work, call)
    if permissions is not None:
        versions = [v for v in versions if permissions.administers(v.header.model)]
    return pb.ListVersionsResponse(versions=map(_version, versions))


def administration_of(backend: Backend) -> tuple[Administration, Workers]:
    """Who loads, unloads and saves models, and on which threads. Raises NOT_CONFIGURED."""
    if backend.administration is None or backend.admin_workers is None:
        problem = "models are administered only where AdminService is served (--admin-port)"
        raise RequestError(Reason.NOT_CONFIGURED, problem)
    return backend.administration, backend.admin_workers


def _version(known: KnownVersion) -> pb.ModelVersion:
    return pb.ModelVersion(
        header=translate.header(known.header),
        state=None if known.state is None else descriptions.state(known.state),
        labels=known.labels,
        error=known.error,
        loadable=known.loadable,
    )
