from varserve.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ModelState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_STATE_UNSPECIFIED: _ClassVar[ModelState]
    MODEL_STATE_LOADING: _ClassVar[ModelState]
    MODEL_STATE_READY: _ClassVar[ModelState]
    MODEL_STATE_UNLOADING: _ClassVar[ModelState]
    MODEL_STATE_FAILED: _ClassVar[ModelState]

class FunctionKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FUNCTION_KIND_UNSPECIFIED: _ClassVar[FunctionKind]
    FUNCTION_KIND_SIGNATURE: _ClassVar[FunctionKind]
    FUNCTION_KIND_FUNCTION: _ClassVar[FunctionKind]

class ParameterKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PARAMETER_KIND_UNSPECIFIED: _ClassVar[ParameterKind]
    PARAMETER_KIND_POSITIONAL: _ClassVar[ParameterKind]
    PARAMETER_KIND_VARIADIC: _ClassVar[ParameterKind]
    PARAMETER_KIND_KEYWORD: _ClassVar[ParameterKind]

class OmissionKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OMISSION_KIND_UNSPECIFIED: _ClassVar[OmissionKind]
    OMISSION_KIND_VARIABLE: _ClassVar[OmissionKind]
    OMISSION_KIND_FUNCTION: _ClassVar[OmissionKind]
MODEL_STATE_UNSPECIFIED: ModelState
MODEL_STATE_LOADING: ModelState
MODEL_STATE_READY: ModelState
MODEL_STATE_UNLOADING: ModelState
MODEL_STATE_FAILED: ModelState
FUNCTION_KIND_UNSPECIFIED: FunctionKind
FUNCTION_KIND_SIGNATURE: FunctionKind
FUNCTION_KIND_FUNCTION: FunctionKind
PARAMETER_KIND_UNSPECIFIED: ParameterKind
PARAMETER_KIND_POSITIONAL: ParameterKind
PARAMETER_KIND_VARIADIC: ParameterKind
PARAMETER_KIND_KEYWORD: ParameterKind
OMISSION_KIND_UNSPECIFIED: OmissionKind
OMISSION_KIND_VARIABLE: OmissionKind
OMISSION_KIND_FUNCTION: OmissionKind

class StateHeader(_message.Message):
    __slots__ = ("model", "version", "epoch", "revision")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    epoch: str
    revision: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., epoch: _Optional[str] = ..., revision: _Optional[int] = ...) -> None: ...

class Consistency(_message.Message):
    __slots__ = ("min_revision", "epoch", "linearizable")
    MIN_REVISION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    LINEARIZABLE_FIELD_NUMBER: _ClassVar[int]
    min_revision: int
    epoch: str
    linearizable: bool
    def __init__(self, min_revision: _Optional[int] = ..., epoch: _Optional[str] = ..., linearizable: bool = ...) -> None: ...

class ModelSummary(_message.Message):
    __slots__ = ("header", "state", "device", "variable_count", "variable_bytes", "labels")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    VARIABLE_COUNT_FIELD_NUMBER: _ClassVar[int]
    VARIABLE_BYTES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    header: StateHeader
    state: ModelState
    device: str
    variable_count: int
    variable_bytes: int
    labels: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, header: _Optional[_Union[StateHeader, _Mapping]] = ..., state: _Optional[_Union[ModelState, str]] = ..., device: _Optional[str] = ..., variable_count: _Optional[int] = ..., variable_bytes: _Optional[int] = ..., labels: _Optional[_Iterable[str]] = ...) -> None: ...

class PartialShape(_message.Message):
    __slots__ = ("unknown_rank", "dimensions")
    UNKNOWN_RANK_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    unknown_rank: bool
    dimensions: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, unknown_rank: bool = ..., dimensions: _Optional[_Iterable[int]] = ...) -> None: ...

class VariableSpec(_message.Message):
    __slots__ = ("name", "path", "dtype", "shape", "trainable", "device", "initialized", "byte_length", "revision", "assign_denied")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    TRAINABLE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    INITIALIZED_FIELD_NUMBER: _ClassVar[int]
    BYTE_LENGTH_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    ASSIGN_DENIED_FIELD_NUMBER: _ClassVar[int]
    name: str
    path: str
    dtype: _tensor_pb2.DataType
    shape: PartialShape
    trainable: bool
    device: str
    initialized: bool
    byte_length: int
    revision: int
    assign_denied: bool
    def __init__(self, name: _Optional[str] = ..., path: _Optional[str] = ..., dtype: _Optional[_Union[_tensor_pb2.DataType, str]] = ..., shape: _Optional[_Union[PartialShape, _Mapping]] = ..., trainable: bool = ..., device: _Optional[str] = ..., initialized: bool = ..., byte_length: _Optional[int] = ..., revision: _Optional[int] = ..., assign_denied: bool = ...) -> None: ...

