from varserve.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class HistogramSpec(_message.Message):
    __slots__ = ("bins", "low", "high")
    BINS_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    bins: int
    low: float
    high: float
    def __init__(self, bins: _Optional[int] = ..., low: _Optional[float] = ..., high: _Optional[float] = ...) -> None: ...

class Histogram(_message.Message):
    __slots__ = ("edges", "counts", "below", "above")
    EDGES_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    BELOW_FIELD_NUMBER: _ClassVar[int]
    ABOVE_FIELD_NUMBER: _ClassVar[int]
    edges: _containers.RepeatedScalarFieldContainer[float]
    counts: _containers.RepeatedScalarFieldContainer[int]
    below: int
    above: int
    def __init__(self, edges: _Optional[_Iterable[float]] = ..., counts: _Optional[_Iterable[int]] = ..., below: _Optional[int] = ..., above: _Optional[int] = ...) -> None: ...

class Summary(_message.Message):
    __slots__ = ("dtype", "shape", "byte_length", "count", "nans", "infinities", "zeros", "min", "max", "mean", "standard_deviation", "norm", "histogram", "content_hash")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    BYTE_LENGTH_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    NANS_FIELD_NUMBER: _ClassVar[int]
    INFINITIES_FIELD_NUMBER: _ClassVar[int]
    ZEROS_FIELD_NUMBER: _ClassVar[int]
    MIN_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    STANDARD_DEVIATION_FIELD_NUMBER: _ClassVar[int]
    NORM_FIELD_NUMBER: _ClassVar[int]
    HISTOGRAM_FIELD_NUMBER: _ClassVar[int]
    CONTENT_HASH_FIELD_NUMBER: _ClassVar[int]
    dtype: _tensor_pb2.DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    byte_length: int
    count: int
    nans: int
    infinities: int
    zeros: int
    min: _tensor_pb2.Tensor
    max: _tensor_pb2.Tensor
    mean: float
    standard_deviation: float
    norm: float
    histogram: Histogram
    content_hash: bytes
    def __init__(self, dtype: _Optional[_Union[_tensor_pb2.DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., byte_length: _Optional[int] = ..., count: _Optional[int] = ..., nans: _Optional[int] = ..., infinities: _Optional[int] = ..., zeros: _Optional[int] = ..., min: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., max: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., mean: _Optional[float] = ..., standard_deviation: _Optional[float] = ..., norm: _Optional[float] = ..., histogram: _Optional[_Union[Histogram, _Mapping]] = ..., content_hash: _Optional[bytes] = ...) -> None: ...
