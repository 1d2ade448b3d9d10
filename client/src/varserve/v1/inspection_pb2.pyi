from varserve.v1 import model_pb2 as _model_pb2
from varserve.v1 import summary_pb2 as _summary_pb2
from varserve.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TensorPlace(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TENSOR_PLACE_UNSPECIFIED: _ClassVar[TensorPlace]
    TENSOR_PLACE_TOP: _ClassVar[TensorPlace]
    TENSOR_PLACE_LOOP: _ClassVar[TensorPlace]
    TENSOR_PLACE_BRANCH: _ClassVar[TensorPlace]
    TENSOR_PLACE_XLA: _ClassVar[TensorPlace]

class InspectedKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INSPECTED_KIND_UNSPECIFIED: _ClassVar[InspectedKind]
    INSPECTED_KIND_OUTPUT: _ClassVar[InspectedKind]
    INSPECTED_KIND_PROBE: _ClassVar[InspectedKind]
    INSPECTED_KIND_GRADIENT: _ClassVar[InspectedKind]

class FunctionMessageKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FUNCTION_MESSAGE_KIND_UNSPECIFIED: _ClassVar[FunctionMessageKind]
    FUNCTION_MESSAGE_KIND_PRINT: _ClassVar[FunctionMessageKind]
    FUNCTION_MESSAGE_KIND_ASSERTION: _ClassVar[FunctionMessageKind]
    FUNCTION_MESSAGE_KIND_CHECK_NUMERICS: _ClassVar[FunctionMessageKind]
TENSOR_PLACE_UNSPECIFIED: TensorPlace
TENSOR_PLACE_TOP: TensorPlace
TENSOR_PLACE_LOOP: TensorPlace
TENSOR_PLACE_BRANCH: TensorPlace
TENSOR_PLACE_XLA: TensorPlace
INSPECTED_KIND_UNSPECIFIED: InspectedKind
INSPECTED_KIND_OUTPUT: InspectedKind
INSPECTED_KIND_PROBE: InspectedKind
INSPECTED_KIND_GRADIENT: InspectedKind
FUNCTION_MESSAGE_KIND_UNSPECIFIED: FunctionMessageKind
FUNCTION_MESSAGE_KIND_PRINT: FunctionMessageKind
FUNCTION_MESSAGE_KIND_ASSERTION: FunctionMessageKind
FUNCTION_MESSAGE_KIND_CHECK_NUMERICS: FunctionMessageKind

class InnerTensor(_message.Message):
    __slots__ = ("name", "path", "op", "dtype", "shape", "place", "variables", "source")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    OP_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    VARIABLES_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    path: str
    op: str
    dtype: _tensor_pb2.DataType
    shape: _model_pb2.PartialShape
    place: TensorPlace
    variables: _containers.RepeatedScalarFieldContainer[str]
    source: str
    def __init__(self, name: _Optional[str] = ..., path: _Optional[str] = ..., op: _Optional[str] = ..., dtype: _Optional[_Union[_tensor_pb2.DataType, str]] = ..., shape: _Optional[_Union[_model_pb2.PartialShape, _Mapping]] = ..., place: _Optional[_Union[TensorPlace, str]] = ..., variables: _Optional[_Iterable[str]] = ..., source: _Optional[str] = ...) -> None: ...

class ListTensorsRequest(_message.Message):
    __slots__ = ("model", "function", "patterns", "overload", "page_size", "page_token")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    PATTERNS_FIELD_NUMBER: _ClassVar[int]
    OVERLOAD_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    model: str
    function: str
    patterns: _containers.RepeatedScalarFieldContainer[str]
    overload: int
    page_size: int
    page_token: str
    def __init__(self, model: _Optional[str] = ..., function: _Optional[str] = ..., patterns: _Optional[_Iterable[str]] = ..., overload: _Optional[int] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListTensorsResponse(_message.Message):
    __slots__ = ("header", "tensors", "next_page_token", "total")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    header: _model_pb2.StateHeader
    tensors: _containers.RepeatedCompositeFieldContainer[InnerTensor]
    next_page_token: str
    total: int
    def __init__(self, header: _Optional[_Union[_model_pb2.StateHeader, _Mapping]] = ..., tensors: _Optional[_Iterable[_Union[InnerTensor, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., total: _Optional[int] = ...) -> None: ...

class InspectFunctionRequest(_message.Message):
    __slots__ = ("manifest", "chunk")
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    manifest: InspectManifest
    chunk: _tensor_pb2.Chunk
    def __init__(self, manifest: _Optional[_Union[InspectManifest, _Mapping]] = ..., chunk: _Optional[_Union[_tensor_pb2.Chunk, _Mapping]] = ...) -> None: ...

class InspectManifest(_message.Message):
    __slots__ = ("model", "function", "inputs", "constants", "assume", "at_revision", "epoch", "probes", "summaries", "patches", "gradients_of", "wrt", "find_non_finite", "profile", "continue_after_assertion", "open_xla", "consistency")
    class ConstantsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _model_pb2.Constant
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_model_pb2.Constant, _Mapping]] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    CONSTANTS_FIELD_NUMBER: _ClassVar[int]
    ASSUME_FIELD_NUMBER: _ClassVar[int]
    AT_REVISION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    PROBES_FIELD_NUMBER: _ClassVar[int]
    SUMMARIES_FIELD_NUMBER: _ClassVar[int]
    PATCHES_FIELD_NUMBER: _ClassVar[int]
    GRADIENTS_OF_FIELD_NUMBER: _ClassVar[int]
    WRT_FIELD_NUMBER: _ClassVar[int]
    FIND_NON_FINITE_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    CONTINUE_AFTER_ASSERTION_FIELD_NUMBER: _ClassVar[int]
    OPEN_XLA_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    model: str
    function: str
    inputs: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.NamedTensorHeader]
    constants: _containers.MessageMap[str, _model_pb2.Constant]
    assume: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.NamedTensorHeader]
    at_revision: int
    epoch: str
    probes: _containers.RepeatedScalarFieldContainer[str]
    summaries: ProbeSummaries
    patches: _containers.RepeatedCompositeFieldContainer[TensorPatch]
    gradients_of: str
    wrt: _containers.RepeatedScalarFieldContainer[str]
    find_non_finite: bool
    profile: bool
    continue_after_assertion: bool
    open_xla: bool
    consistency: _model_pb2.Consistency
    def __init__(self, model: _Optional[str] = ..., function: _Optional[str] = ..., inputs: _Optional[_Iterable[_Union[_tensor_pb2.NamedTensorHeader, _Mapping]]] = ..., constants: _Optional[_Mapping[str, _model_pb2.Constant]] = ..., assume: _Optional[_Iterable[_Union[_tensor_pb2.NamedTensorHeader, _Mapping]]] = ..., at_revision: _Optional[int] = ..., epoch: _Optional[str] = ..., probes: _Optional[_Iterable[str]] = ..., summaries: _Optional[_Union[ProbeSummaries, _Mapping]] = ..., patches: _Optional[_Iterable[_Union[TensorPatch, _Mapping]]] = ..., gradients_of: _Optional[str] = ..., wrt: _Optional[_Iterable[str]] = ..., find_non_finite: bool = ..., profile: bool = ..., continue_after_assertion: bool = ..., open_xla: bool = ..., consistency: _Optional[_Union[_model_pb2.Consistency, _Mapping]] = ...) -> None: ...

class ProbeSummaries(_message.Message):
    __slots__ = ("histogram", "content_hash")
    HISTOGRAM_FIELD_NUMBER: _ClassVar[int]
    CONTENT_HASH_FIELD_NUMBER: _ClassVar[int]
    histogram: _summary_pb2.HistogramSpec
    content_hash: bool
    def __init__(self, histogram: _Optional[_Union[_summary_pb2.HistogramSpec, _Mapping]] = ..., content_hash: bool = ...) -> None: ...

class TensorPatch(_message.Message):
    __slots__ = ("tensor", "zero", "scale", "value")
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    ZERO_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    tensor: str
    zero: bool
    scale: float
    value: _tensor_pb2.TensorHeader
    def __init__(self, tensor: _Optional[str] = ..., zero: bool = ..., scale: _Optional[float] = ..., value: _Optional[_Union[_tensor_pb2.TensorHeader, _Mapping]] = ...) -> None: ...

class InspectFunctionResponse(_message.Message):
    __slots__ = ("result", "chunk", "part")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    result: InspectResult
    chunk: _tensor_pb2.Chunk
    part: InspectPart
    def __init__(self, result: _Optional[_Union[InspectResult, _Mapping]] = ..., chunk: _Optional[_Union[_tensor_pb2.Chunk, _Mapping]] = ..., part: _Optional[_Union[InspectPart, _Mapping]] = ...) -> None: ...

class InspectResult(_message.Message):
    __slots__ = ("header", "not_run", "first_non_finite", "notes", "part_count")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    NOT_RUN_FIELD_NUMBER: _ClassVar[int]
    FIRST_NON_FINITE_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    PART_COUNT_FIELD_NUMBER: _ClassVar[int]
    header: _model_pb2.StateHeader
    not_run: _containers.RepeatedScalarFieldContainer[str]
    first_non_finite: NonFinite
    notes: _containers.RepeatedScalarFieldContainer[str]
    part_count: int
    def __init__(self, header: _Optional[_Union[_model_pb2.StateHeader, _Mapping]] = ..., not_run: _Optional[_Iterable[str]] = ..., first_non_finite: _Optional[_Union[NonFinite, _Mapping]] = ..., notes: _Optional[_Iterable[str]] = ..., part_count: _Optional[int] = ...) -> None: ...

class InspectPart(_message.Message):
    __slots__ = ("tensors", "messages", "profile")
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    tensors: _containers.RepeatedCompositeFieldContainer[InspectedTensor]
    messages: _containers.RepeatedCompositeFieldContainer[FunctionMessage]
    profile: _containers.RepeatedCompositeFieldContainer[OperationTime]
    def __init__(self, tensors: _Optional[_Iterable[_Union[InspectedTensor, _Mapping]]] = ..., messages: _Optional[_Iterable[_Union[FunctionMessage, _Mapping]]] = ..., profile: _Optional[_Iterable[_Union[OperationTime, _Mapping]]] = ...) -> None: ...

class InspectedTensor(_message.Message):
    __slots__ = ("kind", "name", "iteration", "tensor", "summary", "unconnected")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ITERATION_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    UNCONNECTED_FIELD_NUMBER: _ClassVar[int]
    kind: InspectedKind
    name: str
    iteration: _containers.RepeatedScalarFieldContainer[int]
    tensor: _tensor_pb2.TensorHeader
    summary: _summary_pb2.Summary
    unconnected: bool
    def __init__(self, kind: _Optional[_Union[InspectedKind, str]] = ..., name: _Optional[str] = ..., iteration: _Optional[_Iterable[int]] = ..., tensor: _Optional[_Union[_tensor_pb2.TensorHeader, _Mapping]] = ..., summary: _Optional[_Union[_summary_pb2.Summary, _Mapping]] = ..., unconnected: bool = ...) -> None: ...

class FunctionMessage(_message.Message):
    __slots__ = ("kind", "op", "iteration", "text", "parts", "stream", "end")
    KIND_FIELD_NUMBER: _ClassVar[int]
    OP_FIELD_NUMBER: _ClassVar[int]
    ITERATION_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    kind: FunctionMessageKind
    op: str
    iteration: _containers.RepeatedScalarFieldContainer[int]
    text: str
    parts: _containers.RepeatedScalarFieldContainer[str]
    stream: str
    end: str
    def __init__(self, kind: _Optional[_Union[FunctionMessageKind, str]] = ..., op: _Optional[str] = ..., iteration: _Optional[_Iterable[int]] = ..., text: _Optional[str] = ..., parts: _Optional[_Iterable[str]] = ..., stream: _Optional[str] = ..., end: _Optional[str] = ...) -> None: ...

class NonFinite(_message.Message):
    __slots__ = ("name", "op", "iteration", "dtype", "shape", "nans", "positive_infinities", "negative_infinities")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OP_FIELD_NUMBER: _ClassVar[int]
    ITERATION_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    NANS_FIELD_NUMBER: _ClassVar[int]
    POSITIVE_INFINITIES_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_INFINITIES_FIELD_NUMBER: _ClassVar[int]
    name: str
    op: str
    iteration: _containers.RepeatedScalarFieldContainer[int]
    dtype: _tensor_pb2.DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    nans: int
    positive_infinities: int
    negative_infinities: int
    def __init__(self, name: _Optional[str] = ..., op: _Optional[str] = ..., iteration: _Optional[_Iterable[int]] = ..., dtype: _Optional[_Union[_tensor_pb2.DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., nans: _Optional[int] = ..., positive_infinities: _Optional[int] = ..., negative_infinities: _Optional[int] = ...) -> None: ...

class OperationTime(_message.Message):
    __slots__ = ("name", "op", "runs", "seconds")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OP_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    op: str
    runs: int
    seconds: float
    def __init__(self, name: _Optional[str] = ..., op: _Optional[str] = ..., runs: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...
