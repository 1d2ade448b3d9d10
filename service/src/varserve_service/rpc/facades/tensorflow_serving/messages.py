"""Messages of the protocol, and the models and functions that they name."""

from __future__ import annotations

from typing import Any

from varserve_service.core.ports.messages import Header
from varserve_service.rpc.facades.contracts import message, service
from varserve_service.rpc.facades.naming import DEFAULT_SIGNATURE, model_name
from varserve_service.rpc.messages import translate

PREDICTION_SERVICE = service("tensorflow.serving.PredictionService")
MODEL_SERVICE = service("tensorflow.serving.ModelService")


def new(kind: str, /, **fields: Any) -> Any:
    """A message of the protocol, by its name."""
    return message(f"tensorflow.serving.{kind}")(**fields)


def model_of(spec: Any) -> str:
    """The model that a ModelSpec names. Raises RequestError."""
    if not spec.name:
        raise translate.malformed("model_spec: expected the name of a model, found none")
    if spec.HasField("version"):
        return model_name(spec.name, str(spec.version.value))
    return model_name(spec.name, spec.version_label)


def function_of(spec: Any) -> str:
    """The function that a ModelSpec names."""
    name: str = spec.signature_name
    return name or DEFAULT_SIGNATURE


def answered(response: Any, spec: Any, header: Header) -> Any:
    """Say in a response which model, version and signature answered."""
    response.model_spec.name = spec.name
    response.model_spec.version.value = header.version
    response.model_spec.signature_name = function_of(spec)
    return response
