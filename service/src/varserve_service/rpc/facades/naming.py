"""What foreign protocols call models and functions, and what they may do with models."""

from __future__ import annotations

from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.administration import Administration
from varserve_service.core.ports.loaded_model import (
    FunctionKind,
    FunctionSpec,
    InputSpec,
    TensorSpec,
)
from varserve_service.rpc.calls.permissions import CallerPermissions
from varserve_service.rpc.services.admin import administration_of
from varserve_service.rpc.services.backend import Backend
from varserve_service.rpc.serving.workers import Workers

DEFAULT_SIGNATURE = "serving_default"


def model_name(name: str, version: str = "") -> str:
    """`NAME@VERSION` or `NAME@LABEL`; the name alone where no version is given."""
    return f"{name}@{version}" if version else name


def signature(live: LiveModel, name: str, permissions: CallerPermissions | None) -> FunctionSpec:
    """A function by its name, for a description of it.

    Raises RequestError FUNCTION_NOT_FOUND, also for one that the caller may not know of.
    """
    specs = {spec.name: spec for spec in live.outline().functions}
    if permissions is not None:
        visible = permissions.functions(live, specs)
        specs = {key: spec for key, spec in specs.items() if key in visible}
    signatures = [key for key, spec in specs.items() if spec.kind is FunctionKind.SIGNATURE]
    if name not in specs:
        raise RequestError(
            Reason.FUNCTION_NOT_FOUND,
            f"model {live.name!r} has no function {name[:200]!r}; its signatures: "
            f"{', '.join(signatures[:20]) or 'none'}",
            model=live.name,
            function=name[:200],
        )
    return specs[name]


def tensor_inputs(spec: FunctionSpec) -> list[tuple[InputSpec, TensorSpec]]:
    """The inputs of a signature that are tensors, in its order."""
    inputs = spec.overloads[0].inputs
    return [(each, each.kind) for each in inputs if isinstance(each.kind, TensorSpec)]


def changing(backend: Backend) -> tuple[Administration, Workers]:
    """Who loads and unloads models, and on which threads.

    Raises RequestError NOT_CONFIGURED where AdminService is not served, or is kept from the callers
    of this port.
    """
    if not backend.facades_administer:
        raise RequestError(
            Reason.NOT_CONFIGURED,
            "models are loaded and unloaded on this port only where a policy says who may "
            "(--policy), or AdminService listens on the same address",
        )
    return administration_of(backend)
