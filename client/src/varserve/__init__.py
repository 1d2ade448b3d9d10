"""varserve: read, assign and run the live state of served TensorFlow models, with numpy alone.

    with varserve.connect("localhost:8500") as client:
        model = client.model("basic_pitch")
        kernel = model.variables["conv2d_1/kernel"]
        kernel.assign(kernel.numpy() * 2)
        notes = model.functions["serving_default"](input_2=audio)

`varserve.aio.connect` gives the same with `await`. Every failure is a `VarserveError`.
"""

from . import aio
from .client import Client, connect
from .errors import (
    AccessDenied,
    AnswerNotKept,
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
    InputMismatch,
    InvalidRequest,
    MessageTooLarge,
    ModelNotFound,
    ModelNotReady,
    NameAmbiguous,
    NotFound,
    OperationUnsupported,
    OutOfMemory,
    OverloadMismatch,
    RegionInvalid,
    RequestIdReused,
    ResourceExhausted,
    RevisionMismatch,
    ServiceError,
    ShapeMismatch,
    ShuttingDown,
    StateStoreFull,
    TooManyRequests,
    Unavailable,
    ValueTooLarge,
    VariableNotFound,
    VariableUninitialized,
    VarserveError,
)
from .functions import Function, Functions
from .models import Model, Transaction
from .operations import AssignOperation, Write
from .regions import Index, Rows
from .results import Commit, Outputs, Reading, Snapshot
from .specs import (
    Constant,
    FunctionKind,
    FunctionSpec,
    InputSpec,
    ModelSpec,
    ModelState,
    ModelSummary,
    OutputSpec,
    Overload,
    StateHeader,
    TensorSpec,
    TransferLimits,
    VariableSpec,
)
from .variables import Region, Variable, Variables

__version__ = "0.1.0"

__all__ = [
    "AccessDenied",
    "AnswerNotKept",
    "AssignOperation",
    "ChecksumMismatch",
    "Client",
    "ClientClosed",
    "Commit",
    "Conflict",
    "Constant",
    "DeadlineExceeded",
    "DtypeMismatch",
    "DtypeUnsupported",
    "EpochMismatch",
    "FailedPrecondition",
    "Function",
    "FunctionFailed",
    "FunctionKind",
    "FunctionNotFound",
    "FunctionSpec",
    "Functions",
    "Index",
    "InputMismatch",
    "InputSpec",
    "InvalidRequest",
    "MessageTooLarge",
    "Model",
    "ModelNotFound",
    "ModelNotReady",
    "ModelSpec",
    "ModelState",
    "ModelSummary",
    "NameAmbiguous",
    "NotFound",
    "OperationUnsupported",
    "OutOfMemory",
    "OutputSpec",
    "Outputs",
    "Overload",
    "OverloadMismatch",
    "Reading",
    "Region",
    "RegionInvalid",
    "RequestIdReused",
    "ResourceExhausted",
    "RevisionMismatch",
    "Rows",
    "ServiceError",
    "ShapeMismatch",
    "ShuttingDown",
    "Snapshot",
    "StateHeader",
    "StateStoreFull",
    "TensorSpec",
    "TooManyRequests",
    "Transaction",
    "TransferLimits",
    "Unavailable",
    "ValueTooLarge",
    "Variable",
    "VariableNotFound",
    "VariableSpec",
    "VariableUninitialized",
    "Variables",
    "VarserveError",
    "Write",
    "aio",
    "connect",
]
