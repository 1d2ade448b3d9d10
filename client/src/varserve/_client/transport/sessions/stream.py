"""A bidirectional stream that its callers write to themselves.

gRPC's own blocking streams have a thread that writes, one that is told of what happens, and one
that reads: a message passes through all of them, which takes longer than to send it. The only user
of gRPC's private interfaces: of those that its blocking unary calls are made of.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import grpc
from grpc._cython import cygrpc

from varserve._client.transport.endpoint import Metadata

from .base import Ended

_NO_FLAGS = 0
_CODES = {code.value[0]: code for code in grpc.StatusCode}
# What operations have ended.
_BEGIN, _SEND, _RECEIVE, _END = "begin", "send", "receive", "end"


class Stream:
    """One stream. `end`: how it ended, once `messages` has given the last one.

    Whoever calls `send` or `finish`, or looks at `is_sending`, holds `lock`.
    """

    def __init__(self, channel: Any, path: str, metadata: Metadata, wait_for_ready: bool) -> None:
        """Raises AttributeError or TypeError where gRPC is made in another way."""
        self.lock = threading.Lock()
        self.is_sending = False
        self.end: Ended | None = None
        # Here, so that what is not there is missed before there is a stream.
        self._message_out = cygrpc.SendMessageOperation
        self._message_in = cygrpc.ReceiveMessageOperation
        self._nothing_more = cygrpc.SendCloseFromClientOperation
        known = cygrpc.InitialMetadataFlags
        explicit = known.wait_for_ready | known.wait_for_ready_explicitly_set
        begin = (
            cygrpc.SendInitialMetadataOperation(
                tuple(metadata), explicit if wait_for_ready else _NO_FLAGS
            ),
            cygrpc.ReceiveInitialMetadataOperation(_NO_FLAGS),
        )
        receive = (self._message_in(_NO_FLAGS),)
        end = (cygrpc.ReceiveStatusOnClientOperation(_NO_FLAGS),)
        operations = ((begin, _BEGIN), (receive, _RECEIVE), (end, _END))
        # Operations that have begun and whose end has not been seen. When there are none, gRPC has
        # given up the queue of their ends, which must not be asked any more.
        self._due = len(operations)
        self._call = channel._channel.segregated_call(
            _NO_FLAGS, path.encode(), None, None, (), None, operations
        )

    def send(self, message: bytes) -> None:
        """Begin to send a message, while none is being sent."""
        self.is_sending = self._begin(self._message_out(message, _NO_FLAGS), _SEND)

    def finish(self) -> None:
        """Send nothing more."""
        self._begin(self._nothing_more(_NO_FLAGS), _BEGIN)

    def cancel(self) -> None:
        """End it now."""
        self._call.cancel(grpc.StatusCode.CANCELLED.value[0], "the session was closed")

    def messages(self) -> Iterator[bytes | None]:
        """The messages that come, until the end; None whenever one has been sent.

        For one thread, which must not be the main one: gRPC gives a stream up in the middle of what
        other threads do with it when a signal interrupts it.
        """
        while True:
            event = self._call.next_event()
            message = None
            if event.tag is _RECEIVE:
                message = event.batch_operations[0].message()
            elif event.tag is _END:
                self.end = _end_of(event.batch_operations[0])
            with self.lock:
                self._due -= 1
                if event.tag is _SEND:
                    self.is_sending = False
            if message is not None or event.tag is _SEND:
                yield message
            # Only now: whoever waits for the message has it meanwhile.
            with self.lock:
                if message is not None:
                    self._begin(self._message_in(_NO_FLAGS), _RECEIVE)
                if not self._due:
                    return

    def _begin(self, operation: Any, tag: str) -> bool:
        begun: bool = self._call.operate((operation,), tag)
        self._due += begun
        return begun


def _end_of(operation: Any) -> Ended:
    code = _CODES.get(operation.code(), grpc.StatusCode.UNKNOWN)
    details = operation.details()
    if isinstance(details, bytes):
        details = details.decode(errors="replace")
    return Ended(code, details or "", operation.trailing_metadata())
