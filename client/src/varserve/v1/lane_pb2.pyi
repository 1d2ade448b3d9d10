from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class LaneTicket(_message.Message):
    __slots__ = ("ticket", "proof", "further_tickets")
    TICKET_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    FURTHER_TICKETS_FIELD_NUMBER: _ClassVar[int]
    ticket: bytes
    proof: bytes
    further_tickets: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, ticket: _Optional[bytes] = ..., proof: _Optional[bytes] = ..., further_tickets: _Optional[_Iterable[bytes]] = ...) -> None: ...
