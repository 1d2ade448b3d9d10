"""Reasons of failure: which gRPC status code each has, and how both travel.

Owns the one table from ErrorReason to status code, and the bytes of `grpc-status-details-bin`.
Knows the generated messages and gRPC's StatusCode; knows nothing of client or service.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError

from varserve.v1 import error_pb2

DETAILS_KEY = "grpc-status-details-bin"
DOMAIN = "varserve"
_TYPE_URL = "type.googleapis.com/google.rpc.ErrorInfo"

_Code = grpc.StatusCode

STATUS_OF_REASON: dict[str, grpc.StatusCode] = {
    "REQUEST_MALFORMED": _Code.INVALID_ARGUMENT,
    "DTYPE_UNSUPPORTED": _Code.INVALID_ARGUMENT,
    "DTYPE_MISMATCH": _Code.INVALID_ARGUMENT,
    "SHAPE_MISMATCH": _Code.INVALID_ARGUMENT,
    "LENGTH_MISMATCH": _Code.INVALID_ARGUMENT,
    "REGION_INVALID": _Code.INVALID_ARGUMENT,
    "OPERATION_UNSUPPORTED": _Code.INVALID_ARGUMENT,
    "CHUNK_INVALID": _Code.INVALID_ARGUMENT,
    "CHECKSUM_MISMATCH": _Code.INVALID_ARGUMENT,
    "INPUT_MISMATCH": _Code.INVALID_ARGUMENT,
    "OVERLOAD_MISMATCH": _Code.INVALID_ARGUMENT,
    "REQUEST_ID_REUSED": _Code.INVALID_ARGUMENT,
    "CAST_UNSUPPORTED": _Code.INVALID_ARGUMENT,
    "UNAUTHENTICATED": _Code.UNAUTHENTICATED,
    "PERMISSION_DENIED": _Code.PERMISSION_DENIED,
    "MODEL_NOT_FOUND": _Code.NOT_FOUND,
    "VARIABLE_NOT_FOUND": _Code.NOT_FOUND,
    "FUNCTION_NOT_FOUND": _Code.NOT_FOUND,
    "NAME_AMBIGUOUS": _Code.INVALID_ARGUMENT,
    "LEASE_NOT_FOUND": _Code.NOT_FOUND,
    "TENSOR_NOT_FOUND": _Code.NOT_FOUND,
    "REVISION_MISMATCH": _Code.ABORTED,
    "EPOCH_MISMATCH": _Code.ABORTED,
    "VARIABLE_UNINITIALIZED": _Code.FAILED_PRECONDITION,
    "ANSWER_NOT_KEPT": _Code.FAILED_PRECONDITION,
    "FUNCTION_FAILED": _Code.FAILED_PRECONDITION,
    "REVISION_COMPACTED": _Code.OUT_OF_RANGE,
    "REVISION_IN_FUTURE": _Code.OUT_OF_RANGE,
    "CHECK_FAILED": _Code.FAILED_PRECONDITION,
    "MODEL_NOT_READY": _Code.UNAVAILABLE,
    "SHUTTING_DOWN": _Code.UNAVAILABLE,
    "MESSAGE_TOO_LARGE": _Code.RESOURCE_EXHAUSTED,
    "VALUE_TOO_LARGE": _Code.RESOURCE_EXHAUSTED,
    "TOO_MANY_REQUESTS": _Code.RESOURCE_EXHAUSTED,
    "OUT_OF_MEMORY": _Code.RESOURCE_EXHAUSTED,
    "STATE_STORE_FULL": _Code.RESOURCE_EXHAUSTED,
    "STATE_STORE_UNAVAILABLE": _Code.UNAVAILABLE,
    "DEADLINE_EXCEEDED": _Code.DEADLINE_EXCEEDED,
    "WATCH_TOO_SLOW": _Code.RESOURCE_EXHAUSTED,
    "AUDIT_LOG_UNAVAILABLE": _Code.UNAVAILABLE,
    "INTERNAL": _Code.INTERNAL,
    "MODEL_LOAD_FAILED": _Code.FAILED_PRECONDITION,
    "MODEL_NOT_ALLOWED": _Code.FAILED_PRECONDITION,
    "SAVE_EXISTS": _Code.ALREADY_EXISTS,
    "SAVE_UNSUPPORTED": _Code.FAILED_PRECONDITION,
    "SAVE_FAILED": _Code.FAILED_PRECONDITION,
    "NOT_CONFIGURED": _Code.FAILED_PRECONDITION,
    "TENSOR_NOT_RUN": _Code.FAILED_PRECONDITION,
    "TENSOR_INSIDE_XLA": _Code.FAILED_PRECONDITION,
    "PATCH_UNSUPPORTED": _Code.INVALID_ARGUMENT,
    "GRADIENT_UNAVAILABLE": _Code.FAILED_PRECONDITION,
    "STATE_NOT_COPYABLE": _Code.FAILED_PRECONDITION,
    "INSPECTION_UNSUPPORTED": _Code.FAILED_PRECONDITION,
    "INSPECTION_TOO_LARGE": _Code.RESOURCE_EXHAUSTED,
}


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed call as it travels: reason, message for people, metadata for programs."""

    reason: str
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def status(self) -> grpc.StatusCode:
        """The gRPC status code of the reason."""
        return STATUS_OF_REASON[self.reason]

    def details(self) -> bytes:
        """The value of `grpc-status-details-bin`."""
        info = error_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=self.metadata)
        status = error_pb2.Status(
            code=self.status.value[0],
            message=self.message,
            details=[any_pb2.Any(type_url=_TYPE_URL, value=info.SerializeToString())],
        )
        data: bytes = status.SerializeToString()
        return data


def read_details(data: bytes) -> Failure | None:
    """The failure in a `grpc-status-details-bin`; None when it is not one of this contract."""
    try:
        status = error_pb2.Status.FromString(data)
        for detail in status.details:
            if detail.type_url == _TYPE_URL:
                info = error_pb2.ErrorInfo.FromString(detail.value)
                if info.domain == DOMAIN:
                    return Failure(info.reason, status.message, dict(info.metadata))
    except DecodeError:
        return None
    return None
