"""MLflow deploys to a varserve service: the plugin for `varserve://HOST:PORT`.

    client = mlflow.deployments.get_deploy_client("varserve://localhost:8500?repository=/models")
    client.create_deployment("ranker", "models:/ranker@champion")
    client.predict("ranker", {"x": x})["predictions"]

Credentials and TLS are those of the command line: the environment's, or a context's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from mlflow.deployments import BaseDeploymentClient, PredictionsResponse
from mlflow.exceptions import MlflowException

from varserve import (
    AccessDenied,
    DeadlineExceeded,
    Function,
    FunctionKind,
    InvalidRequest,
    Model,
    ModelSummary,
    NotFound,
    ResourceExhausted,
    TensorSpec,
    Unauthenticated,
    Unavailable,
    VarserveError,
    connect,
    connect_admin,
)
from varserve._client.contexts import (
    Settings,
    chosen_context,
    config_path,
    environment,
    find,
    read_context,
)
from varserve.fetching import FetchError, newest_version, open_source, place
from varserve.tensors import STRING, Array, dtype_name

_HELP = """\
varserve://HOST:PORT[?admin=HOST:PORT][&repository=FOLDER]

HOST:PORT is where the service answers. admin: where its AdminService does; port 8502 of the same
host if it is not said. repository: the service's folder of models, as this machine sees it; also
VARSERVE_REPOSITORY. TLS and credentials: VARSERVE_CA, VARSERVE_CERT, VARSERVE_KEY, VARSERVE_TOKEN,
VARSERVE_BEARER_FILE, or a context of the command line (VARSERVE_CONTEXT).

A deployment is a model by its name; to predict, NAME@LABEL and NAME@VERSION are taken too.
create and update fetch the model into the repository, as `varserve fetch` does, and load it.

config of create and update:
  label     what is to mean the version; "stable" if it is not said
  version   its number in the repository. Of models:/NAME/N and models:/NAME@ALIAS it is MLflow's
            own, of others the next one. update without a model takes a version that is there
config of delete:
  label     the only one to take away
