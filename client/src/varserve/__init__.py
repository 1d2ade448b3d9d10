"""varserve: read, assign and run the live state of served TensorFlow models, with numpy alone.

    with varserve.connect("localhost:8500") as client:
        model = client.model("basic_pitch")
        kernel = model.variables["conv2d_1/kernel"]
        kernel.assign(kernel.numpy() * 2)
        notes = model.functions["serving_default"](input_2=audio)

`varserve.aio.connect` gives the same with `await`. Every failure is a `VarserveError`.
"""

from typing import TYPE_CHECKING, Any

from ._client.client import Client
from ._client.connect import ConnectOptions, connect
from ._client.errors import (
    AccessDenied,
    AnswerNotKept,
    AuditLogUnavailable,
    CastUnsupported,
    CheckFailed,
    ChecksumMismatch,
    ClientClosed,
    Conflict,
    DeadlineExceeded,
    DtypeMismatch,
    DtypeUnsupported,
    EpochMismatch,
    FailedPrecondition,
    FunctionFailed,
    FunctionNotFound,
    GradientUnavailable,
    InputMismatch,
    InspectionTooLarge,
    InspectionUnsupported,
    InvalidRequest,
    LeaseNotFound,
    MessageTooLarge,
    ModelLoadFailed,
    ModelNotAllowed,
    ModelNotFound,
    ModelNotReady,
    NameAmbiguous,
    NotConfigured,
    NotFound,
    OperationUnsupported,
    OutOfMemory,
    OutOfRange,
    OverloadMismatch,
    PatchUnsupported,
    RegionInvalid,
    RequestIdReused,
    ResourceExhausted,
    RevisionCompacted,
    RevisionInFuture,
    RevisionMismatch,
    SaveExists,
    SaveFailed,
    SaveUnsupported,
    ServiceError,
    ShapeMismatch,
    ShuttingDown,
    StateNotCopyable,
    StateStoreFull,
    StateStoreUnavailable,
    TensorInsideXla,
    TensorNotFound,
    TensorNotRun,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
    ValueTooLarge,
    VariableNotFound,
    VariableUninitialized,
    VarserveError,
    WatchTooSlow,
)
from ._client.handles.functions import Function, Functions
from ._client.handles.leases import Lease
from ._client.handles.models import Model
from ._client.handles.transactions import Transaction
from ._client.handles.variables import Region, Variable, Variables
from ._client.handles.watches import Watch
from ._client.transport.credentials import Tls
from ._client.transport.traces import trace
from ._client.values.arguments import Given
from ._client.values.function_messages import FunctionMessage, MessageKind
from ._client.values.regions import Index, Rows
from ._client.values.results import (
    Change,
    Commit,
    CommitInfo,
    CommitKind,
    Commits,
    Event,
    ListedCommit,
    Outputs,
    Reading,
    Snapshot,
)
from ._client.values.specs import (
    Constant,
    FunctionKind,
    FunctionSpec,
    InputSpec,
    ModelSpec,
    ModelState,
    ModelSummary,
    Omission,
    OmissionKind,
    OutputSpec,
    Overload,
    StateHeader,
    TensorSpec,
    TransferLimits,
    VariableSpec,
)
from ._client.values.summaries import Histogram, Summaries, Summary, content_hash
from ._client.values.writes import AssignOperation, Write

if TYPE_CHECKING:
    from . import aio
    from ._client.admin import AdminClient, ModelVersion, SavedState, SaveFormat, connect_admin
    from ._client.values.inspections import (
        Comparison,
        InnerTensor,
        InnerTensors,
        Inspection,
        Iterations,
        NonFinite,
        OperationTime,
        Patch,
        TensorDifference,
        TensorPlace,
        scale,
        zero,
    )


__version__ = "0.1.0"

_LATE = {
    "varserve._client.admin": (
        "AdminClient",
        "ModelVersion",
        "SaveFormat",
        "SavedState",
        "connect_admin",
    ),
    "varserve._client.values.inspections": (
        "Comparison",
        "InnerTensor",
        "InnerTensors",
        "Inspection",
        "Iterations",
        "NonFinite",
        "OperationTime",
        "Patch",
        "TensorDifference",
        "TensorPlace",
        "scale",
        "zero",
    ),
}
"""What few programs use: imported when it is first used."""


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "aio":
        return import_module("varserve.aio")
    for module, names in _LATE.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'varserve' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


__all__ = [
    "AccessDenied",
    "AdminClient",
    "AnswerNotKept",
    "AssignOperation",
    "AuditLogUnavailable",
    "CastUnsupported",
    "Change",
    "CheckFailed",
    "ChecksumMismatch",
    "Client",
    "ClientClosed",
    "Commit",
    "CommitInfo",
    "CommitKind",
    "Commits",
    "Comparison",
    "Conflict",
    "ConnectOptions",
    "Constant",
    "DeadlineExceeded",
    "DtypeMismatch",
    "DtypeUnsupported",
    "EpochMismatch",
    "Event",
    "FailedPrecondition",
    "Function",
    "FunctionFailed",
    "FunctionKind",
    "FunctionMessage",
    "FunctionNotFound",
    "FunctionSpec",
    "Functions",
    "Given",
    "GradientUnavailable",
    "Histogram",
    "Index",
    "InnerTensor",
    "InnerTensors",
    "InputMismatch",
    "InputSpec",
    "Inspection",
    "InspectionTooLarge",
    "InspectionUnsupported",
    "InvalidRequest",
    "Iterations",
    "Lease",
    "LeaseNotFound",
    "ListedCommit",
    "MessageKind",
    "MessageTooLarge",
    "Model",
    "ModelLoadFailed",
    "ModelNotAllowed",
    "ModelNotFound",
    "ModelNotReady",
    "ModelSpec",
    "ModelState",
    "ModelSummary",
    "ModelVersion",
    "NameAmbiguous",
    "NonFinite",
    "NotConfigured",
    "NotFound",
    "Omission",
    "OmissionKind",
    "OperationTime",
    "OperationUnsupported",
    "OutOfMemory",
    "OutOfRange",
    "OutputSpec",
    "Outputs",
    "Overload",
    "OverloadMismatch",
    "Patch",
    "PatchUnsupported",
    "Reading",
    "Region",
    "RegionInvalid",
    "RequestIdReused",
    "ResourceExhausted",
    "RevisionCompacted",
    "RevisionInFuture",
    "RevisionMismatch",
    "Rows",
    "SaveExists",
    "SaveFailed",
    "SaveFormat",
    "SaveUnsupported",
    "SavedState",
    "ServiceError",
    "ShapeMismatch",
    "ShuttingDown",
    "Snapshot",
    "StateHeader",
    "StateNotCopyable",
    "StateStoreFull",
    "StateStoreUnavailable",
    "Summaries",
    "Summary",
    "TensorDifference",
    "TensorInsideXla",
    "TensorNotFound",
    "TensorNotRun",
    "TensorPlace",
    "TensorSpec",
    "Tls",
    "TooManyRequests",
    "Transaction",
    "TransferLimits",
    "Unauthenticated",
    "Unavailable",
    "ValueTooLarge",
    "Variable",
    "VariableNotFound",
    "VariableSpec",
    "VariableUninitialized",
    "Variables",
    "VarserveError",
    "Watch",
    "WatchTooSlow",
    "Write",
    "aio",
    "connect",
    "connect_admin",
    "content_hash",
    "scale",
    "trace",
    "zero",
]