class FunctionSpec(_message.Message):
    __slots__ = ("name", "path", "kind", "overloads", "parameters", "run_denied", "inspect_denied")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    OVERLOADS_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    RUN_DENIED_FIELD_NUMBER: _ClassVar[int]
    INSPECT_DENIED_FIELD_NUMBER: _ClassVar[int]
    name: str
    path: str
    kind: FunctionKind
    overloads: _containers.RepeatedCompositeFieldContainer[Overload]
    parameters: _containers.RepeatedCompositeFieldContainer[Parameter]
    run_denied: bool
    inspect_denied: bool
    def __init__(self, name: _Optional[str] = ..., path: _Optional[str] = ..., kind: _Optional[_Union[FunctionKind, str]] = ..., overloads: _Optional[_Iterable[_Union[Overload, _Mapping]]] = ..., parameters: _Optional[_Iterable[_Union[Parameter, _Mapping]]] = ..., run_denied: bool = ..., inspect_denied: bool = ...) -> None: ...

class Parameter(_message.Message):
    __slots__ = ("name", "kind")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: ParameterKind
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[_Union[ParameterKind, str]] = ...) -> None: ...

class Overload(_message.Message):
    __slots__ = ("inputs", "outputs", "reads", "writes", "changes_other_state")
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    READS_FIELD_NUMBER: _ClassVar[int]
    WRITES_FIELD_NUMBER: _ClassVar[int]
    CHANGES_OTHER_STATE_FIELD_NUMBER: _ClassVar[int]
    inputs: _containers.RepeatedCompositeFieldContainer[InputSpec]
    outputs: _containers.RepeatedCompositeFieldContainer[OutputSpec]
    reads: _containers.RepeatedScalarFieldContainer[int]
    writes: _containers.RepeatedScalarFieldContainer[int]
    changes_other_state: bool
    def __init__(self, inputs: _Optional[_Iterable[_Union[InputSpec, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[OutputSpec, _Mapping]]] = ..., reads: _Optional[_Iterable[int]] = ..., writes: _Optional[_Iterable[int]] = ..., changes_other_state: bool = ...) -> None: ...

class InputSpec(_message.Message):
    __slots__ = ("name", "tensor", "constant", "optional")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    CONSTANT_FIELD_NUMBER: _ClassVar[int]
    OPTIONAL_FIELD_NUMBER: _ClassVar[int]
    name: str
    tensor: TensorSpec
    constant: Constant
    optional: bool
    def __init__(self, name: _Optional[str] = ..., tensor: _Optional[_Union[TensorSpec, _Mapping]] = ..., constant: _Optional[_Union[Constant, _Mapping]] = ..., optional: bool = ...) -> None: ...

class TensorSpec(_message.Message):
    __slots__ = ("dtype", "shape")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    dtype: _tensor_pb2.DataType
    shape: PartialShape
    def __init__(self, dtype: _Optional[_Union[_tensor_pb2.DataType, str]] = ..., shape: _Optional[_Union[PartialShape, _Mapping]] = ...) -> None: ...

class Constant(_message.Message):
    __slots__ = ("none_value", "bool_value", "int_value", "float_value", "string_value", "repr_value")
    NONE_VALUE_FIELD_NUMBER: _ClassVar[int]
    BOOL_VALUE_FIELD_NUMBER: _ClassVar[int]
    INT_VALUE_FIELD_NUMBER: _ClassVar[int]
    FLOAT_VALUE_FIELD_NUMBER: _ClassVar[int]
    STRING_VALUE_FIELD_NUMBER: _ClassVar[int]
    REPR_VALUE_FIELD_NUMBER: _ClassVar[int]
    none_value: bool
    bool_value: bool
    int_value: int
    float_value: float
    string_value: str
    repr_value: str
    def __init__(self, none_value: bool = ..., bool_value: bool = ..., int_value: _Optional[int] = ..., float_value: _Optional[float] = ..., string_value: _Optional[str] = ..., repr_value: _Optional[str] = ...) -> None: ...

class OutputSpec(_message.Message):
    __slots__ = ("name", "tensor")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    name: str
    tensor: TensorSpec
    def __init__(self, name: _Optional[str] = ..., tensor: _Optional[_Union[TensorSpec, _Mapping]] = ...) -> None: ...

class Omission(_message.Message):
    __slots__ = ("kind", "path", "reason")
    KIND_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    kind: OmissionKind
    path: str
    reason: str
    def __init__(self, kind: _Optional[_Union[OmissionKind, str]] = ..., path: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...
