"""The calls of AdminService: check, call the core's Administration, translate."""

from __future__ import annotations

from functools import partial

from varserve.v1 import admin_service_pb2 as pb
from varserve_service.core.ports.administration import Administration, KnownVersion, SaveFormat
from varserve_service.rpc.authorization.guard import sight_of
from varserve_service.rpc.entry.identity import Context
from varserve_service.rpc.messages import translate
from varserve_service.rpc.serving.calls import deadline_of
from varserve_service.rpc.serving.workers import Workers

_FORMATS = {
    pb.SAVE_FORMAT_UNSPECIFIED: SaveFormat.SAVED_MODEL,
    pb.SAVE_FORMAT_SAVED_MODEL: SaveFormat.SAVED_MODEL,
    pb.SAVE_FORMAT_CHECKPOINT: SaveFormat.CHECKPOINT,
    pb.SAVE_FORMAT_SAFETENSORS: SaveFormat.SAFETENSORS,
}


class AdminService:
    """Handlers, one for each RPC, that take request bytes and give response messages.

    All of them work on threads of their own: a model that is loaded does not keep the threads of
    those that are served. What changes models may wait for its turn; lists do not wait for that.
    """

    def __init__(self, administration: Administration, workers: Workers, lister: Workers) -> None:
        self._administration = administration
        self._workers = workers
        self._lister = lister

    async def load_model(self, data: bytes, context: Context) -> pb.LoadModelResponse:
        """LoadModel."""
        request = pb.LoadModelRequest.FromString(data)
        version = translate.optional(request, "version")
        if version is not None and version < 0:
            raise translate.malformed(f"version: expected 0 or more, found {version}")
        deadline = deadline_of(context)
        work = partial(self._administration.load, request.model, version, request.label, deadline)
        header = await self._workers.run(work, deadline)
        return pb.LoadModelResponse(header=translate.header(header))

    async def unload_model(self, data: bytes, context: Context) -> pb.UnloadModelResponse:
        """UnloadModel."""
        request = pb.UnloadModelRequest.FromString(data)
        deadline = deadline_of(context)
        work = partial(self._administration.unload, request.model, request.label or None, deadline)
        headers = await self._workers.run(work, deadline)
        return pb.UnloadModelResponse(headers=map(translate.header, headers))

    async def save_model(self, data: bytes, context: Context) -> pb.SaveModelResponse:
        """SaveModel."""
        request = pb.SaveModelRequest.FromString(data)
        form = _FORMATS.get(request.format)
        if form is None:
            raise translate.malformed(f"format: expected a SaveFormat, found {request.format}")
        deadline = deadline_of(context)
        work = partial(self._administration.save, request.model, request.folder, form, deadline)
        saved = await self._workers.run(work, deadline)
        return pb.SaveModelResponse(
            header=translate.header(saved.header),
            variable_count=saved.variables,
            byte_length=saved.nbytes,
        )

    async def list_versions(self, data: bytes, context: Context) -> pb.ListVersionsResponse:
        """ListVersions."""
        request = pb.ListVersionsRequest.FromString(data)
        work = partial(self._administration.versions, request.model)
        seen = sight_of(context)
        found = await self._lister.run(work, deadline_of(context))
        if seen is not None:
            found = [each for each in found if seen.administers(each.header.model)]
        return pb.ListVersionsResponse(versions=map(_version, found))


def _version(known: KnownVersion) -> pb.ModelVersion:
    return pb.ModelVersion(
        header=translate.header(known.header),
        state=None if known.state is None else translate.state(known.state),
        labels=known.labels,
        error=known.error,
        loadable=known.loadable,
    )
