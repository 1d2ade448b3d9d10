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

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

from varserve.tensors import TensorError


class VarserveError(Exception):
    """Base of all errors of varserve.

    reason: name of an ErrorReason, for programs; for a failure that the service did not report
        itself, the name of a gRPC status code or `CLIENT_CLOSED`.
    message: what happened, for people.
    metadata: what the message says, for programs: `variable`, `current_revision`, ...
    from_service: the service gave this answer, to each attempt that it got, and so the failed call
        has changed nothing (unless it is AuditLogUnavailable or AnswerNotKept). When False for a
        failure of a call that was sent, a write may have been done.
    messages: a FunctionMessage for each thing that an inspected function said before it failed.
    """

    reason: str = "UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        from_service: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.reason
        self.metadata: dict[str, str] = dict(metadata or {})
        self.from_service = from_service
        self.messages: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return self.message

    def _revision(self, key: str) -> int | None:
        text = self.metadata.get(key, "")
        return int(text) if text.isdecimal() else None

    @property
    def model(self) -> str | None:
        """Name of the model, where the error is about one."""
        return self.metadata.get("model")

    @property
    def variable(self) -> str | None:
        """Name of the variable, where the error is about one."""
        return self.metadata.get("variable")

    @property
    def function(self) -> str | None:
        """Name of the function, where the error is about one."""
        return self.metadata.get("function")


class InvalidRequest(VarserveError, ValueError):
    """The request is wrong and will never succeed as it is."""

    reason = "REQUEST_MALFORMED"


class DtypeMismatch(InvalidRequest):
    """The dtype is not that of the variable or input."""

    reason = "DTYPE_MISMATCH"


class DtypeUnsupported(InvalidRequest):
    """The dtype is not one that the contract carries."""

    reason = "DTYPE_UNSUPPORTED"


class ShapeMismatch(InvalidRequest):
    """The shape does not fit the variable, region or input."""

    reason = "SHAPE_MISMATCH"


class RegionInvalid(InvalidRequest):
    """A region reaches outside its variable, or is not one."""

    reason = "REGION_INVALID"


class OperationUnsupported(InvalidRequest):
    """The dtype has no addition."""

    reason = "OPERATION_UNSUPPORTED"


class InputMismatch(InvalidRequest):
    """An input is missing, unknown or given twice."""

    reason = "INPUT_MISMATCH"


class OverloadMismatch(InvalidRequest):
    """No overload of the function fits these inputs, or more than one does."""

    reason = "OVERLOAD_MISMATCH"


class NameAmbiguous(InvalidRequest):
    """The name fits more than one variable; the message lists their paths."""

    reason = "NAME_AMBIGUOUS"


class ChecksumMismatch(InvalidRequest):
    """Bytes changed on the way, and again when they were sent once more."""

    reason = "CHECKSUM_MISMATCH"


class RequestIdReused(InvalidRequest):
    """The request_id was used before, for a different request."""

    reason = "REQUEST_ID_REUSED"


class CastUnsupported(InvalidRequest):
    """A value of the variable's dtype cannot be sent as the one that was asked for."""

    reason = "CAST_UNSUPPORTED"


class PatchUnsupported(InvalidRequest):
    """Only floating-point tensors inside a function can be patched."""

    reason = "PATCH_UNSUPPORTED"


class NotFound(VarserveError, KeyError):
    """The thing named is not there."""

    reason = "NOT_FOUND"


class ModelNotFound(NotFound):
    """The service has no model of this name."""

    reason = "MODEL_NOT_FOUND"


class VariableNotFound(NotFound):
    """The model has no variable of this name or path."""

    reason = "VARIABLE_NOT_FOUND"


class FunctionNotFound(NotFound):
    """The model has no function of this name or path."""

    reason = "FUNCTION_NOT_FOUND"


class LeaseNotFound(NotFound):
    """The lease has ended, or there was none."""

    reason = "LEASE_NOT_FOUND"


class TensorNotFound(NotFound):
    """The function has no inner tensor of this name; the message has close ones."""

    reason = "TENSOR_NOT_FOUND"


class Conflict(VarserveError):
    """The state moved since it was read. Read again, decide again."""

    reason = "ABORTED"


class RevisionMismatch(Conflict):
    """A revision that the request is conditional on has moved."""

    reason = "REVISION_MISMATCH"

    @property
    def current_revision(self) -> int | None:
        """The current revision; None when the service did not report it."""
        return self._revision("current_revision")


class EpochMismatch(Conflict):
    """The model's state has a new epoch since the revision in the request was read."""

    reason = "EPOCH_MISMATCH"


class FailedPrecondition(VarserveError):
    """The state is not what the request needs."""

    reason = "FAILED_PRECONDITION"


