"""What the sessions of threads and of tasks share.

Knows nothing of retries, and of a call its method and the bytes of its request.
"""

from __future__ import annotations

import itertools
import math
import time
from typing import Any, Final

import grpc

from varserve import lane, reasons
from varserve._client import errors
from varserve._client.transport.endpoint import Endpoint, Metadata
from varserve.v1 import session_pb2 as pb

from .asked import Alone, Asked, Late, Lost

PATH: Final = "/varserve.v1.ModelService/Session"

# A session takes no further calls after so long: where a name has several servers, or a server asks
# its clients to connect again, they are looked for then.
_LIFE_SECONDS = 60.0
# How long one end of a session is waited for when the other has been seen: the stream tells why it
# ended, and the connection of the lane has the last answers.
OTHER_END_SECONDS = 2.0
# Of one message.
_MAX_CALLS = 128
_MAX_BYTES = 256 << 10
# What a session ends with where the service has begun no call that it did not answer.
_UNBEGUN = ("SHUTTING_DOWN",)


class Ended(grpc.RpcError):  # type: ignore[misc]  # grpc has no types
    """How a stream ended, where gRPC tells without raising."""

    def __init__(self, code: grpc.StatusCode, details: str, metadata: Any) -> None:
        super().__init__(details)
        self._code, self._details, self._metadata = code, details, metadata

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> Any:
        return self._metadata


class Outgoing:
    """Calls, and cancellations, that wait to be sent: each message has as many as have gathered.

    The first one asks for the lane, if it is wanted.
    """

    def __init__(self, lane: bool) -> None:
        self._lane = lane
        self._calls: dict[int, Asked] = {}
        self._cancelled: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._calls or self._cancelled)

    @property
    def count(self) -> int:
        """Of calls."""
        return len(self._calls)

    def add(self, ident: int, asked: Asked) -> None:
        """A call is to be made."""
        self._calls[ident] = asked

    def cancel(self, ident: int) -> None:
        """Nobody waits for a call any more. What has not been sent is not sent."""
        if self._calls.pop(ident, None) is None:
            self._cancelled.append(ident)

    def message(self) -> bytes:
        """What is to be sent next."""
        request = pb.SessionRequest(cancelled_ids=self._cancelled[:_MAX_CALLS], lane=self._lane)
        self._lane = False
        del self._cancelled[:_MAX_CALLS]
        nbytes = 0
        while self._calls and len(request.calls) < _MAX_CALLS and nbytes < _MAX_BYTES:
            ident = next(iter(self._calls))
            asked = self._calls.pop(ident)
            call = request.calls.add(
                id=ident,
                method=asked.method,
                request=asked.request,
                timeout_seconds=asked.seconds if asked.seconds < math.inf else None,
            )
            for key, value in asked.traces:
                if key in ("traceparent", "tracestate"):
                    setattr(call, key, value)
            nbytes += len(asked.request)
        data: bytes = request.SerializeToString()
        return data


class Session:
    """What both kinds of session share. `proven`: it has had an answer."""

    def __init__(self, metadata: Metadata, endpoint: Endpoint) -> None:
        self.metadata = metadata
        self.proven = False
        self.ended = False
        self._wanted = endpoint.lane if lane.is_possible() else False
        self._broken: Lost | None = None
        """Why it cannot go on, though its stream has not ended."""
        self.missing = False
        """The service has no sessions."""
        self._finished = False
        self._ids = itertools.count(1)
        self._outgoing = Outgoing(bool(self._wanted))
        self._until = time.monotonic() + _LIFE_SECONDS

    def takes(self, metadata: Metadata) -> bool:
        """Whether a call with this metadata, of the session, can begin in it."""
        if self.ended or self._broken is not None:
            return False
        return metadata == self.metadata and time.monotonic() < self._until

    @property
    def is_young(self) -> bool:
        """Whether it began a moment ago."""
        return time.monotonic() < self._until - _LIFE_SECONDS + 1.0

    def _end_of(self, error: BaseException | None) -> BaseException:
        """What becomes of calls that have no answer."""
        if error is None or _reason(error) in _UNBEGUN:
            return Alone()
        code = getattr(error, "code", lambda: None)()
        if code is grpc.StatusCode.OK:
            return Alone()
        if code is grpc.StatusCode.UNIMPLEMENTED:
            self.missing = True
            return Alone()
        return Lost(error)


def broken(why: object) -> Lost:
    """The end of a session whose connection of the lane cannot go on."""
    return Lost(errors.Unavailable(f"the session ended during the call, on the lane: {why}"))


def _reason(error: Any) -> str:
    for key, value in getattr(error, "trailing_metadata", lambda: ())() or ():
        if key == reasons.DETAILS_KEY:
            failure = reasons.read_details(value)
            return failure.reason if failure is not None else ""
    return ""


def response_of(answer: pb.SessionAnswer) -> bytes:
    """The encoded response. Raises the call's VarserveError, and Late."""
    if answer.WhichOneof("outcome") == "response":
        return answer.response
    failure = reasons.read_details(answer.error.SerializeToString())
    if failure is None and answer.error.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]:
        raise Late  # so says the service's clock; whether the call was done, it does not say
    if failure is None:
        raise errors.ServiceError(f"expected a reason, found status {answer.error.code} alone")
    raise errors.from_reason(failure.reason, failure.message, failure.metadata, from_service=True)
