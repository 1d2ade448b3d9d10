"""The class of each reason of the contract, and how an error is made of one."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

from varserve.tensors import TensorError

from .base import VarserveError
from .requests import InvalidRequest
from .service import ServiceError, Unavailable
from .state import FailedPrecondition


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
