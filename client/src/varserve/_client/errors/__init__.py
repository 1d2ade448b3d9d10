"""Everything that can go wrong, as the client's user sees it.

Owns the exceptions and the table from ErrorReason to exception. Whatever fails, in this process, on
the way or in the service, is raised as one of these; no `grpc.RpcError` passes the client.

    VarserveError
    ├── InvalidRequest (ValueError)     the request is wrong and will never succeed as it is
    │   ├── DtypeMismatch               dtype not that of the variable or input
    │   ├── DtypeUnsupported            dtype not carried by the contract
    │   ├── ShapeMismatch
    │   ├── RegionInvalid               also what cannot be a region: negative steps, masks
    │   ├── OperationUnsupported        no addition for this dtype
    │   ├── InputMismatch               an input is missing, unknown or given twice
    │   ├── OverloadMismatch            no overload fits these inputs, or more than one
    │   ├── NameAmbiguous
    │   ├── ChecksumMismatch            bytes changed on the way, twice
    │   ├── RequestIdReused
    │   ├── CastUnsupported             not as the dtype that was asked for
    │   └── PatchUnsupported            only floating-point tensors can be patched
    ├── NotFound (KeyError)
    │   ├── ModelNotFound
    │   ├── VariableNotFound
    │   ├── FunctionNotFound
    │   ├── LeaseNotFound               the lease has ended
    │   └── TensorNotFound              no inner tensor of this name
    ├── Conflict                        another caller was first: read again, decide again
    │   ├── RevisionMismatch            .current_revision
    │   └── EpochMismatch
    ├── FailedPrecondition              the state is not what the request needs
    │   ├── VariableUninitialized
    │   ├── AnswerNotKept
    │   ├── FunctionFailed
    │   ├── CheckFailed                 .outputs: what the check of a commit gave
    │   ├── TensorNotRun                in a branch that was not taken
    │   ├── TensorInsideXla             ask with open_xla
    │   ├── GradientUnavailable
    │   ├── StateNotCopyable            the function changes more than variables
    │   ├── InspectionUnsupported
    │   ├── ModelLoadFailed             what was served before goes on
    │   ├── ModelNotAllowed
    │   ├── SaveExists                  nothing is ever overwritten
    │   ├── SaveUnsupported
    │   ├── SaveFailed
    │   └── NotConfigured
    ├── OutOfRange (LookupError)        a revision that is not available
    │   ├── RevisionCompacted           .oldest_revision
    │   └── RevisionInFuture            .current_revision
    ├── Unavailable                     not reachable, or not now: retry
    │   ├── ModelNotReady
    │   ├── ShuttingDown
    │   ├── StateStoreUnavailable       the state cannot be written; reads go on
    │   └── AuditLogUnavailable         .revision: it is done, and not audited yet
    ├── ResourceExhausted
    │   ├── MessageTooLarge
    │   ├── ValueTooLarge
    │   ├── TooManyRequests
    │   ├── WatchTooSlow                .resume_revision
    │   ├── OutOfMemory
    │   ├── StateStoreFull
    │   └── InspectionTooLarge          ask for summaries
    ├── DeadlineExceeded (TimeoutError)
    ├── AccessDenied                    the caller may not do this
    │   └── Unauthenticated             no credential, or one that does not hold
    ├── ClientClosed                    this client was closed, before or during the call
    └── ServiceError                    a defect of the service, or no varserve service at all
"""

from .base import VarserveError
from .reasons import CLASS_OF_REASON, about, from_reason
from .requests import (
    CastUnsupported,
    ChecksumMismatch,
    DtypeMismatch,
    DtypeUnsupported,
    FunctionNotFound,
    InputMismatch,
    InvalidRequest,
    LeaseNotFound,
    ModelNotFound,
    NameAmbiguous,
    NotFound,
    OperationUnsupported,
    OverloadMismatch,
    PatchUnsupported,
    RegionInvalid,
    RequestIdReused,
    ShapeMismatch,
    TensorNotFound,
    VariableNotFound,
)
from .service import (
    AccessDenied,
    AuditLogUnavailable,
    ClientClosed,
    DeadlineExceeded,
    InspectionTooLarge,
    MessageTooLarge,
    ModelNotReady,
    OutOfMemory,
    ResourceExhausted,
    ServiceError,
    ShuttingDown,
    StateStoreFull,
    StateStoreUnavailable,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
    ValueTooLarge,
    WatchTooSlow,
)
from .state import (
    AnswerNotKept,
    CheckFailed,
    Conflict,
    EpochMismatch,
    FailedPrecondition,
    FunctionFailed,
    GradientUnavailable,
    InspectionUnsupported,
    ModelLoadFailed,
    ModelNotAllowed,
    NotConfigured,
    OutOfRange,
    RevisionCompacted,
    RevisionInFuture,
    RevisionMismatch,
    SaveExists,
    SaveFailed,
    SaveUnsupported,
    StateNotCopyable,
    TensorInsideXla,
    TensorNotRun,
    VariableUninitialized,
)

__all__ = [
    "CLASS_OF_REASON",
    "AccessDenied",
    "AnswerNotKept",
    "AuditLogUnavailable",
    "CastUnsupported",
    "CheckFailed",
    "ChecksumMismatch",
    "ClientClosed",
    "Conflict",
    "DeadlineExceeded",
    "DtypeMismatch",
    "DtypeUnsupported",
    "EpochMismatch",
    "FailedPrecondition",
    "FunctionFailed",
    "FunctionNotFound",
    "GradientUnavailable",
    "InputMismatch",
    "InspectionTooLarge",
    "InspectionUnsupported",
    "InvalidRequest",
    "LeaseNotFound",
    "MessageTooLarge",
    "ModelLoadFailed",
    "ModelNotAllowed",
    "ModelNotFound",
    "ModelNotReady",
    "NameAmbiguous",
    "NotConfigured",
    "NotFound",
    "OperationUnsupported",
    "OutOfMemory",
    "OutOfRange",
    "OverloadMismatch",
    "PatchUnsupported",
    "RegionInvalid",
    "RequestIdReused",
    "ResourceExhausted",
    "RevisionCompacted",
    "RevisionInFuture",
    "RevisionMismatch",
    "SaveExists",
    "SaveFailed",
    "SaveUnsupported",
    "ServiceError",
    "ShapeMismatch",
    "ShuttingDown",
    "StateNotCopyable",
    "StateStoreFull",
    "StateStoreUnavailable",
    "TensorInsideXla",
    "TensorNotFound",
    "TensorNotRun",
    "TooManyRequests",
    "Unauthenticated",
    "Unavailable",
    "ValueTooLarge",
    "VariableNotFound",
    "VariableUninitialized",
    "VarserveError",
    "WatchTooSlow",
    "about",
    "from_reason",
]

# As a traceback shows them, and as a program catches them.
for _error in {VarserveError, *CLASS_OF_REASON.values()}:
    _error.__module__ = "varserve"
