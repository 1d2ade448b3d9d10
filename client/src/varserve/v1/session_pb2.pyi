from varserve.v1 import error_pb2 as _error_pb2
from varserve.v1 import lane_pb2 as _lane_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SessionRequest(_message.Message):
    __slots__ = ("calls", "cancelled_ids", "lane")
    CALLS_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_IDS_FIELD_NUMBER: _ClassVar[int]
    LANE_FIELD_NUMBER: _ClassVar[int]
    calls: _containers.RepeatedCompositeFieldContainer[SessionCall]
    cancelled_ids: _containers.RepeatedScalarFieldContainer[int]
    lane: bool
    def __init__(self, calls: _Optional[_Iterable[_Union[SessionCall, _Mapping]]] = ..., cancelled_ids: _Optional[_Iterable[int]] = ..., lane: bool = ...) -> None: ...

class SessionCall(_message.Message):
    __slots__ = ("id", "method", "request", "timeout_seconds", "traceparent", "tracestate")
    ID_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    TRACESTATE_FIELD_NUMBER: _ClassVar[int]
    id: int
    method: str
    request: bytes
    timeout_seconds: float
    traceparent: str
    tracestate: str
    def __init__(self, id: _Optional[int] = ..., method: _Optional[str] = ..., request: _Optional[bytes] = ..., timeout_seconds: _Optional[float] = ..., traceparent: _Optional[str] = ..., tracestate: _Optional[str] = ...) -> None: ...

class SessionResponse(_message.Message):
    __slots__ = ("answers", "lane")
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    LANE_FIELD_NUMBER: _ClassVar[int]
    answers: _containers.RepeatedCompositeFieldContainer[SessionAnswer]
    lane: SessionLane
    def __init__(self, answers: _Optional[_Iterable[_Union[SessionAnswer, _Mapping]]] = ..., lane: _Optional[_Union[SessionLane, _Mapping]] = ...) -> None: ...

class SessionLane(_message.Message):
    __slots__ = ("ticket", "socket", "message_bytes")
    TICKET_FIELD_NUMBER: _ClassVar[int]
    SOCKET_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    ticket: _lane_pb2.LaneTicket
    socket: str
    message_bytes: int
    def __init__(self, ticket: _Optional[_Union[_lane_pb2.LaneTicket, _Mapping]] = ..., socket: _Optional[str] = ..., message_bytes: _Optional[int] = ...) -> None: ...

class SessionAnswer(_message.Message):
    __slots__ = ("id", "response", "error")
    ID_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: int
    response: bytes
    error: _error_pb2.Status
    def __init__(self, id: _Optional[int] = ..., response: _Optional[bytes] = ..., error: _Optional[_Union[_error_pb2.Status, _Mapping]] = ...) -> None: ...

class WatchSessionRequest(_message.Message):
    __slots__ = ("creates", "cancelled_ids", "taken")
    CREATES_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_IDS_FIELD_NUMBER: _ClassVar[int]
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    creates: _containers.RepeatedCompositeFieldContainer[WatchCreate]
    cancelled_ids: _containers.RepeatedScalarFieldContainer[int]
    taken: _containers.RepeatedCompositeFieldContainer[WatchTaken]
    def __init__(self, creates: _Optional[_Iterable[_Union[WatchCreate, _Mapping]]] = ..., cancelled_ids: _Optional[_Iterable[int]] = ..., taken: _Optional[_Iterable[_Union[WatchTaken, _Mapping]]] = ...) -> None: ...

class WatchCreate(_message.Message):
    __slots__ = ("watch_id", "request", "traceparent", "tracestate")
    WATCH_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    TRACESTATE_FIELD_NUMBER: _ClassVar[int]
    watch_id: int
    request: bytes
    traceparent: str
    tracestate: str
    def __init__(self, watch_id: _Optional[int] = ..., request: _Optional[bytes] = ..., traceparent: _Optional[str] = ..., tracestate: _Optional[str] = ...) -> None: ...

class WatchTaken(_message.Message):
    __slots__ = ("watch_id", "nbytes")
    WATCH_ID_FIELD_NUMBER: _ClassVar[int]
    NBYTES_FIELD_NUMBER: _ClassVar[int]
    watch_id: int
    nbytes: int
    def __init__(self, watch_id: _Optional[int] = ..., nbytes: _Optional[int] = ...) -> None: ...

class WatchSessionResponse(_message.Message):
    __slots__ = ("updates",)
    UPDATES_FIELD_NUMBER: _ClassVar[int]
    updates: _containers.RepeatedCompositeFieldContainer[WatchUpdate]
    def __init__(self, updates: _Optional[_Iterable[_Union[WatchUpdate, _Mapping]]] = ...) -> None: ...

class WatchUpdate(_message.Message):
    __slots__ = ("watch_ids", "response", "error")
    WATCH_IDS_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    watch_ids: _containers.RepeatedScalarFieldContainer[int]
    response: bytes
    error: _error_pb2.Status
    def __init__(self, watch_ids: _Optional[_Iterable[int]] = ..., response: _Optional[bytes] = ..., error: _Optional[_Union[_error_pb2.Status, _Mapping]] = ...) -> None: ...