"""
_FLAVORS = (None, "tensorflow", "keras")
_NUMBERED = re.compile(r"models:/[^/@]+(/[0-9]+|@[^/@]+)")
_CODES: tuple[tuple[type[Exception], str], ...] = (
    (Unauthenticated, "UNAUTHENTICATED"),
    (AccessDenied, "PERMISSION_DENIED"),
    (NotFound, "RESOURCE_DOES_NOT_EXIST"),
    (ResourceExhausted, "RESOURCE_EXHAUSTED"),
    (DeadlineExceeded, "TEMPORARILY_UNAVAILABLE"),
    (Unavailable, "TEMPORARILY_UNAVAILABLE"),
    (InvalidRequest, "INVALID_PARAMETER_VALUE"),
    (VarserveError, "INVALID_STATE"),
    (FetchError, "INVALID_PARAMETER_VALUE"),
)
"""Error codes of MLflow by what went wrong, the narrower first."""


def target_help() -> str:
    """What `mlflow deployments help -t varserve` shows."""
    return _HELP


def run_local(
    name: str, model_uri: str, flavor: str | None = None, config: Mapping[str, Any] | None = None
) -> None:
    """Not there: a service is a process of its own. Raises MlflowException."""
    raise _refusal(
        f"varserve serves no model inside MLflow: `varserve fetch {model_uri} REPOSITORY/{name}`, "
        "then `varserve-service serve REPOSITORY`",
        "NOT_IMPLEMENTED",
    )


class VarserveDeployments(BaseDeploymentClient):  # type: ignore[misc]
    """The models of one service. All methods raise MlflowException."""

    def __init__(self, target_uri: str) -> None:
        super().__init__(target_uri)
        with _told():
            given, self._repository = _read_target(target_uri)
            settings = given.over(environment())
            context = read_context(config_path(), chosen_context())
            served, administered = (
                find(settings, context, address) for address in ("server", "admin_server")
            )
            self._client = connect(served.address, **served.options)
            self._admin = connect_admin(administered.address, **administered.options)

    def create_deployment(
        self,
        name: str,
        model_uri: str,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Fetch a model into the repository, and serve it under a new name."""
        _no_endpoint(endpoint)
        with _told():
            if any(each.name == name for each in self._client.models()):
                raise _refusal(
                    f"model {name!r} is served already; update_deployment changes it",
                    "RESOURCE_ALREADY_EXISTS",
                )
            return self._deploy(name, model_uri, flavor, config or {})

    def update_deployment(
        self,
        name: str,
        model_uri: str | None = None,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Serve another model under a name, or another version from the repository."""
        _no_endpoint(endpoint)
        with _told():
            self._versions(name)
            return self._deploy(name, model_uri, flavor, config or {})

    def delete_deployment(
        self,
        name: str,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> None:
        """Take a model out of memory. Its files stay; one that is not served is no error."""
        _no_endpoint(endpoint)
        with _told():
            label = _known(config or {}, "label").get("label", "")
            with suppress(NotFound):
                self._admin.unload_model(name, label=str(label))

    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """Every model that the caller may list."""
        _no_endpoint(endpoint)
        with _told():
            names = dict.fromkeys(each.name for each in self._client.models())
            return [self._described(name) for name in names]

    def get_deployment(self, name: str, endpoint: str | None = None) -> dict[str, Any]:
        """A model with its versions, and its functions where it can be called."""
        _no_endpoint(endpoint)
        with _told():
            found = self._described(name)
            if any("stable" in each["labels"] for each in found["versions"]):
                functions = self._client.model(name).functions
                found["functions"] = [str(function) for function in functions]
            return found

    def predict(
        self,
        deployment_name: str | None = None,
        inputs: Any = None,
        endpoint: str | None = None,
    ) -> PredictionsResponse:
        """Run `serving_default`, or the only signature.

        inputs: arrays by name, a DataFrame whose columns are inputs, or what the only input takes.
        The answer has `predictions` (of several outputs, by name), `version` and `revision`.
        """
        _no_endpoint(endpoint)
        with _told():
            model = self._client.model(str(deployment_name or ""))
            function = _signature(model)
            outputs = function.call(_inputs(function, inputs))
            values = {name: _plain(value) for name, value in outputs.items()}
            return PredictionsResponse(
                {
                    "predictions": next(iter(values.values())) if len(values) == 1 else values,
                    "version": outputs.version,
                    "revision": outputs.revision,
                }
            )

    def _deploy(
        self, name: str, uri: str | None, flavor: str | None, config: Mapping[str, Any]
    ) -> dict[str, Any]:
        if flavor not in _FLAVORS:
            raise _refusal(f"flavor: expected tensorflow or keras, found {flavor!r}")
        given = _known(config, "label", "version")
        version = None if given.get("version") is None else _number(given["version"])
        if uri is None and version is None and flavor is not None:
            raise _refusal("flavor: expected a model_uri with it, found none")
        if uri is not None:
            version = self._fetched(uri, name, version)
        label = str(given.get("label") or "stable")
        header = self._admin.load_model(name, version, label=label)
        return {
            "name": name,
            "flavor": flavor or "tensorflow",
            "version": header.version,
            "label": label,
        }

    def _fetched(self, uri: str, name: str, version: int | None) -> int:
        """The version of the repository that a model became, or is already."""
        if self._repository is None:
            raise _refusal(
                f"{self.target_uri}: expected the service's folder of models with "
                "?repository=FOLDER or VARSERVE_REPOSITORY, found neither"
            )
        if version is None and _NUMBERED.fullmatch(uri):
            version = newest_version(uri).number
            if (self._repository / name / str(version)).exists():
                return version
        with open_source(uri) as source:
            return place(source, self._repository, name, version).version

    def _versions(self, name: str) -> list[ModelSummary]:
        found = [each for each in self._client.models() if each.name == name]
        if not found:
            raise _refusal(f"no model {name!r} is served", "RESOURCE_DOES_NOT_EXIST")
        return found

    def _described(self, name: str) -> dict[str, Any]:
        return {
            "name": name,
            "flavor": "tensorflow",
            "versions": [
                {
                    "version": each.version,
                    "labels": list(each.labels),
                    "state": each.state.value,
                    "revision": each.revision,
                }
                for each in self._versions(name)
            ],
        }


def _read_target(uri: str) -> tuple[Settings, Path | None]:
    """Where a target's service answers, and its folder of models."""
    parts = urlsplit(uri)
    query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    if parts.scheme != "varserve" or not parts.netloc or parts.path.strip("/"):
        raise _refusal(f"{uri}: expected varserve://HOST:PORT, found another target")
    known = _known(query, "admin", "repository")
    admin = known.get("admin") or os.environ.get("VARSERVE_ADMIN_SERVER")
    repository = known.get("repository") or os.environ.get("VARSERVE_REPOSITORY")
    return (
        Settings(server=parts.netloc, admin_server=admin or f"{parts.hostname}:8502"),
        Path(repository) if repository else None,
    )


def _refusal(message: str, code: str = "INVALID_PARAMETER_VALUE") -> MlflowException:
    from mlflow.protos import databricks_pb2

    return MlflowException(message, error_code=databricks_pb2.ErrorCode.Value(code))


@contextmanager
def _told() -> Iterator[None]:
    """Raises what goes wrong as MLflow's own error, with its code."""
    try:
        yield
    except tuple(kind for kind, _ in _CODES) as error:
        code = next(code for kind, code in _CODES if isinstance(error, kind))
        raise _refusal(str(getattr(error, "message", error)), code) from error


def _no_endpoint(endpoint: str | None) -> None:
    if endpoint is not None:
        raise _refusal(f"endpoint: a varserve service has none, found {endpoint!r}")


def _known(given: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    unknown = [key for key in given if key not in names]
    if unknown:
        raise _refusal(f"expected {' or '.join(names)}, found {', '.join(unknown)}")
    return given


def _number(given: Any) -> int:
    if not str(given).isdecimal():
        raise _refusal(f"version: expected a number, found {given!r}")
    return int(given)


def _signature(model: Model) -> Function:
    signatures = [
        function.name
        for function in model.functions.values()
        if function.kind is FunctionKind.SIGNATURE
    ]
    return model.functions[signatures[0] if len(signatures) == 1 else "serving_default"]


def _inputs(function: Function, given: Any) -> dict[str, Any]:
    """What a caller of MLflow gives, by the names of inputs."""
    known = {
        each.name: each.kind
        for each in function.overloads[0].inputs
        if isinstance(each.kind, TensorSpec)
    }
    columns = getattr(given, "columns", None)
    if columns is not None:
        if not set(columns) <= known.keys() and len(known) == 1:
            ((name, kind),) = known.items()
            return {name: _array(given.to_numpy(), kind)}
        given = {name: given[name].to_numpy() for name in columns}
        return {
            name: _array(value, known[name]) if name in known else value
            for name, value in given.items()
        }
    if isinstance(given, Mapping):
        return {
            name: _array(value, known[name])
            if name in known and not isinstance(value, np.ndarray)
            else value
            for name, value in given.items()
        }
    if len(known) != 1:
        raise _refusal(f"inputs: expected arrays by name: {', '.join(known) or 'there are none'}")
    ((name, kind),) = known.items()
    return {name: given if isinstance(given, np.ndarray) else _array(given, kind)}


def _array(value: Any, kind: TensorSpec) -> Array:
    """Numbers of a table or of lists, as the input's dtype: those have no types of their own."""
    if dtype_name(kind.dtype) == STRING:
        return np.asarray(value, object)
    if isinstance(value, np.ndarray) and value.dtype.kind == "O":
        value = value.tolist()  # a table has arrays as objects
    try:
        return np.asarray(value).astype(kind.dtype)
    except (TypeError, ValueError) as error:
        raise _refusal(f"inputs: expected numbers for {kind}: {error}") from None


def _plain(value: Array) -> Any:
    if value.dtype.kind == "O":
        value = np.vectorize(lambda each: each.decode(errors="replace"), otypes=[object])(value)
    elif value.dtype.kind == "V":
        value = value.astype(np.float64)
    return value.tolist()
