"""ListModels and GetModel."""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import Any

from varserve.v1 import model_service_pb2 as pb
from varserve_service.access.policy import Kind, Verb
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.registry import Status
from varserve_service.core.ports.loaded_model import FunctionSpec
from varserve_service.core.ports.messages import Description
from varserve_service.rpc.calls.call import RpcCall
from varserve_service.rpc.calls.permissions import CallerPermissions
from varserve_service.rpc.messages import descriptions

from .backend import Backend
from .consistency import wait_until_recent

# Seconds that a list waits for a model that a write holds.
_PATIENCE = 0.5
_VERSION = version("varserve-service")


async def list_models(
    backend: Backend, request: pb.ListModelsRequest, call: RpcCall
) -> pb.ListModelsResponse:
    """ListModels."""
    permissions = call.permissions

    def work() -> pb.ListModelsResponse:
        return pb.ListModelsResponse(
            service_version=_VERSION,
            models=[
                _summary(status, permissions)
                for status in backend.models.statuses
                if permissions is None or permissions.lists(status.name)
            ],
        )

    return await backend.lister.run(work, call)


async def get_model(
    backend: Backend, request: pb.GetModelRequest, call: RpcCall
) -> pb.GetModelResponse:
    """GetModel."""
    permissions = call.permissions
    limits = pb.TransferLimits()
    limits.CopyFrom(backend.limits)
    if backend.lane is not None and call.is_local:
        limits.lane_socket = backend.lane.path
    if backend.port is not None:
        limits.lane_port = backend.port.number

    def work(live: LiveModel, deadline: float | None) -> pb.GetModelResponse:
        description = live.describe(deadline)
        denied = descriptions.NOTHING_DENIED
        with backend.computing.turn():
            if permissions is not None:
                description = permissions.visible(description, live)
                denied = _denied(description, live, permissions)
            return descriptions.page(
                backend.models.status(live),
                description,
                limits,
                request.page_token,
                backend.max_message_bytes,
                denied,
            )

    await wait_until_recent(backend, request, call)
    return await backend.run_on_model(call, request.model, work)


def _denied(
    description: Description, live: LiveModel, permissions: CallerPermissions
) -> descriptions.Denied:
    """What of a model the caller sees and may not use."""
    assigned = permissions.variables(Verb.ASSIGN, live)
    read = permissions.variables(Verb.READ, live)

    def may(verb: Verb, function: FunctionSpec) -> bool:
        return permissions.may(verb, live, Kind.FUNCTION, function.name)

    return descriptions.Denied(
        frozenset(v.spec.path for v in description.variables) - assigned,
        frozenset(
            each.path
            for each in description.functions
            if not may(Verb.RUN, each)
            or not any(assigned.issuperset(overload.writes) for overload in each.overloads)
        ),
        frozenset(
            each.path
            for each in description.functions
            if not may(Verb.INSPECT, each)
            or not any(
                read.issuperset((*overload.reads, *overload.writes)) for overload in each.overloads
            )
        ),
    )


def _summary(status: Status, permissions: CallerPermissions | None) -> Any:
    live = status.live
    if live is None:
        return descriptions.summary(status, None)
    try:
        description = live.describe(time.monotonic() + _PATIENCE)
    except RequestError as error:
        if error.reason is Reason.MODEL_NOT_READY:  # unloaded at this moment
            return descriptions.summary(status, None)
        if error.reason is not Reason.DEADLINE_EXCEEDED:
            raise
        # A write holds it, for minutes maybe: the others are listed nevertheless.
        description = live.outline()
    if permissions is not None:
        description = permissions.visible(description, live)
    return descriptions.summary(status, description)
