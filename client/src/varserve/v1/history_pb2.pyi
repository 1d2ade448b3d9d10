from varserve.v1 import model_pb2 as _model_pb2
from varserve.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CommitKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COMMIT_KIND_UNSPECIFIED: _ClassVar[CommitKind]
    COMMIT_KIND_ASSIGN: _ClassVar[CommitKind]
    COMMIT_KIND_RUN: _ClassVar[CommitKind]
    COMMIT_KIND_REVERT: _ClassVar[CommitKind]
    COMMIT_KIND_EXPIRE: _ClassVar[CommitKind]
COMMIT_KIND_UNSPECIFIED: CommitKind
COMMIT_KIND_ASSIGN: CommitKind
COMMIT_KIND_RUN: CommitKind
COMMIT_KIND_REVERT: CommitKind
COMMIT_KIND_EXPIRE: CommitKind

class CommitInfo(_message.Message):
    __slots__ = ("revision", "time_unix_nanos", "kind", "subject", "message", "request_id")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    TIME_UNIX_NANOS_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    revision: int
    time_unix_nanos: int
    kind: CommitKind
    subject: str
    message: str
    request_id: str
    def __init__(self, revision: _Optional[int] = ..., time_unix_nanos: _Optional[int] = ..., kind: _Optional[_Union[CommitKind, str]] = ..., subject: _Optional[str] = ..., message: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class VariableChange(_message.Message):
    __slots__ = ("variable", "region", "tensor", "value", "previous_tensor", "previous")
    VARIABLE_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_TENSOR_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    variable: str
    region: _tensor_pb2.Region
    tensor: _tensor_pb2.TensorHeader
    value: _tensor_pb2.Tensor
    previous_tensor: _tensor_pb2.TensorHeader
    previous: _tensor_pb2.Tensor
    def __init__(self, variable: _Optional[str] = ..., region: _Optional[_Union[_tensor_pb2.Region, _Mapping]] = ..., tensor: _Optional[_Union[_tensor_pb2.TensorHeader, _Mapping]] = ..., value: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., previous_tensor: _Optional[_Union[_tensor_pb2.TensorHeader, _Mapping]] = ..., previous: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class WatchVariablesRequest(_message.Message):
    __slots__ = ("model", "after_revision", "epoch", "patterns", "values", "previous_values", "consistency")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    AFTER_REVISION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    PATTERNS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_VALUES_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    model: str
    after_revision: int
    epoch: str
    patterns: _containers.RepeatedScalarFieldContainer[str]
    values: bool
    previous_values: bool
    consistency: _model_pb2.Consistency
    def __init__(self, model: _Optional[str] = ..., after_revision: _Optional[int] = ..., epoch: _Optional[str] = ..., patterns: _Optional[_Iterable[str]] = ..., values: bool = ..., previous_values: bool = ..., consistency: _Optional[_Union[_model_pb2.Consistency, _Mapping]] = ...) -> None: ...

class WatchVariablesResponse(_message.Message):
    __slots__ = ("header", "commit", "changes", "more")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    header: _model_pb2.StateHeader
    commit: CommitInfo
    changes: _containers.RepeatedCompositeFieldContainer[VariableChange]
    more: bool
    def __init__(self, header: _Optional[_Union[_model_pb2.StateHeader, _Mapping]] = ..., commit: _Optional[_Union[CommitInfo, _Mapping]] = ..., changes: _Optional[_Iterable[_Union[VariableChange, _Mapping]]] = ..., more: bool = ...) -> None: ...

class ListCommitsRequest(_message.Message):
    __slots__ = ("model", "before_revision", "patterns", "max_commits", "consistency")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    BEFORE_REVISION_FIELD_NUMBER: _ClassVar[int]
    PATTERNS_FIELD_NUMBER: _ClassVar[int]
    MAX_COMMITS_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    model: str
    before_revision: int
    patterns: _containers.RepeatedScalarFieldContainer[str]
    max_commits: int
    consistency: _model_pb2.Consistency
    def __init__(self, model: _Optional[str] = ..., before_revision: _Optional[int] = ..., patterns: _Optional[_Iterable[str]] = ..., max_commits: _Optional[int] = ..., consistency: _Optional[_Union[_model_pb2.Consistency, _Mapping]] = ...) -> None: ...

class ListCommitsResponse(_message.Message):
    __slots__ = ("header", "commits", "oldest_revision", "history_bytes")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    COMMITS_FIELD_NUMBER: _ClassVar[int]
    OLDEST_REVISION_FIELD_NUMBER: _ClassVar[int]
    HISTORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    header: _model_pb2.StateHeader
    commits: _containers.RepeatedCompositeFieldContainer[CommitEntry]
    oldest_revision: int
    history_bytes: int
    def __init__(self, header: _Optional[_Union[_model_pb2.StateHeader, _Mapping]] = ..., commits: _Optional[_Iterable[_Union[CommitEntry, _Mapping]]] = ..., oldest_revision: _Optional[int] = ..., history_bytes: _Optional[int] = ...) -> None: ...

class CommitEntry(_message.Message):
    __slots__ = ("info", "variables", "variable_count", "byte_length")
    INFO_FIELD_NUMBER: _ClassVar[int]
    VARIABLES_FIELD_NUMBER: _ClassVar[int]
    VARIABLE_COUNT_FIELD_NUMBER: _ClassVar[int]
    BYTE_LENGTH_FIELD_NUMBER: _ClassVar[int]
    info: CommitInfo
    variables: _containers.RepeatedScalarFieldContainer[str]
    variable_count: int
    byte_length: int
    def __init__(self, info: _Optional[_Union[CommitInfo, _Mapping]] = ..., variables: _Optional[_Iterable[str]] = ..., variable_count: _Optional[int] = ..., byte_length: _Optional[int] = ...) -> None: ...

class RevertCommitsRequest(_message.Message):
    __slots__ = ("model", "to_revision", "variables", "request_id", "if_model_revision_match", "if_epoch_match", "message")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TO_REVISION_FIELD_NUMBER: _ClassVar[int]
    VARIABLES_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    IF_MODEL_REVISION_MATCH_FIELD_NUMBER: _ClassVar[int]
    IF_EPOCH_MATCH_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    model: str
    to_revision: int
    variables: _containers.RepeatedScalarFieldContainer[str]
    request_id: str
    if_model_revision_match: int
    if_epoch_match: str
    message: str
    def __init__(self, model: _Optional[str] = ..., to_revision: _Optional[int] = ..., variables: _Optional[_Iterable[str]] = ..., request_id: _Optional[str] = ..., if_model_revision_match: _Optional[int] = ..., if_epoch_match: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class RevertCommitsResponse(_message.Message):
    __slots__ = ("header",)
    HEADER_FIELD_NUMBER: _ClassVar[int]
    header: _model_pb2.StateHeader
    def __init__(self, header: _Optional[_Union[_model_pb2.StateHeader, _Mapping]] = ...) -> None: ...

class RenewLeaseRequest(_message.Message):
    __slots__ = ("model", "lease", "epoch")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    model: str
    lease: int
    epoch: str
    def __init__(self, model: _Optional[str] = ..., lease: _Optional[int] = ..., epoch: _Optional[str] = ...) -> None: ...

class RenewLeaseResponse(_message.Message):
    __slots__ = ("header", "seconds")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    header: _model_pb2.StateHeader
    seconds: float
    def __init__(self, header: _Optional[_Union[_model_pb2.StateHeader, _Mapping]] = ..., seconds: _Optional[float] = ...) -> None: ...

class RevokeLeaseRequest(_message.Message):
    __slots__ = ("model", "lease", "epoch", "keep")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    model: str
    lease: int
    epoch: str
    keep: bool
    def __init__(self, model: _Optional[str] = ..., lease: _Optional[int] = ..., epoch: _Optional[str] = ..., keep: bool = ...) -> None: ...

class RevokeLeaseResponse(_message.Message):
    __slots__ = ("header",)
    HEADER_FIELD_NUMBER: _ClassVar[int]
    header: _model_pb2.StateHeader
    def __init__(self, header: _Optional[_Union[_model_pb2.StateHeader, _Mapping]] = ...) -> None: ...
