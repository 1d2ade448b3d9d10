from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class LaneTicket(_message.Message):
    __slots__ = ("ticket", "proof")
    TICKET_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    ticket: bytes
    proof: bytes
    def __init__(self, ticket: _Optional[bytes] = ..., proof: _Optional[bytes] = ...) -> None: ...