class VariableUninitialized(FailedPrecondition):
    """The variable has no value yet; a whole assign gives it one."""

    reason = "VARIABLE_UNINITIALIZED"


class AnswerNotKept(FailedPrecondition):
    """The request was done before, and its answer was too large to be kept."""

    reason = "ANSWER_NOT_KEPT"


class FunctionFailed(FailedPrecondition):
    """TensorFlow refused to run the function on these inputs or this state. Nothing changed."""

    reason = "FUNCTION_FAILED"


class CheckFailed(FailedPrecondition):
    """The check that a commit carries did not pass. Nothing changed, and no one read the values."""

    reason = "CHECK_FAILED"

    @property
    def outputs(self) -> dict[str, str]:
        """What the check gave, as text; empty where it failed."""
        return {
            key.removeprefix("output/"): text
            for key, text in self.metadata.items()
            if key.startswith("output/")
        }


class TensorNotRun(FailedPrecondition):
    """The inner tensor was not computed: its branch was not taken, or its loop had no iteration."""

    reason = "TENSOR_NOT_RUN"


class TensorInsideXla(FailedPrecondition):
    """The inner tensor is in a call that XLA runs as one. Ask with `open_xla`."""

    reason = "TENSOR_INSIDE_XLA"


class GradientUnavailable(FailedPrecondition):
    """There is no such gradient; the message says why."""

    reason = "GRADIENT_UNAVAILABLE"


class StateNotCopyable(FailedPrecondition):
    """The function changes state that is no variable, which no inspection can copy."""

    reason = "STATE_NOT_COPYABLE"


class InspectionUnsupported(FailedPrecondition):
    """The function is built in a way that cannot be looked into; the message says which."""

    reason = "INSPECTION_UNSUPPORTED"


class ModelLoadFailed(FailedPrecondition):
    """The SavedModel could not be loaded. What was served before goes on."""

    reason = "MODEL_LOAD_FAILED"


class ModelNotAllowed(FailedPrecondition):
    """The SavedModel, or an operation in it, is not one that the service's operator allows."""

    reason = "MODEL_NOT_ALLOWED"


class SaveExists(FailedPrecondition):
    """There is something of this name, and nothing is ever overwritten."""

    reason = "SAVE_EXISTS"


class SaveUnsupported(FailedPrecondition):
    """The model, or one of its variables, cannot be saved in this format."""

    reason = "SAVE_UNSUPPORTED"


class SaveFailed(FailedPrecondition):
    """The files could not be written, for example for lack of space. None are left behind."""

    reason = "SAVE_FAILED"


class NotConfigured(FailedPrecondition):
    """The service's operator has not configured what the call needs."""

    reason = "NOT_CONFIGURED"


class OutOfRange(VarserveError, LookupError):
    """A revision that is not available."""

    reason = "OUT_OF_RANGE"


class RevisionCompacted(OutOfRange):
    """The history does not reach back to this revision."""

    reason = "REVISION_COMPACTED"

    @property
    def oldest_revision(self) -> int | None:
        """The oldest revision in the history; None when the service did not report it."""
        return self._revision("oldest_revision")


class RevisionInFuture(OutOfRange):
    """The model has not come to this revision."""

    reason = "REVISION_IN_FUTURE"

    @property
    def current_revision(self) -> int | None:
        """The current revision; None when the service did not report it."""
        return self._revision("current_revision")


class Unavailable(VarserveError):
    """The service cannot be reached, or cannot now."""

    reason = "UNAVAILABLE"


class ModelNotReady(Unavailable):
    """The model is loading or unloading."""

    reason = "MODEL_NOT_READY"


class ShuttingDown(Unavailable):
    """The service is shutting down."""

    reason = "SHUTTING_DOWN"


class StateStoreUnavailable(Unavailable):
    """The place that keeps the state cannot be written or reached; nothing was changed."""

    reason = "STATE_STORE_UNAVAILABLE"


class AuditLogUnavailable(Unavailable):
    """The service cannot write its audit log, and changes nothing until it can."""

    reason = "AUDIT_LOG_UNAVAILABLE"

    @property
    def revision(self) -> int | None:
        """The revision that the call made nevertheless, None when it changed nothing."""
        return self._revision("revision")


class ResourceExhausted(VarserveError):
    """Too large, or too many."""

    reason = "RESOURCE_EXHAUSTED"


class MessageTooLarge(ResourceExhausted):
    """A request or answer does not fit into one message, and this call has no streaming form."""

    reason = "MESSAGE_TOO_LARGE"


class ValueTooLarge(ResourceExhausted):
    """More bytes than the service accepts for one value or one request."""

    reason = "VALUE_TOO_LARGE"


