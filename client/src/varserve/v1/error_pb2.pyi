from google.protobuf import any_pb2 as _any_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ErrorReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_REASON_UNSPECIFIED: _ClassVar[ErrorReason]
    ERROR_REASON_REQUEST_MALFORMED: _ClassVar[ErrorReason]
    ERROR_REASON_DTYPE_UNSUPPORTED: _ClassVar[ErrorReason]
    ERROR_REASON_DTYPE_MISMATCH: _ClassVar[ErrorReason]
    ERROR_REASON_SHAPE_MISMATCH: _ClassVar[ErrorReason]
    ERROR_REASON_LENGTH_MISMATCH: _ClassVar[ErrorReason]
    ERROR_REASON_REGION_INVALID: _ClassVar[ErrorReason]
    ERROR_REASON_OPERATION_UNSUPPORTED: _ClassVar[ErrorReason]
    ERROR_REASON_CHUNK_INVALID: _ClassVar[ErrorReason]
    ERROR_REASON_CHECKSUM_MISMATCH: _ClassVar[ErrorReason]
    ERROR_REASON_INPUT_MISMATCH: _ClassVar[ErrorReason]
    ERROR_REASON_OVERLOAD_MISMATCH: _ClassVar[ErrorReason]
    ERROR_REASON_REQUEST_ID_REUSED: _ClassVar[ErrorReason]
    ERROR_REASON_CAST_UNSUPPORTED: _ClassVar[ErrorReason]
    ERROR_REASON_UNAUTHENTICATED: _ClassVar[ErrorReason]
    ERROR_REASON_PERMISSION_DENIED: _ClassVar[ErrorReason]
    ERROR_REASON_MODEL_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_VARIABLE_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_FUNCTION_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_NAME_AMBIGUOUS: _ClassVar[ErrorReason]
    ERROR_REASON_LEASE_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_TENSOR_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_REVISION_MISMATCH: _ClassVar[ErrorReason]
    ERROR_REASON_EPOCH_MISMATCH: _ClassVar[ErrorReason]
    ERROR_REASON_VARIABLE_UNINITIALIZED: _ClassVar[ErrorReason]
    ERROR_REASON_ANSWER_NOT_KEPT: _ClassVar[ErrorReason]
    ERROR_REASON_FUNCTION_FAILED: _ClassVar[ErrorReason]
    ERROR_REASON_REVISION_COMPACTED: _ClassVar[ErrorReason]
    ERROR_REASON_REVISION_IN_FUTURE: _ClassVar[ErrorReason]
    ERROR_REASON_CHECK_FAILED: _ClassVar[ErrorReason]
    ERROR_REASON_MODEL_NOT_READY: _ClassVar[ErrorReason]
    ERROR_REASON_SHUTTING_DOWN: _ClassVar[ErrorReason]
    ERROR_REASON_MESSAGE_TOO_LARGE: _ClassVar[ErrorReason]
    ERROR_REASON_VALUE_TOO_LARGE: _ClassVar[ErrorReason]
    ERROR_REASON_TOO_MANY_REQUESTS: _ClassVar[ErrorReason]
    ERROR_REASON_OUT_OF_MEMORY: _ClassVar[ErrorReason]
    ERROR_REASON_STATE_STORE_FULL: _ClassVar[ErrorReason]
    ERROR_REASON_STATE_STORE_UNAVAILABLE: _ClassVar[ErrorReason]
    ERROR_REASON_DEADLINE_EXCEEDED: _ClassVar[ErrorReason]
    ERROR_REASON_WATCH_TOO_SLOW: _ClassVar[ErrorReason]
    ERROR_REASON_AUDIT_LOG_UNAVAILABLE: _ClassVar[ErrorReason]
    ERROR_REASON_INTERNAL: _ClassVar[ErrorReason]
    ERROR_REASON_MODEL_LOAD_FAILED: _ClassVar[ErrorReason]
    ERROR_REASON_MODEL_NOT_ALLOWED: _ClassVar[ErrorReason]
    ERROR_REASON_SAVE_EXISTS: _ClassVar[ErrorReason]
    ERROR_REASON_SAVE_UNSUPPORTED: _ClassVar[ErrorReason]
    ERROR_REASON_SAVE_FAILED: _ClassVar[ErrorReason]
    ERROR_REASON_NOT_CONFIGURED: _ClassVar[ErrorReason]
    ERROR_REASON_TENSOR_NOT_RUN: _ClassVar[ErrorReason]
    ERROR_REASON_TENSOR_INSIDE_XLA: _ClassVar[ErrorReason]
    ERROR_REASON_PATCH_UNSUPPORTED: _ClassVar[ErrorReason]
    ERROR_REASON_GRADIENT_UNAVAILABLE: _ClassVar[ErrorReason]
    ERROR_REASON_STATE_NOT_COPYABLE: _ClassVar[ErrorReason]
    ERROR_REASON_INSPECTION_UNSUPPORTED: _ClassVar[ErrorReason]
    ERROR_REASON_INSPECTION_TOO_LARGE: _ClassVar[ErrorReason]
