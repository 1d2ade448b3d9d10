"""Errors of a service that cannot be reached, cannot now, or will not."""

from __future__ import annotations

from .base import VarserveError


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