class TooManyRequests(ResourceExhausted):
    """Too many calls, transfers or leases at once."""

    reason = "TOO_MANY_REQUESTS"

    @property
    def retry_after(self) -> float | None:
        """Seconds until the service expects to have room; None when it did not report it."""
        try:
            return max(0.0, float(self.metadata["retry_after"]))
        except (KeyError, ValueError):
            return None


class WatchTooSlow(ResourceExhausted):
    """Too much waits for a watcher; iterating a watch goes on by itself."""

    reason = "WATCH_TOO_SLOW"

    @property
    def resume_revision(self) -> int | None:
        """The last revision that was sent; None when the service did not report it."""
        return self._revision("resume_revision")


class OutOfMemory(ResourceExhausted):
    """Memory does not suffice, in the service or in this process. Nothing was changed."""

    reason = "OUT_OF_MEMORY"


class StateStoreFull(ResourceExhausted):
    """The service's disk has no room to keep a write. Nothing was changed."""

    reason = "STATE_STORE_FULL"


class InspectionTooLarge(ResourceExhausted):
    """The inspection would keep more, or run longer, than the service allows. Ask for summaries."""

    reason = "INSPECTION_TOO_LARGE"


class DeadlineExceeded(VarserveError, TimeoutError):
    """The deadline passed before the call was done."""

    reason = "DEADLINE_EXCEEDED"


class AccessDenied(VarserveError):
    """The caller may not do this with what the call names, whether that exists or not."""

    reason = "PERMISSION_DENIED"


class Unauthenticated(AccessDenied):
    """The call carries no credential where one is needed, or one that does not hold."""

    reason = "UNAUTHENTICATED"


class ClientClosed(VarserveError):
    """This client was closed, before or during the call."""

    reason = "CLIENT_CLOSED"


class ServiceError(VarserveError):
    """A defect of the service, or an answer that no varserve service gives."""

    reason = "INTERNAL"


def _tree(root: type[VarserveError]) -> list[type[VarserveError]]:
    return [root, *(each for child in root.__subclasses__() for each in _tree(child))]


CLASS_OF_REASON: dict[str, type[VarserveError]] = {
    **{each.reason: each for each in _tree(VarserveError)},
    # Reasons whose wrong no caller of this client can commit, or tell from the parent.
    "LENGTH_MISMATCH": InvalidRequest,
    "CHUNK_INVALID": InvalidRequest,
    # gRPC status codes of failures that the service did not report itself.
    "INVALID_ARGUMENT": InvalidRequest,
    "ALREADY_EXISTS": FailedPrecondition,
    "CANCELLED": Unavailable,
    "UNIMPLEMENTED": ServiceError,
    "UNKNOWN": ServiceError,
    "DATA_LOSS": ServiceError,
    "OK": ServiceError,
}


def from_reason(
    reason: str,
    message: str,
    metadata: Mapping[str, str] | None = None,
    *,
    from_service: bool = False,
) -> VarserveError:
    """The error of a reason. One that a newer service made up is a ServiceError."""
    found = CLASS_OF_REASON.get(reason, ServiceError)
    return found(message, reason=reason, metadata=metadata, from_service=from_service)


class about:
    """Says of what a check in the block was: `thing` before the message, and metadata."""

    # No generator of contextlib's: every call goes through one of these for each of its inputs.
    def __init__(self, thing: str, **metadata: str) -> None:
        self._thing = thing
        self._metadata = metadata

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, TensorError):
            message = f"{self._thing}: {error.message}"
            raise from_reason(error.reason, message, self._metadata) from None
        if isinstance(error, InvalidRequest):
            raise type(error)(f"{self._thing}: {error.message}", metadata=self._metadata) from None


def shown(value: object) -> str:
    """A value that a caller gave, for a message: a few words on a line, whatever it is."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        text = repr(value)
        return text if len(text) <= 80 else f"{text[:77]}..."
    return type(value).__name__


def suggestion(wanted: str, names: Iterable[str]) -> str:
    """What follows "no such thing" in a message: the closest names, or some of them."""
    from difflib import get_close_matches  # only when something went wrong

    known = list(names)
    close = get_close_matches(wanted, known, n=3, cutoff=0.5)
    if close:
        return "; did you mean " + " or ".join(repr(name) for name in close) + "?"
    if not known:
        return "; there is none"
    shown = listed(map(repr, known))
    return f"; there {'is' if len(known) == 1 else 'are'} {shown}"


def listed(names: Iterable[str], total: int | None = None, *, most: int = 5) -> str:
    """The first names of a list, and how many more there are: `a, b and 3 more`.

    total: how many there are, where `names` are not all.
    """
    known = list(names)
    more = (len(known) if total is None else total) - min(most, len(known))
    shown = ", ".join(known[:most])
    return f"{shown} and {more} more" if more else shown
