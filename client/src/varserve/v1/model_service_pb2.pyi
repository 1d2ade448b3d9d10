from varserve.v1 import history_pb2 as _history_pb2
from varserve.v1 import inspection_pb2 as _inspection_pb2
from varserve.v1 import lane_pb2 as _lane_pb2
from varserve.v1 import model_pb2 as _model_pb2
from varserve.v1 import session_pb2 as _session_pb2
from varserve.v1 import summary_pb2 as _summary_pb2
from varserve.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AssignOperation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ASSIGN_OPERATION_UNSPECIFIED: _ClassVar[AssignOperation]
    ASSIGN_OPERATION_SET: _ClassVar[AssignOperation]
    ASSIGN_OPERATION_ADD: _ClassVar[AssignOperation]
    ASSIGN_OPERATION_SUB: _ClassVar[AssignOperation]
ASSIGN_OPERATION_UNSPECIFIED: AssignOperation
ASSIGN_OPERATION_SET: AssignOperation
ASSIGN_OPERATION_ADD: AssignOperation
ASSIGN_OPERATION_SUB: AssignOperation

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models", "service_version")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    SERVICE_VERSION_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[_model_pb2.ModelSummary]
    service_version: str
    def __init__(self, models: _Optional[_Iterable[_Union[_model_pb2.ModelSummary, _Mapping]]] = ..., service_version: _Optional[str] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("model", "page_token", "consistency")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    model: str
    page_token: str
    consistency: _model_pb2.Consistency
    def __init__(self, model: _Optional[str] = ..., page_token: _Optional[str] = ..., consistency: _Optional[_Union[_model_pb2.Consistency, _Mapping]] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("header", "summary", "variables", "functions", "limits", "omissions", "next_page_token")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    VARIABLES_FIELD_NUMBER: _ClassVar[int]
    FUNCTIONS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    OMISSIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    header: _model_pb2.StateHeader
    summary: _model_pb2.ModelSummary
    variables: _containers.RepeatedCompositeFieldContainer[_model_pb2.VariableSpec]
    functions: _containers.RepeatedCompositeFieldContainer[_model_pb2.FunctionSpec]
    limits: TransferLimits
    omissions: _containers.RepeatedCompositeFieldContainer[_model_pb2.Omission]
    next_page_token: str
    def __init__(self, header: _Optional[_Union[_model_pb2.StateHeader, _Mapping]] = ..., summary: _Optional[_Union[_model_pb2.ModelSummary, _Mapping]] = ..., variables: _Optional[_Iterable[_Union[_model_pb2.VariableSpec, _Mapping]]] = ..., functions: _Optional[_Iterable[_Union[_model_pb2.FunctionSpec, _Mapping]]] = ..., limits: _Optional[_Union[TransferLimits, _Mapping]] = ..., omissions: _Optional[_Iterable[_Union[_model_pb2.Omission, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class TransferLimits(_message.Message):
    __slots__ = ("message_bytes", "chunk_bytes", "body_bytes", "lane_socket", "lane_port")
    MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    CHUNK_BYTES_FIELD_NUMBER: _ClassVar[int]
    BODY_BYTES_FIELD_NUMBER: _ClassVar[int]
    LANE_SOCKET_FIELD_NUMBER: _ClassVar[int]
    LANE_PORT_FIELD_NUMBER: _ClassVar[int]
    message_bytes: int
    chunk_bytes: int
    body_bytes: int
    lane_socket: str
    lane_port: int
    def __init__(self, message_bytes: _Optional[int] = ..., chunk_bytes: _Optional[int] = ..., body_bytes: _Optional[int] = ..., lane_socket: _Optional[str] = ..., lane_port: _Optional[int] = ...) -> None: ...

class ReadVariableRequest(_message.Message):
    __slots__ = ("model", "variable", "region", "if_newer_than", "epoch", "at_revision", "dtype", "consistency")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VARIABLE_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    IF_NEWER_THAN_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    AT_REVISION_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    model: str
    variable: str
    region: _tensor_pb2.Region
    if_newer_than: int
    epoch: str
    at_revision: int
    dtype: _tensor_pb2.DataType
    consistency: _model_pb2.Consistency
    def __init__(self, model: _Optional[str] = ..., variable: _Optional[str] = ..., region: _Optional[_Union[_tensor_pb2.Region, _Mapping]] = ..., if_newer_than: _Optional[int] = ..., epoch: _Optional[str] = ..., at_revision: _Optional[int] = ..., dtype: _Optional[_Union[_tensor_pb2.DataType, str]] = ..., consistency: _Optional[_Union[_model_pb2.Consistency, _Mapping]] = ...) -> None: ...

class ReadVariableResponse(_message.Message):
    __slots__ = ("header", "variable_revision", "value", "not_modified")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    VARIABLE_REVISION_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    NOT_MODIFIED_FIELD_NUMBER: _ClassVar[int]
    header: _model_pb2.StateHeader
    variable_revision: int
    value: _tensor_pb2.Tensor
    not_modified: bool
    def __init__(self, header: _Optional[_Union[_model_pb2.StateHeader, _Mapping]] = ..., variable_revision: _Optional[int] = ..., value: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., not_modified: bool = ...) -> None: ...

class ReadVariablesRequest(_message.Message):
    __slots__ = ("model", "reads", "at_revision", "epoch", "lane", "lane_port", "lane_connections", "consistency")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    READS_FIELD_NUMBER: _ClassVar[int]
    AT_REVISION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    LANE_FIELD_NUMBER: _ClassVar[int]
    LANE_PORT_FIELD_NUMBER: _ClassVar[int]
    LANE_CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    model: str
    reads: _containers.RepeatedCompositeFieldContainer[ReadSelection]
    at_revision: int
    epoch: str
    lane: bool
    lane_port: bool
    lane_connections: int
    consistency: _model_pb2.Consistency
    def __init__(self, model: _Optional[str] = ..., reads: _Optional[_Iterable[_Union[ReadSelection, _Mapping]]] = ..., at_revision: _Optional[int] = ..., epoch: _Optional[str] = ..., lane: bool = ..., lane_port: bool = ..., lane_connections: _Optional[int] = ..., consistency: _Optional[_Union[_model_pb2.Consistency, _Mapping]] = ...) -> None: ...

class ReadSelection(_message.Message):
    __slots__ = ("variable", "region", "dtype")
    VARIABLE_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    variable: str
    region: _tensor_pb2.Region
    dtype: _tensor_pb2.DataType
    def __init__(self, variable: _Optional[str] = ..., region: _Optional[_Union[_tensor_pb2.Region, _Mapping]] = ..., dtype: _Optional[_Union[_tensor_pb2.DataType, str]] = ...) -> None: ...

class ReadVariablesResponse(_message.Message):
    __slots__ = ("manifest", "chunk")
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    manifest: ReadManifest
    chunk: _tensor_pb2.Chunk
    def __init__(self, manifest: _Optional[_Union[ReadManifest, _Mapping]] = ..., chunk: _Optional[_Union[_tensor_pb2.Chunk, _Mapping]] = ...) -> None: ...

class ReadManifest(_message.Message):
    __slots__ = ("header", "entries", "lane")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    LANE_FIELD_NUMBER: _ClassVar[int]
    header: _model_pb2.StateHeader
    entries: _containers.RepeatedCompositeFieldContainer[ReadEntry]
    lane: _lane_pb2.LaneTicket
    def __init__(self, header: _Optional[_Union[_model_pb2.StateHeader, _Mapping]] = ..., entries: _Optional[_Iterable[_Union[ReadEntry, _Mapping]]] = ..., lane: _Optional[_Union[_lane_pb2.LaneTicket, _Mapping]] = ...) -> None: ...

class ReadEntry(_message.Message):
    __slots__ = ("variable", "variable_revision", "tensor")
    VARIABLE_FIELD_NUMBER: _ClassVar[int]
    VARIABLE_REVISION_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    variable: str
    variable_revision: int
    tensor: _tensor_pb2.TensorHeader
    def __init__(self, variable: _Optional[str] = ..., variable_revision: _Optional[int] = ..., tensor: _Optional[_Union[_tensor_pb2.TensorHeader, _Mapping]] = ...) -> None: ...

class SummarizeVariablesRequest(_message.Message):
    __slots__ = ("model", "selections", "histogram", "content_hash", "at_revision", "epoch", "consistency")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SELECTIONS_FIELD_NUMBER: _ClassVar[int]
    HISTOGRAM_FIELD_NUMBER: _ClassVar[int]
    CONTENT_HASH_FIELD_NUMBER: _ClassVar[int]
    AT_REVISION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    model: str
    selections: _containers.RepeatedCompositeFieldContainer[SummarySelection]
    histogram: _summary_pb2.HistogramSpec
    content_hash: bool
    at_revision: int
    epoch: str
    consistency: _model_pb2.Consistency
    def __init__(self, model: _Optional[str] = ..., selections: _Optional[_Iterable[_Union[SummarySelection, _Mapping]]] = ..., histogram: _Optional[_Union[_summary_pb2.HistogramSpec, _Mapping]] = ..., content_hash: bool = ..., at_revision: _Optional[int] = ..., epoch: _Optional[str] = ..., consistency: _Optional[_Union[_model_pb2.Consistency, _Mapping]] = ...) -> None: ...

class SummarySelection(_message.Message):
    __slots__ = ("variable", "region")
    VARIABLE_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    variable: str
    region: _tensor_pb2.Region
    def __init__(self, variable: _Optional[str] = ..., region: _Optional[_Union[_tensor_pb2.Region, _Mapping]] = ...) -> None: ...

class SummarizeVariablesResponse(_message.Message):
    __slots__ = ("header", "entries")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    header: _model_pb2.StateHeader
    entries: _containers.RepeatedCompositeFieldContainer[SummaryEntry]
    def __init__(self, header: _Optional[_Union[_model_pb2.StateHeader, _Mapping]] = ..., entries: _Optional[_Iterable[_Union[SummaryEntry, _Mapping]]] = ...) -> None: ...

class SummaryEntry(_message.Message):
    __slots__ = ("variable", "variable_revision", "summary")
    VARIABLE_FIELD_NUMBER: _ClassVar[int]
    VARIABLE_REVISION_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    variable: str
    variable_revision: int
    summary: _summary_pb2.Summary
    def __init__(self, variable: _Optional[str] = ..., variable_revision: _Optional[int] = ..., summary: _Optional[_Union[_summary_pb2.Summary, _Mapping]] = ...) -> None: ...

class AssignVariableRequest(_message.Message):
    __slots__ = ("model", "variable", "request_id", "operation", "region", "value", "if_revision_match", "if_model_revision_match", "if_epoch_match", "read_back", "message", "lease_seconds", "check")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VARIABLE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    IF_REVISION_MATCH_FIELD_NUMBER: _ClassVar[int]
    IF_MODEL_REVISION_MATCH_FIELD_NUMBER: _ClassVar[int]
    IF_EPOCH_MATCH_FIELD_NUMBER: _ClassVar[int]
    READ_BACK_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    LEASE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    CHECK_FIELD_NUMBER: _ClassVar[int]
    model: str
    variable: str
    request_id: str
    operation: AssignOperation
    region: _tensor_pb2.Region
    value: _tensor_pb2.Tensor
    if_revision_match: int
    if_model_revision_match: int
    if_epoch_match: str
    read_back: bool
    message: str
    lease_seconds: float
    check: CommitCheck
    def __init__(self, model: _Optional[str] = ..., variable: _Optional[str] = ..., request_id: _Optional[str] = ..., operation: _Optional[_Union[AssignOperation, str]] = ..., region: _Optional[_Union[_tensor_pb2.Region, _Mapping]] = ..., value: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., if_revision_match: _Optional[int] = ..., if_model_revision_match: _Optional[int] = ..., if_epoch_match: _Optional[str] = ..., read_back: bool = ..., message: _Optional[str] = ..., lease_seconds: _Optional[float] = ..., check: _Optional[_Union[CommitCheck, _Mapping]] = ...) -> None: ...

class CommitCheck(_message.Message):
    __slots__ = ("function", "inputs", "constants")
    class InputsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _tensor_pb2.Tensor
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...
    class ConstantsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _model_pb2.Constant
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_model_pb2.Constant, _Mapping]] = ...) -> None: ...
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    CONSTANTS_FIELD_NUMBER: _ClassVar[int]
    function: str
    inputs: _containers.MessageMap[str, _tensor_pb2.Tensor]
    constants: _containers.MessageMap[str, _model_pb2.Constant]
    def __init__(self, function: _Optional[str] = ..., inputs: _Optional[_Mapping[str, _tensor_pb2.Tensor]] = ..., constants: _Optional[_Mapping[str, _model_pb2.Constant]] = ...) -> None: ...

class AssignVariableResponse(_message.Message):
    __slots__ = ("header", "value")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    header: _model_pb2.StateHeader
    value: _tensor_pb2.Tensor
    def __init__(self, header: _Optional[_Union[_model_pb2.StateHeader, _Mapping]] = ..., value: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class AssignVariablesRequest(_message.Message):
    __slots__ = ("manifest", "chunk")
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    manifest: AssignManifest
    chunk: _tensor_pb2.Chunk
    def __init__(self, manifest: _Optional[_Union[AssignManifest, _Mapping]] = ..., chunk: _Optional[_Union[_tensor_pb2.Chunk, _Mapping]] = ...) -> None: ...

class AssignManifest(_message.Message):
    __slots__ = ("model", "request_id", "entries", "if_model_revision_match", "if_epoch_match", "message", "lease_seconds", "check", "lane", "lane_port", "check_inputs", "lane_connections")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    IF_MODEL_REVISION_MATCH_FIELD_NUMBER: _ClassVar[int]
    IF_EPOCH_MATCH_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    LEASE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    CHECK_FIELD_NUMBER: _ClassVar[int]
    LANE_FIELD_NUMBER: _ClassVar[int]
    LANE_PORT_FIELD_NUMBER: _ClassVar[int]
    CHECK_INPUTS_FIELD_NUMBER: _ClassVar[int]
    LANE_CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    model: str
    request_id: str
    entries: _containers.RepeatedCompositeFieldContainer[AssignEntry]
    if_model_revision_match: int
    if_epoch_match: str
    message: str
    lease_seconds: float
    check: CommitCheck
    lane: bool
    lane_port: bool
    check_inputs: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.NamedTensorHeader]
    lane_connections: int
    def __init__(self, model: _Optional[str] = ..., request_id: _Optional[str] = ..., entries: _Optional[_Iterable[_Union[AssignEntry, _Mapping]]] = ..., if_model_revision_match: _Optional[int] = ..., if_epoch_match: _Optional[str] = ..., message: _Optional[str] = ..., lease_seconds: _Optional[float] = ..., check: _Optional[_Union[CommitCheck, _Mapping]] = ..., lane: bool = ..., lane_port: bool = ..., check_inputs: _Optional[_Iterable[_Union[_tensor_pb2.NamedTensorHeader, _Mapping]]] = ..., lane_connections: _Optional[int] = ...) -> None: ...

class AssignEntry(_message.Message):
    __slots__ = ("variable", "operation", "region", "tensor", "if_revision_match")
    VARIABLE_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    IF_REVISION_MATCH_FIELD_NUMBER: _ClassVar[int]
    variable: str
    operation: AssignOperation
    region: _tensor_pb2.Region
    tensor: _tensor_pb2.TensorHeader
    if_revision_match: int
    def __init__(self, variable: _Optional[str] = ..., operation: _Optional[_Union[AssignOperation, str]] = ..., region: _Optional[_Union[_tensor_pb2.Region, _Mapping]] = ..., tensor: _Optional[_Union[_tensor_pb2.TensorHeader, _Mapping]] = ..., if_revision_match: _Optional[int] = ...) -> None: ...

class AssignVariablesResponse(_message.Message):
    __slots__ = ("header",)
    HEADER_FIELD_NUMBER: _ClassVar[int]
    header: _model_pb2.StateHeader
    def __init__(self, header: _Optional[_Union[_model_pb2.StateHeader, _Mapping]] = ...) -> None: ...

class RunFunctionRequest(_message.Message):
    __slots__ = ("model", "function", "request_id", "inputs", "constants", "outputs", "if_model_revision_match", "if_epoch_match", "message", "messages", "consistency")
    class InputsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _tensor_pb2.Tensor
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...
    class ConstantsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _model_pb2.Constant
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_model_pb2.Constant, _Mapping]] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    CONSTANTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    IF_MODEL_REVISION_MATCH_FIELD_NUMBER: _ClassVar[int]
    IF_EPOCH_MATCH_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    model: str
    function: str
    request_id: str
    inputs: _containers.MessageMap[str, _tensor_pb2.Tensor]
    constants: _containers.MessageMap[str, _model_pb2.Constant]
    outputs: _containers.RepeatedScalarFieldContainer[str]
    if_model_revision_match: int
    if_epoch_match: str
    message: str
    messages: bool
    consistency: _model_pb2.Consistency
    def __init__(self, model: _Optional[str] = ..., function: _Optional[str] = ..., request_id: _Optional[str] = ..., inputs: _Optional[_Mapping[str, _tensor_pb2.Tensor]] = ..., constants: _Optional[_Mapping[str, _model_pb2.Constant]] = ..., outputs: _Optional[_Iterable[str]] = ..., if_model_revision_match: _Optional[int] = ..., if_epoch_match: _Optional[str] = ..., message: _Optional[str] = ..., messages: bool = ..., consistency: _Optional[_Union[_model_pb2.Consistency, _Mapping]] = ...) -> None: ...

class RunFunctionResponse(_message.Message):
    __slots__ = ("header", "outputs", "messages")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    header: _model_pb2.StateHeader
    outputs: _containers.RepeatedCompositeFieldContainer[NamedTensor]
    messages: _containers.RepeatedCompositeFieldContainer[_inspection_pb2.FunctionMessage]
    def __init__(self, header: _Optional[_Union[_model_pb2.StateHeader, _Mapping]] = ..., outputs: _Optional[_Iterable[_Union[NamedTensor, _Mapping]]] = ..., messages: _Optional[_Iterable[_Union[_inspection_pb2.FunctionMessage, _Mapping]]] = ...) -> None: ...

class NamedTensor(_message.Message):
    __slots__ = ("name", "tensor")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    name: str
    tensor: _tensor_pb2.Tensor
    def __init__(self, name: _Optional[str] = ..., tensor: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class StreamRunFunctionRequest(_message.Message):
    __slots__ = ("manifest", "chunk")
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    manifest: RunManifest
    chunk: _tensor_pb2.Chunk
    def __init__(self, manifest: _Optional[_Union[RunManifest, _Mapping]] = ..., chunk: _Optional[_Union[_tensor_pb2.Chunk, _Mapping]] = ...) -> None: ...

class RunManifest(_message.Message):
    __slots__ = ("model", "function", "request_id", "inputs", "constants", "outputs", "if_model_revision_match", "if_epoch_match", "message", "messages", "consistency")
    class ConstantsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _model_pb2.Constant
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_model_pb2.Constant, _Mapping]] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    CONSTANTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    IF_MODEL_REVISION_MATCH_FIELD_NUMBER: _ClassVar[int]
    IF_EPOCH_MATCH_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    model: str
    function: str
    request_id: str
    inputs: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.NamedTensorHeader]
    constants: _containers.MessageMap[str, _model_pb2.Constant]
    outputs: _containers.RepeatedScalarFieldContainer[str]
    if_model_revision_match: int
    if_epoch_match: str
    message: str
    messages: bool
    consistency: _model_pb2.Consistency
    def __init__(self, model: _Optional[str] = ..., function: _Optional[str] = ..., request_id: _Optional[str] = ..., inputs: _Optional[_Iterable[_Union[_tensor_pb2.NamedTensorHeader, _Mapping]]] = ..., constants: _Optional[_Mapping[str, _model_pb2.Constant]] = ..., outputs: _Optional[_Iterable[str]] = ..., if_model_revision_match: _Optional[int] = ..., if_epoch_match: _Optional[str] = ..., message: _Optional[str] = ..., messages: bool = ..., consistency: _Optional[_Union[_model_pb2.Consistency, _Mapping]] = ...) -> None: ...

class StreamRunFunctionResponse(_message.Message):
    __slots__ = ("result", "chunk")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    result: RunResult
    chunk: _tensor_pb2.Chunk
    def __init__(self, result: _Optional[_Union[RunResult, _Mapping]] = ..., chunk: _Optional[_Union[_tensor_pb2.Chunk, _Mapping]] = ...) -> None: ...

class RunResult(_message.Message):
    __slots__ = ("header", "outputs", "messages")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    header: _model_pb2.StateHeader
    outputs: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.NamedTensorHeader]
    messages: _containers.RepeatedCompositeFieldContainer[_inspection_pb2.FunctionMessage]
    def __init__(self, header: _Optional[_Union[_model_pb2.StateHeader, _Mapping]] = ..., outputs: _Optional[_Iterable[_Union[_tensor_pb2.NamedTensorHeader, _Mapping]]] = ..., messages: _Optional[_Iterable[_Union[_inspection_pb2.FunctionMessage, _Mapping]]] = ...) -> None: ...
