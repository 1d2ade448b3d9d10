"""Why the core refuses something: one exception type that carries a stable reason.

Knows nothing but the standard library. The reasons are those of the contract's ErrorReason, by
name; a test holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum, auto
from typing import Any


class Reason(StrEnum):
    """Names of the contract's ErrorReason, without its prefix."""

    @staticmethod
    def _generate_next_value_(name: str, start: int, count: int, last_values: list[str]) -> str:
        return name

    REQUEST_MALFORMED = auto()
    DTYPE_UNSUPPORTED = auto()
    DTYPE_MISMATCH = auto()
    SHAPE_MISMATCH = auto()
    LENGTH_MISMATCH = auto()
    REGION_INVALID = auto()
    OPERATION_UNSUPPORTED = auto()
    CHUNK_INVALID = auto()
    CHECKSUM_MISMATCH = auto()
    INPUT_MISMATCH = auto()
    OVERLOAD_MISMATCH = auto()
    REQUEST_ID_REUSED = auto()
    CAST_UNSUPPORTED = auto()
    UNAUTHENTICATED = auto()
    PERMISSION_DENIED = auto()
    MODEL_NOT_FOUND = auto()
    VARIABLE_NOT_FOUND = auto()
    FUNCTION_NOT_FOUND = auto()
    NAME_AMBIGUOUS = auto()
    LEASE_NOT_FOUND = auto()
    TENSOR_NOT_FOUND = auto()
    REVISION_MISMATCH = auto()
    EPOCH_MISMATCH = auto()
    VARIABLE_UNINITIALIZED = auto()
    ANSWER_NOT_KEPT = auto()
    FUNCTION_FAILED = auto()
    REVISION_COMPACTED = auto()
    REVISION_IN_FUTURE = auto()
    CHECK_FAILED = auto()
    MODEL_NOT_READY = auto()
    SHUTTING_DOWN = auto()
    MESSAGE_TOO_LARGE = auto()
    VALUE_TOO_LARGE = auto()
    TOO_MANY_REQUESTS = auto()
    OUT_OF_MEMORY = auto()
    STATE_STORE_FULL = auto()
    STATE_STORE_UNAVAILABLE = auto()
    DEADLINE_EXCEEDED = auto()
    WATCH_TOO_SLOW = auto()
    AUDIT_LOG_UNAVAILABLE = auto()
    INTERNAL = auto()
    MODEL_LOAD_FAILED = auto()
    MODEL_NOT_ALLOWED = auto()
    SAVE_EXISTS = auto()
    SAVE_UNSUPPORTED = auto()
    SAVE_FAILED = auto()
    NOT_CONFIGURED = auto()
    TENSOR_NOT_RUN = auto()
    TENSOR_INSIDE_XLA = auto()
    PATCH_UNSUPPORTED = auto()
    GRADIENT_UNAVAILABLE = auto()
    STATE_NOT_COPYABLE = auto()
    INSPECTION_UNSUPPORTED = auto()
    INSPECTION_TOO_LARGE = auto()


class RequestError(Exception):
    """A refusal, for the caller to read and its program to act on.

    `message` names the thing, what was expected and what was found, and nothing internal.
    `metadata` says the same to programs. `said` has a FunctionMessage for each thing that
    an inspected function had said before.
    """

    def __init__(self, reason: Reason, message: str, **metadata: object) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = {key: str(value) for key, value in metadata.items()}
        self.said: Sequence[Any] = ()


class ModelLoadError(Exception):
    """A SavedModel could not be loaded; the message is for the operator."""


class JournalError(Exception):
    """What was kept of a model's state cannot be used; the message is for the operator."""


class OutOfMemory(RequestError):
    """Host or device memory does not suffice; nothing was changed."""

    def __init__(self, message: str, **metadata: object) -> None:
        super().__init__(Reason.OUT_OF_MEMORY, message, **metadata)


class FunctionFailed(RequestError):
    """A function raised while it ran."""

    def __init__(self, message: str, **metadata: object) -> None:
        super().__init__(Reason.FUNCTION_FAILED, message, **metadata)


class StateStoreFull(RequestError):
    """The disk that keeps the state has no room; nothing was changed."""

    def __init__(self, message: str, **metadata: object) -> None:
        super().__init__(Reason.STATE_STORE_FULL, message, **metadata)


class StateStoreUnavailable(RequestError):
    """The place that keeps the state cannot be written or reached; nothing was changed."""

    def __init__(self, message: str, **metadata: object) -> None:
        super().__init__(Reason.STATE_STORE_UNAVAILABLE, message, **metadata)


class JournalClosed(StateStoreUnavailable):
    """The journal was closed: nothing more comes of it."""

    def __init__(self) -> None:
        super().__init__("the model is being closed; nothing was changed")
