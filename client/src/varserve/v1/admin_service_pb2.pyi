from varserve.v1 import model_pb2 as _model_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SaveFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SAVE_FORMAT_UNSPECIFIED: _ClassVar[SaveFormat]
    SAVE_FORMAT_SAVED_MODEL: _ClassVar[SaveFormat]
    SAVE_FORMAT_CHECKPOINT: _ClassVar[SaveFormat]
    SAVE_FORMAT_SAFETENSORS: _ClassVar[SaveFormat]
SAVE_FORMAT_UNSPECIFIED: SaveFormat
SAVE_FORMAT_SAVED_MODEL: SaveFormat
SAVE_FORMAT_CHECKPOINT: SaveFormat
SAVE_FORMAT_SAFETENSORS: SaveFormat

class LoadModelRequest(_message.Message):
    __slots__ = ("model", "version", "label")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    label: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., label: _Optional[str] = ...) -> None: ...

class LoadModelResponse(_message.Message):
    __slots__ = ("header",)
    HEADER_FIELD_NUMBER: _ClassVar[int]
    header: _model_pb2.StateHeader
    def __init__(self, header: _Optional[_Union[_model_pb2.StateHeader, _Mapping]] = ...) -> None: ...

class UnloadModelRequest(_message.Message):
    __slots__ = ("model", "label")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    label: str
    def __init__(self, model: _Optional[str] = ..., label: _Optional[str] = ...) -> None: ...

class UnloadModelResponse(_message.Message):
    __slots__ = ("headers",)
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    headers: _containers.RepeatedCompositeFieldContainer[_model_pb2.StateHeader]
    def __init__(self, headers: _Optional[_Iterable[_Union[_model_pb2.StateHeader, _Mapping]]] = ...) -> None: ...

class SaveModelRequest(_message.Message):
    __slots__ = ("model", "folder", "format")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    model: str
    folder: str
    format: SaveFormat
    def __init__(self, model: _Optional[str] = ..., folder: _Optional[str] = ..., format: _Optional[_Union[SaveFormat, str]] = ...) -> None: ...

class SaveModelResponse(_message.Message):
    __slots__ = ("header", "variable_count", "byte_length")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    VARIABLE_COUNT_FIELD_NUMBER: _ClassVar[int]
    BYTE_LENGTH_FIELD_NUMBER: _ClassVar[int]
    header: _model_pb2.StateHeader
    variable_count: int
    byte_length: int
    def __init__(self, header: _Optional[_Union[_model_pb2.StateHeader, _Mapping]] = ..., variable_count: _Optional[int] = ..., byte_length: _Optional[int] = ...) -> None: ...

class ListVersionsRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class ListVersionsResponse(_message.Message):
    __slots__ = ("versions",)
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    versions: _containers.RepeatedCompositeFieldContainer[ModelVersion]
    def __init__(self, versions: _Optional[_Iterable[_Union[ModelVersion, _Mapping]]] = ...) -> None: ...

class ModelVersion(_message.Message):
    __slots__ = ("header", "state", "labels", "error", "loadable")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    LOADABLE_FIELD_NUMBER: _ClassVar[int]
    header: _model_pb2.StateHeader
    state: _model_pb2.ModelState
    labels: _containers.RepeatedScalarFieldContainer[str]
    error: str
    loadable: bool
    def __init__(self, header: _Optional[_Union[_model_pb2.StateHeader, _Mapping]] = ..., state: _Optional[_Union[_model_pb2.ModelState, str]] = ..., labels: _Optional[_Iterable[str]] = ..., error: _Optional[str] = ..., loadable: bool = ...) -> None: ...
