"""What a program may use of varserve, in one place: `varserve` gives it, once it is first used."""

from typing import TYPE_CHECKING

from ._late import homes_of

if TYPE_CHECKING:
    from ._client.admin import (
        AdminClient as AdminClient,
        ModelVersion as ModelVersion,
        SavedState as SavedState,
        connect_admin as connect_admin,
    )
    from ._client.client import (
        Client as Client,
    )
    from ._client.connect import (
        ConnectOptions as ConnectOptions,
        connect as connect,
    )
    from ._client.errors import (
        AccessDenied as AccessDenied,
        AnswerNotKept as AnswerNotKept,
        AuditLogUnavailable as AuditLogUnavailable,
        CastUnsupported as CastUnsupported,
        CheckFailed as CheckFailed,
        ChecksumMismatch as ChecksumMismatch,
        ClientClosed as ClientClosed,
        Conflict as Conflict,
        DeadlineExceeded as DeadlineExceeded,
        DtypeMismatch as DtypeMismatch,
        DtypeUnsupported as DtypeUnsupported,
        EpochMismatch as EpochMismatch,
        FailedPrecondition as FailedPrecondition,
        FunctionFailed as FunctionFailed,
        FunctionNotFound as FunctionNotFound,
        GradientUnavailable as GradientUnavailable,
        InputMismatch as InputMismatch,
        InspectionTooLarge as InspectionTooLarge,
        InspectionUnsupported as InspectionUnsupported,
        InvalidRequest as InvalidRequest,
        LeaseNotFound as LeaseNotFound,
        MessageTooLarge as MessageTooLarge,
        ModelLoadFailed as ModelLoadFailed,
        ModelNotAllowed as ModelNotAllowed,
        ModelNotFound as ModelNotFound,
        ModelNotReady as ModelNotReady,
        NameAmbiguous as NameAmbiguous,
        NotConfigured as NotConfigured,
        NotFound as NotFound,
        OperationUnsupported as OperationUnsupported,
        OutOfMemory as OutOfMemory,
        OutOfRange as OutOfRange,
        OverloadMismatch as OverloadMismatch,
        PatchUnsupported as PatchUnsupported,
        RegionInvalid as RegionInvalid,
        RequestIdReused as RequestIdReused,
        ResourceExhausted as ResourceExhausted,
        RevisionCompacted as RevisionCompacted,
        RevisionInFuture as RevisionInFuture,
        RevisionMismatch as RevisionMismatch,
        SaveExists as SaveExists,
        SaveFailed as SaveFailed,
        SaveUnsupported as SaveUnsupported,
        ServiceError as ServiceError,
        ShapeMismatch as ShapeMismatch,
        ShuttingDown as ShuttingDown,
        StateNotCopyable as StateNotCopyable,
        StateStoreFull as StateStoreFull,
        StateStoreUnavailable as StateStoreUnavailable,
        TensorInsideXla as TensorInsideXla,
        TensorNotFound as TensorNotFound,
        TensorNotRun as TensorNotRun,
        TooManyRequests as TooManyRequests,
        Unauthenticated as Unauthenticated,
        Unavailable as Unavailable,
        ValueTooLarge as ValueTooLarge,
        VariableNotFound as VariableNotFound,
        VariableUninitialized as VariableUninitialized,
        VarserveError as VarserveError,
        WatchTooSlow as WatchTooSlow,
    )
    from ._client.handles.functions import (
        Function as Function,
        Functions as Functions,
    )
    from ._client.handles.leases import (
        Lease as Lease,
    )
    from ._client.handles.models import (
        Model as Model,
    )
    from ._client.handles.transactions import (
        Transaction as Transaction,
    )
    from ._client.handles.variables import (
        Region as Region,
        Variable as Variable,
        Variables as Variables,
    )
    from ._client.handles.watches import (
        Watch as Watch,
    )
    from ._client.transport.credentials import (
        Tls as Tls,
    )
    from ._client.transport.traces import (
        trace as trace,
    )
    from ._client.values.arguments import (
        Given as Given,
    )
    from ._client.values.assign_operation import (
        AssignOperation as AssignOperation,
    )
    from ._client.values.differences import (
        Differences as Differences,
        VariableDifference as VariableDifference,
    )
    from ._client.values.enums import (
        SaveFormat as SaveFormat,
    )
    from ._client.values.function_messages import (
        FunctionMessage as FunctionMessage,
        MessageKind as MessageKind,
    )
    from ._client.values.inspections import (
        Comparison as Comparison,
        InnerTensor as InnerTensor,
        InnerTensors as InnerTensors,
        Inspection as Inspection,
        Iterations as Iterations,
        NonFinite as NonFinite,
        OperationTime as OperationTime,
        Patch as Patch,
        TensorDifference as TensorDifference,
        TensorPlace as TensorPlace,
        scale as scale,
        zero as zero,
    )
    from ._client.values.regions import (
        Index as Index,
        Rows as Rows,
    )
    from ._client.values.results import (
        Change as Change,
        Commit as Commit,
        CommitInfo as CommitInfo,
        CommitKind as CommitKind,
        Commits as Commits,
        Event as Event,
        ListedCommit as ListedCommit,
        Outputs as Outputs,
        Reading as Reading,
        Snapshot as Snapshot,
    )
    from ._client.values.specs import (
        Constant as Constant,
        FunctionKind as FunctionKind,
        FunctionSpec as FunctionSpec,
        InputSpec as InputSpec,
        ModelSpec as ModelSpec,
        ModelState as ModelState,
        ModelSummary as ModelSummary,
        Omission as Omission,
        OmissionKind as OmissionKind,
        OutputSpec as OutputSpec,
        Overload as Overload,
        StateHeader as StateHeader,
        TensorSpec as TensorSpec,
        TransferLimits as TransferLimits,
        VariableSpec as VariableSpec,
    )
    from ._client.values.summaries import (
        Histogram as Histogram,
        Summaries as Summaries,
        Summary as Summary,
        content_hash as content_hash,
    )
    from ._client.values.writes import (
        Write as Write,
    )

