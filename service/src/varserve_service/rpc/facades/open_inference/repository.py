"""The repository: which models there are to load, and loading and unloading them."""

from __future__ import annotations

from typing import Any, Final

from varserve_service.access.policy import Verb
from varserve_service.core.model.registry import STABLE, bare_name
from varserve_service.core.ports.messages import Header
from varserve_service.rpc.authorization import requirements
from varserve_service.rpc.authorization.requirements import Requirements
from varserve_service.rpc.calls.call import RpcCall
from varserve_service.rpc.facades.naming import changing
from varserve_service.rpc.messages import translate
from varserve_service.rpc.row import Row
from varserve_service.rpc.services.admin import administration_of
from varserve_service.rpc.services.backend import Backend

from .messages import SERVICE, STATES, new


async def repository_index(backend: Backend, request: Any, call: RpcCall) -> Any:
    """RepositoryIndex."""
    administration, _ = administration_of(backend)
    permissions = call.permissions
    response = new("RepositoryIndexResponse")
    for known in await backend.lister.run(administration.versions, call):
        header = known.header
        if permissions is not None and not permissions.administers(header.model):
            continue
        state = "UNAVAILABLE" if known.state is None else STATES.get(known.state, "UNAVAILABLE")
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

    call.note_header(await workers.run(work, call))
    return new("RepositoryModelLoadResponse")


async def repository_model_unload(backend: Backend, request: Any, call: RpcCall) -> Any:
    """RepositoryModelUnload: all versions and labels."""
    administration, workers = changing(backend)

    def work() -> list[Header]:
        return administration.unload(request.model_name, None, call.deadline)

    await workers.run(work, call)
    return new("RepositoryModelUnloadResponse")


def _indexed(request: Any) -> Requirements:
    return Requirements([requirements.RequireAnyModel(Verb.ADMIN)])


def _administered(request: Any) -> Requirements:
    name = bare_name(request.model_name)
    return Requirements([requirements.RequireModel(Verb.ADMIN, name)], True)


_PARAMETERS: Final = {"parameters": 100}

ROWS: Final = (
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
