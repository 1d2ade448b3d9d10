"""What is known of a call while it lasts, for whoever watches the service: counts, traces, logs.

Knows gRPC's contexts and W3C's trace context. What becomes of it is behind `CallObserver`.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc
import structlog

from varserve.v1 import admin_service_pb2
from varserve.v1 import model_service_pb2 as pb

from .identity import Context

log = structlog.get_logger("varserve.rpc")

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_NO_TRACE = "0" * 32

# A client whose time is up hangs up a moment before the server's own clock says so.
_CLOCKS_APART = 0.1


@dataclass(frozen=True, slots=True)
class Method:
    """An RPC in the words of gRPC's own dashboards."""

    service: str
    name: str
    kind: str

    @classmethod
    def of(cls, descriptor: Any) -> Method:
        """The method of a protobuf descriptor."""
        kind = {
            (False, False): "unary",
            (True, False): "client_stream",
            (False, True): "server_stream",
            (True, True): "bidi_stream",
        }[descriptor.client_streaming, descriptor.server_streaming]
        return cls(descriptor.containing_service.full_name, descriptor.name, kind)


def methods() -> list[Method]:
    """All methods of the contract."""
    return [
        Method.of(method)
        for file in (pb.DESCRIPTOR, admin_service_pb2.DESCRIPTOR)
        for service in file.services_by_name.values()
        for method in service.methods
    ]


UNKNOWN = Method("unknown", "unknown", "unary")
"""Every method that the service does not have, whatever a client calls it."""


@dataclass(slots=True, eq=False)
class Call:
    """One call. What a client may have chosen is bounded in length, and never the name of a count.

    `model` is the name of a model that is served, empty until the call has found one, with its
    `version`; `revision` is the one that it was answered at. `trace_id` is 32
    hexadecimal digits, or empty.
    """

    method: Method
    metadata: Sequence[tuple[str, str | bytes]] = ()
    started: float = field(default_factory=time.monotonic)
    trace_id: str = ""
    subject: str = ""
    model: str = ""
    version: int | None = None
    revision: int | None = None
    request_id: str = ""
    read_bytes: int = 0
    """Of variables' values that it gave."""
    seconds: float = 0.0
    code: grpc.StatusCode = grpc.StatusCode.OK
    reason: str = ""


class CallObserver(Protocol):
    """Is told of every call, on the event loop: must be quick, and never wait.

    What a subclass does not say it wants to be told of costs nothing.
    """

    def started(self, call: Call) -> None:
        """A call has come; `method`, `metadata`, `started` and `trace_id` are known."""
        ...

    def received(self, call: Call) -> None:
        """A message of it has come."""
        ...

    def sent(self, call: Call) -> None:
        """A message is on its way to the client."""
        ...

    def ended(self, call: Call) -> None:
        """It has been answered, refused or cancelled; all is known."""
        ...


class Observers:
    """All who are told of the calls of one service."""

    def __init__(self, observers: Sequence[CallObserver]) -> None:
        self._told = {
            what: [
                getattr(each, what)
                for each in observers
                if getattr(type(each), what, None) is not getattr(CallObserver, what)
            ]
            for what in ("started", "received", "sent", "ended")
        }

    def tell(self, what: str, call: Call) -> None:
        """Call this method of every observer."""
        for told in self._told[what]:
            try:
                told(call)
            except Exception:
                # Whoever watches must not break what it watches.
                log.exception("an observer of calls failed", at=what)


# gRPC has a task of its own for each call, and so a context variable is the call's own.
_current: ContextVar[Call | None] = ContextVar("call", default=None)


def note(
    *,
    model: str | None = None,
    version: int | None = None,
    revision: int | None = None,
    request_id: str | None = None,
    read_bytes: int = 0,
) -> None:
    """Add to what is known of the call in progress: from its task, or a worker that works for it.

    `model` must be the name of a model that is served, never what a client calls it.
    """
    call = _current.get()
    if call is None:
        return
    if model is not None:
        call.model = model
    if version is not None:
        call.version = version
    if revision is not None:
        call.revision = revision
    if request_id:
        call.request_id = request_id
        structlog.contextvars.bind_contextvars(request_id=request_id)
    call.read_bytes += read_bytes


def note_header(header: Any) -> None:
    """Note the StateHeader of an answer."""
    note(model=header.model, version=header.version, revision=header.revision)


def trace_id_of(metadata: Sequence[tuple[str, str | bytes]]) -> str:
    """The trace that the client says it works on, by W3C's `traceparent`; empty if none is."""
    for key, value in metadata:
        if key == "traceparent" and isinstance(value, str):
            match = _TRACEPARENT.fullmatch(value)
            return match[1] if match and match[1] != _NO_TRACE else ""
    return ""


class Observed:
    """Tells all observers of one call."""

    def __init__(self, observers: Observers, method: Method, context: Context) -> None:
        metadata = tuple(context.invocation_metadata() or ())
        self._observers = observers
        self._context = context
        self._ended = False
        self.call = Call(method, metadata, trace_id=trace_id_of(metadata))

    def start(self) -> None:
        """The call begins, in the task that answers it."""
        _current.set(self.call)
        self.tell("started")
        if self.call.trace_id:
            structlog.contextvars.bind_contextvars(trace_id=self.call.trace_id)
        if self.call.method.kind in ("unary", "server_stream"):
            self.tell("received")

    def answered(self, result: Any) -> None:
        """The handler has returned, with a message or None after a stream."""
        header = getattr(result, "header", None)
        if header is not None:
            note_header(header)
        if result is not None:
            self.tell("sent")

    def refused(self, code: grpc.StatusCode, reason: str) -> None:
        """The call has failed."""
        self.call.code, self.call.reason = code, reason

    def cancelled(self) -> None:
        """The caller has gone, or has run out of time."""
        remaining = self._context.time_remaining()
        late = remaining is not None and remaining <= _CLOCKS_APART
        code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
        self.call.code = code

    def end(self, subject: str) -> None:
        """The call is over. Again: nothing."""
        if self._ended:
            return
        self._ended = True
        self.call.seconds = time.monotonic() - self.call.started
        self.call.subject = subject
        self.tell("ended")

    def tell(self, what: str) -> None:
        """Tell them what has happened."""
        self._observers.tell(what, self.call)


class Arriving:
    """The messages of a streaming request, told of as they come."""

    def __init__(self, messages: AsyncIterator[bytes], observed: Observed) -> None:
        self._messages = messages
        self._observed = observed

    def __aiter__(self) -> Arriving:
        self._messages = aiter(self._messages)
        return self

    async def __anext__(self) -> bytes:
        message = await anext(self._messages)
        self._observed.tell("received")
        return message


class Answering:
    """A gRPC context that tells of every message of a streaming answer."""

    def __init__(self, context: Context, observed: Observed) -> None:
        self._context = context
        self._observed = observed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, message: Any) -> None:
        await self._context.write(message)
        self._observed.tell("sent")


class UnknownMethods(grpc.GenericRpcHandler):
    """Has no method, and tells of every call that none of the handlers before it has."""

    def __init__(self, observers: Observers) -> None:
        self._observers = observers

    def service(self, handler_call_details: Any) -> None:
        call = Call(UNKNOWN, code=grpc.StatusCode.UNIMPLEMENTED)
        self._observers.tell("started", call)
        self._observers.tell("ended", call)
