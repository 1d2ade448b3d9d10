"""The operator's client: which models a service has in memory, and in which version.

    with varserve.connect_admin("localhost:8502") as admin:
        admin.load_model("counter", 4, label="canary")

Owns AdminService's calls. One class serves both drivers: what it returns is a value from
`varserve.connect_admin`, and to be awaited from `varserve.aio.connect_admin`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from varserve.v1 import admin_service_pb2 as pb

from .connect import ADMIN_SECONDS, ConnectOptions, options_of
from .errors import InvalidRequest, ServiceError
from .handles.base import Connection, D_co, operation
from .operations.methods import method
from .operations.requests import build
from .transport.attempts import attempt
from .transport.calls import Call, Method, Op
from .transport.drivers import Sync
from .values import specs
from .values.enums import SaveFormat
from .values.specs import ModelState, StateHeader
from .wording import shown

_SERVICE = pb.DESCRIPTOR.services_by_name["AdminService"]


LOAD_MODEL = method("LoadModel", service=_SERVICE)
UNLOAD_MODEL = method("UnloadModel", service=_SERVICE)
SAVE_MODEL = method("SaveModel", service=_SERVICE)
LIST_VERSIONS = method("ListVersions", service=_SERVICE)


class SavedState(NamedTuple):
    """What was saved. nbytes: of all files."""

    header: StateHeader
    variable_count: int
    nbytes: int


class ModelVersion(NamedTuple):
    """A version of a model. `state` None: it has not been loaded.

    error: why it is FAILED. loadable: its files are in the repository, and complete.
    """

    header: StateHeader
    state: ModelState | None
    labels: tuple[str, ...]
    error: str
    loadable: bool


class AdminClient(Connection[D_co]):
    """A connection to a service's admin port. Made by `connect_admin`; closed by `close`.

    Its default timeout is long: a load takes as long as the model is large. When a call is given up
    meanwhile, the load goes on.
    """

    @operation
    def load_model(
        self,
        model: str,
        version: int | None = None,
        *,
        label: str = "stable",
        timeout: float | None = None,
    ) -> Op[StateHeader]:
        """LoadModel: let a label mean a version of a model from now on; the newest when None.

        Raises ModelNotFound, ModelNotReady, ModelLoadFailed, ModelNotAllowed, OutOfMemory,
        NotConfigured. What was served before goes on then.
        """
        request = build(pb.LoadModelRequest, model=model, version=version, label=label)
        reply = yield from self._ask(LOAD_MODEL, request, timeout)
        return specs.header(reply.header)

    @operation
    def unload_model(
        self, model: str, *, label: str = "", timeout: float | None = None
    ) -> Op[list[StateHeader]]:
        """UnloadModel: take a label away, or all of them; the last states of what was unloaded.

        Raises ModelNotFound, ModelNotReady.
        """
        request = build(pb.UnloadModelRequest, model=model, label=label)
        reply = yield from self._ask(UNLOAD_MODEL, request, timeout, repeatable=False)
        return [specs.header(each) for each in reply.headers]

    @operation
    def save_model(
        self,
        model: str,
        folder: str,
        *,
        format: SaveFormat | str = SaveFormat.SAVED_MODEL,
        timeout: float | None = None,
    ) -> Op[SavedState]:
        """SaveModel: write what a model is now into a new folder on the service's machine.

        folder: `NAME`, or `NAME/VERSION`. Raises SaveExists, SaveUnsupported, SaveFailed,
        NotConfigured, ModelNotFound.
        """
        try:
            number = pb.SaveFormat.Value(f"SAVE_FORMAT_{SaveFormat(format).name}")
        except ValueError:
            raise InvalidRequest(
                f"format: expected one of {', '.join(SaveFormat)}, found {shown(format)}"
            ) from None
        request = build(pb.SaveModelRequest, model=model, folder=folder, format=number)
        reply = yield from self._ask(SAVE_MODEL, request, timeout, repeatable=False)
        return SavedState(specs.header(reply.header), reply.variable_count, reply.byte_length)

    @operation
    def list_versions(
        self, model: str = "", *, timeout: float | None = None
    ) -> Op[list[ModelVersion]]:
        """ListVersions: of one model or all, in memory and in the repository."""
        request = build(pb.ListVersionsRequest, model=model)
        reply = yield from self._ask(LIST_VERSIONS, request, timeout)
        return [_version(each) for each in reply.versions]

    def _ask(
        self, method: Method, request: Any, timeout: float | None, *, repeatable: bool = True
    ) -> Op[Any]:
        call = Call(method, request, self._defaults.budget(timeout))
        try:
            return (yield from attempt(call, repeatable=repeatable))
        except ServiceError as error:
            if error.reason != "UNIMPLEMENTED":
                raise
            raise ServiceError(
                f"{self._driver.endpoint.target} has no AdminService: expected the address that "
                "the service's --admin-port gives it, found that of its models, or of something "
                "else",
                reason=error.reason,
            ) from None


def _version(message: Any) -> ModelVersion:
    return ModelVersion(
        specs.header(message.header),
        specs.model_state(message.state) if message.state else None,
        tuple(message.labels),
        message.error,
        message.loadable,
    )


@options_of(ConnectOptions, default="admin_server")
def connect_admin(target: str, options: ConnectOptions) -> AdminClient[Sync]:
    """A client of the admin port at `HOST:PORT`; without one, as `varserve.connect` finds it.

    The keywords are those of `ConnectOptions`.
    """
    return AdminClient(
        Sync(options.endpoint(target, admin=True)), options.defaults(target, ADMIN_SECONDS)
    )
