"""Messages of the protocol, and its words."""

from __future__ import annotations

from typing import Any

from varserve_service.core.ports.loaded_model import ModelState
from varserve_service.rpc.authorization.requirements import Requirements
from varserve_service.rpc.facades.contracts import message, service

SERVICE = service("inference.GRPCInferenceService")

STATES = {
    ModelState.READY: "READY",
    ModelState.LOADING: "LOADING",
    ModelState.UNLOADING: "UNLOADING",
}


def new(kind: str, /, **fields: Any) -> Any:
    """A message of the protocol, by its name."""
    return message(f"inference.{kind}")(**fields)


def identified(request: Any) -> Requirements:
    """A caller that is who it says it is."""
    return Requirements([])