ERROR_REASON_UNSPECIFIED: ErrorReason
ERROR_REASON_REQUEST_MALFORMED: ErrorReason
ERROR_REASON_DTYPE_UNSUPPORTED: ErrorReason
ERROR_REASON_DTYPE_MISMATCH: ErrorReason
ERROR_REASON_SHAPE_MISMATCH: ErrorReason
ERROR_REASON_LENGTH_MISMATCH: ErrorReason
ERROR_REASON_REGION_INVALID: ErrorReason
ERROR_REASON_OPERATION_UNSUPPORTED: ErrorReason
ERROR_REASON_CHUNK_INVALID: ErrorReason
ERROR_REASON_CHECKSUM_MISMATCH: ErrorReason
ERROR_REASON_INPUT_MISMATCH: ErrorReason
ERROR_REASON_OVERLOAD_MISMATCH: ErrorReason
ERROR_REASON_REQUEST_ID_REUSED: ErrorReason
ERROR_REASON_CAST_UNSUPPORTED: ErrorReason
ERROR_REASON_UNAUTHENTICATED: ErrorReason
ERROR_REASON_PERMISSION_DENIED: ErrorReason
ERROR_REASON_MODEL_NOT_FOUND: ErrorReason
ERROR_REASON_VARIABLE_NOT_FOUND: ErrorReason
ERROR_REASON_FUNCTION_NOT_FOUND: ErrorReason
ERROR_REASON_NAME_AMBIGUOUS: ErrorReason
ERROR_REASON_LEASE_NOT_FOUND: ErrorReason
ERROR_REASON_TENSOR_NOT_FOUND: ErrorReason
ERROR_REASON_REVISION_MISMATCH: ErrorReason
ERROR_REASON_EPOCH_MISMATCH: ErrorReason
ERROR_REASON_VARIABLE_UNINITIALIZED: ErrorReason
ERROR_REASON_ANSWER_NOT_KEPT: ErrorReason
ERROR_REASON_FUNCTION_FAILED: ErrorReason
ERROR_REASON_REVISION_COMPACTED: ErrorReason
ERROR_REASON_REVISION_IN_FUTURE: ErrorReason
ERROR_REASON_CHECK_FAILED: ErrorReason
ERROR_REASON_MODEL_NOT_READY: ErrorReason
ERROR_REASON_SHUTTING_DOWN: ErrorReason
ERROR_REASON_MESSAGE_TOO_LARGE: ErrorReason
ERROR_REASON_VALUE_TOO_LARGE: ErrorReason
ERROR_REASON_TOO_MANY_REQUESTS: ErrorReason
ERROR_REASON_OUT_OF_MEMORY: ErrorReason
ERROR_REASON_STATE_STORE_FULL: ErrorReason
ERROR_REASON_STATE_STORE_UNAVAILABLE: ErrorReason
ERROR_REASON_DEADLINE_EXCEEDED: ErrorReason
ERROR_REASON_WATCH_TOO_SLOW: ErrorReason
ERROR_REASON_AUDIT_LOG_UNAVAILABLE: ErrorReason
ERROR_REASON_INTERNAL: ErrorReason
ERROR_REASON_MODEL_LOAD_FAILED: ErrorReason
ERROR_REASON_MODEL_NOT_ALLOWED: ErrorReason
ERROR_REASON_SAVE_EXISTS: ErrorReason
ERROR_REASON_SAVE_UNSUPPORTED: ErrorReason
ERROR_REASON_SAVE_FAILED: ErrorReason
ERROR_REASON_NOT_CONFIGURED: ErrorReason
ERROR_REASON_TENSOR_NOT_RUN: ErrorReason
ERROR_REASON_TENSOR_INSIDE_XLA: ErrorReason
ERROR_REASON_PATCH_UNSUPPORTED: ErrorReason
ERROR_REASON_GRADIENT_UNAVAILABLE: ErrorReason
ERROR_REASON_STATE_NOT_COPYABLE: ErrorReason
ERROR_REASON_INSPECTION_UNSUPPORTED: ErrorReason
ERROR_REASON_INSPECTION_TOO_LARGE: ErrorReason

class Status(_message.Message):
    __slots__ = ("code", "message", "details")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    details: _containers.RepeatedCompositeFieldContainer[_any_pb2.Any]
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ..., details: _Optional[_Iterable[_Union[_any_pb2.Any, _Mapping]]] = ...) -> None: ...

class ErrorInfo(_message.Message):
    __slots__ = ("reason", "domain", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    REASON_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    reason: str
    domain: str
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, reason: _Optional[str] = ..., domain: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...