HOMES = homes_of(
    {
        "._client.admin": "AdminClient ModelVersion SavedState connect_admin",
        "._client.client": "Client",
        "._client.connect": "ConnectOptions connect",
        "._client.errors": (
            "AccessDenied AnswerNotKept AuditLogUnavailable CastUnsupported CheckFailed "
            "ChecksumMismatch ClientClosed Conflict DeadlineExceeded DtypeMismatch "
            "DtypeUnsupported EpochMismatch FailedPrecondition FunctionFailed "
            "FunctionNotFound GradientUnavailable InputMismatch InspectionTooLarge "
            "InspectionUnsupported InvalidRequest LeaseNotFound MessageTooLarge "
            "ModelLoadFailed ModelNotAllowed ModelNotFound ModelNotReady NameAmbiguous "
            "NotConfigured NotFound OperationUnsupported OutOfMemory OutOfRange "
            "OverloadMismatch PatchUnsupported RegionInvalid RequestIdReused "
            "ResourceExhausted RevisionCompacted RevisionInFuture RevisionMismatch "
            "SaveExists SaveFailed SaveUnsupported ServiceError ShapeMismatch "
            "ShuttingDown StateNotCopyable StateStoreFull StateStoreUnavailable "
            "TensorInsideXla TensorNotFound TensorNotRun TooManyRequests "
            "Unauthenticated Unavailable ValueTooLarge VariableNotFound "
            "VariableUninitialized VarserveError WatchTooSlow"
        ),
        "._client.handles.functions": "Function Functions",
        "._client.handles.leases": "Lease",
        "._client.handles.models": "Model",
        "._client.handles.transactions": "Transaction",
        "._client.handles.variables": "Region Variable Variables",
        "._client.handles.watches": "Watch",
        "._client.transport.credentials": "Tls",
        "._client.transport.traces": "trace",
        "._client.values.arguments": "Given",
        "._client.values.assign_operation": "AssignOperation",
        "._client.values.differences": "Differences VariableDifference",
        "._client.values.enums": "SaveFormat",
        "._client.values.function_messages": "FunctionMessage MessageKind",
        "._client.values.inspections": (
            "Comparison InnerTensor InnerTensors Inspection Iterations NonFinite "
            "OperationTime Patch TensorDifference TensorPlace scale zero"
        ),
        "._client.values.regions": "Index Rows",
        "._client.values.results": (
            "Change Commit CommitInfo CommitKind Commits Event ListedCommit Outputs "
            "Reading Snapshot"
        ),
        "._client.values.specs": (
            "Constant FunctionKind FunctionSpec InputSpec ModelSpec ModelState "
            "ModelSummary Omission OmissionKind OutputSpec Overload StateHeader "
            "TensorSpec TransferLimits VariableSpec"
        ),
        "._client.values.summaries": "Histogram Summaries Summary content_hash",
        "._client.values.writes": "Write",
    }
)
"""The module of each name, relative to this package."""
