"""GetModelStatus and HandleReloadConfigRequest: which models and versions there are."""

from __future__ import annotations

from typing import Any, Final

from varserve_service.access.policy import Verb
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model.registry import STABLE, bare_name
from varserve_service.core.ports.loaded_model import ModelState
from varserve_service.rpc.authorization import requirements
from varserve_service.rpc.authorization.requirements import Requirements
from varserve_service.rpc.calls.call import RpcCall
from varserve_service.rpc.facades.naming import changing
from varserve_service.rpc.messages import translate
from varserve_service.rpc.row import Row
from varserve_service.rpc.services.backend import Backend

from .messages import MODEL_SERVICE, new

_STATES = {
    ModelState.LOADING: "LOADING",
    ModelState.READY: "AVAILABLE",
    ModelState.UNLOADING: "UNLOADING",
    ModelState.FAILED: "END",
}

_UNKNOWN_ERROR = 2  # google.rpc.Code

# Models in one HandleReloadConfigRequest.
_MAX_CONFIGS = 1_000


async def get_model_status(backend: Backend, request: Any, call: RpcCall) -> Any:
    """GetModelStatus. Why a version failed is for callers that administer the model."""
    name = bare_name(request.model_spec.name)
    permissions = call.permissions
    hidden = permissions is not None and not permissions.lists(name)
    wanted = request.model_spec
    response = new("GetModelStatusResponse")
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

    await workers.run(work, call)
    response = new("ReloadConfigResponse")
    response.status.SetInParent()
    return response


def _identified(request: Any) -> Requirements:
    """A caller that is who it says it is; the handler shows what it may know of."""
    return Requirements([])


def _reloaded(request: Any) -> Requirements:
    configs = request.config.model_config_list.config
    names = dict.fromkeys(bare_name(config.name) for config in configs)
    return Requirements([requirements.RequireModel(Verb.ADMIN, name) for name in names], True)


ROWS: Final = (
    Row.of(MODEL_SERVICE, "GetModelStatus", Verb.LIST, _identified, get_model_status),
    Row.of(
        MODEL_SERVICE,
        "HandleReloadConfigRequest",
        Verb.ADMIN,
        _reloaded,
        handle_reload_config,
    ),
)
