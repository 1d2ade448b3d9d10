"""One RPC in progress: everything that is known of it, in one object that every step is given.

Owns the call's gRPC context. Authentication, the guard and the handlers fill in what they find out;
observers are told of the same object.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol, TypeAlias

import grpc
import structlog

from varserve_service.core.cancellation import Cancellation
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.commits import CommitListener

from .audit_record import AuditRecord
from .method import Method
from .observers import Observers, trace_id_of
from .permissions import CallerPermissions

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

# A client whose deadline passes hangs up a moment before the server's own clock says so.
_CLOCK_SKEW = 0.1
# A deadline that is further away, in seconds, is none: a wait for as long may be refused.
_FARTHEST = 366 * 86400.0
# IPv6 in gRPC's spelling, where the brackets are escaped.
_LOCAL_PEERS = ("unix:", "ipv4:127.", "ipv6:%5B::1%5D", "ipv6:[::1]")
# Seconds after which a call that goes on is judged again.
_RECHECK_SECONDS = 1.0


class Authenticator(Protocol):
    """Tells who a caller is."""

    async def subject(self, context: Context) -> str:
        """The caller's name, never empty. Raises RequestError UNAUTHENTICATED.

        Called on the event loop, which it must not hold up.
        """
        ...


class Writer(Protocol):
    """Sends the messages of a call that came inside another one's stream."""

    async def write(self, message: bytes) -> None:
        """Send one. Raises CallerGone."""
        ...

    def write_now(self, message: bytes) -> bool:
        """Send one if that needs no waiting. Whether it did."""
        ...


class CallerGone(Exception):
    """The client has hung up: nothing that is sent reaches it."""


class RpcCall:
    """One call.

    What a client may have chosen is bounded in length. `model` is the name of a model that is
    served, empty until the call has found one, with its `version`; `revision` is the one that the
    call was answered at. `trace_id` is 32 hexadecimal digits, or empty. `deadline` is in seconds of
    `time.monotonic`; None where there is none. `permissions` is None where there is no policy.
    `cancellation` ends what runs for a client that has gone. `authorized_model` is the live model
    that the guard judged. `queue_key` tells whose turns its work takes: those of its subject, or of
    its connection where nobody has a name. `read_bytes` counts bytes of variables' values in the
    answer.
    """

    __slots__ = (
        "_context",
        "_ended",
        "_observers",
        "_rechecked_at",
        "_writer",
        "audit",
        "authorized_model",
        "cancellation",
        "code",
        "commit_listener",
        "deadline",
        "metadata",
        "method",
        "model",
        "permissions",
        "queue_key",
        "read_bytes",
        "reason",
        "recheck",
        "request_id",
        "requests_ended",
        "revision",
        "seconds",
        "started_at",
        "subject",
        "trace_id",
        "version",
    )

    def __init__(
        self,
        method: Method,
        observers: Observers,
        context: Context | None = None,
    ) -> None:
        self.method = method
        self._observers = observers
        self._context = context
        self._writer: Writer | None = None
        self._ended = False
        self.requests_ended = False
        self.metadata: tuple[tuple[str, str | bytes], ...] = ()
        self.started_at = time.monotonic()
        self.deadline: float | None = None
        self.cancellation = Cancellation()
        if context is not None:
            self.metadata = tuple(context.invocation_metadata() or ())
            remaining = context.time_remaining()
            if remaining is not None:
                self.deadline = _kept(self.started_at + remaining)
        self.trace_id = trace_id_of(self.metadata)
        self.subject = self.queue_key = ""
        self.permissions: CallerPermissions | None = None
        self.authorized_model: LiveModel | None = None
        self.audit: AuditRecord | None = None
        self.commit_listener: CommitListener | None = None
        self.recheck: Callable[[], Awaitable[None]] | None = None
        self._rechecked_at = self.started_at
        self.model = ""
        self.version: int | None = None
        self.revision: int | None = None
        self.request_id = ""
        self.read_bytes = 0
        self.seconds = 0.0
        self.code = grpc.StatusCode.OK
        self.reason = ""

    def nested(
        self,
        method: Method,
        deadline: float | None,
        traces: tuple[tuple[str, str], ...] | None,
        writer: Writer | None = None,
    ) -> RpcCall:
        """A call of the same connection that came inside this one's stream.

        None: the deadline, and the trace, are this one's. `writer` sends the messages of an answer
        that is a stream.
        """
        call = RpcCall(method, self._observers)
        call._context = self._context
        call._writer = writer
        call.queue_key = self.queue_key
        call.metadata = self.metadata if traces is None else traces
        call.trace_id = trace_id_of(call.metadata)
        call.deadline = self.deadline if deadline is None else _kept(deadline)
        return call

    # The connection.

    @property
    def context(self) -> Context:
        """gRPC's own."""
        assert self._context is not None
        return self._context

    @property
    def peer(self) -> str:
        """The address that the call comes from, as gRPC writes it."""
        return "" if self._context is None else self._context.peer()

    @property
    def is_local(self) -> bool:
        """Whether it comes over a Unix socket or loopback: from this host, or by way of a proxy."""
        return self.peer.startswith(_LOCAL_PEERS)

    def __aiter__(self) -> RpcCall:
        return self

    async def __anext__(self) -> bytes:
        """The next message of a streaming request."""
        # Not by gRPC's iterator, whose two layers of Python take as long as what they give.
        message: bytes | Any = await self.context.read()
        if message is grpc.aio.EOF:
            self.requests_ended = True
            raise StopAsyncIteration
        self.received()
        return message

    def received(self) -> None:
        """A message of the request has come, whichever way."""
        self._observers.tell("received", self)

    def sent(self) -> None:
        """A message of the response is on its way, whichever."""
        self._observers.tell("sent", self)

    async def wait_until_over(self, seconds: float) -> None:
        """Wait at most so long for the client to go."""
        over = asyncio.Event()
        self.context.add_done_callback(lambda _: over.set())
        if not self.is_over:
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), seconds)

    @property
    def is_over(self) -> bool:
        """Nothing that is sent reaches the client any more."""
        return self._context is not None and (self._context.cancelled() or self._context.done())

    async def accept(self, *metadata: tuple[str, str | bytes]) -> None:
        """Send the initial metadata. Raises CallerGone."""
        try:
            await self.context.send_initial_metadata(metadata)
        except Exception as error:
            raise self._gone(error) from error

    async def write(self, message: Any) -> None:
        """Send one message of a streaming response. Raises CallerGone."""
        try:
            await (self._writer or self.context).write(message)
        except Exception as error:
            raise self._gone(error) from error
        self._observers.tell("sent", self)

    def write_now(self, message: bytes) -> bool:
        """Send one message of a streaming response if that needs no waiting. Whether it did."""
        if self._writer is None or not self._writer.write_now(message):
            return False
        self._observers.tell("sent", self)
        return True

    def _gone(self, error: Exception) -> Exception:
        """gRPC has several errors for a client that has hung up; any other error is a defect."""
        return CallerGone() if self.is_over or _by_grpc(error) else error

    # What is known.

    def start(self) -> None:
        """The call begins, in the task that answers it."""
        self._observers.tell("started", self)
        if self.trace_id:
            structlog.contextvars.bind_contextvars(trace_id=self.trace_id)
        if self.method.kind in ("unary", "server_stream"):
            self._observers.tell("received", self)

    def note(
        self,
        *,
        model: str | None = None,
        version: int | None = None,
        revision: int | None = None,
        request_id: str | None = None,
        read_bytes: int = 0,
    ) -> None:
        """Add to what is known of the call. From any thread that works for it.

        `model` must be the name of a model that is served, never what a client calls it.
        """
        if model is not None:
            self.model = model
        if version is not None:
            self.version = version
        if revision is not None:
            self.revision = revision
        if request_id:
            self.request_id = request_id
            structlog.contextvars.bind_contextvars(request_id=request_id)
        self.read_bytes += read_bytes

    def note_header(self, header: Any) -> None:
        """Note the StateHeader of an answer."""
        self.note(model=header.model, version=header.version, revision=header.revision)

    def answered(self, response: Any) -> None:
        """The handler has returned, with a message, or None after a stream."""
        header = getattr(response, "header", None)
        if header is not None:
            self.note_header(header)
        if response is not None:
            self._observers.tell("sent", self)

    def refused(self, code: grpc.StatusCode, reason: str) -> None:
        """The call has failed."""
        self.code, self.reason = code, reason

    def cancelled(self) -> None:
        """The caller has gone, or its deadline has passed."""
        late = self.deadline is not None and self.deadline - time.monotonic() <= _CLOCK_SKEW
        self.code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
        self.cancellation.cancel()

    def end(self) -> None:
        """The call is over. Again: nothing."""
        if self._ended:
            return
        self._ended = True
        self.seconds = time.monotonic() - self.started_at
        self._observers.tell("ended", self)

    # What the call may do.

    def check_model(self, live: LiveModel) -> None:
        """Raises RequestError MODEL_NOT_READY when the guard judged another version of the model.

        What a name means, and so what the caller may do, may differ in this one.
        """
        if self.authorized_model is not None and self.authorized_model is not live:
            raise RequestError(
                Reason.MODEL_NOT_READY,
                f"model {live.name!r} was replaced at this moment; try again",
                model=live.name,
            )

    async def judge_again(self, *, at_once: bool = False) -> None:
        """Judge a call that has gone on for a while again: its credential, and what it may do.

        At most once a second, unless `at_once`. Raises RequestError UNAUTHENTICATED,
        PERMISSION_DENIED.
        """
        if self.recheck is not None and (at_once or self.is_to_be_judged):
            self._rechecked_at = time.monotonic()
            await self.recheck()

    @property
    def is_to_be_judged(self) -> bool:
        """Whether it has gone on for so long that `judge_again` would judge it."""
        if self.recheck is None:
            return False
        return time.monotonic() - self._rechecked_at >= _RECHECK_SECONDS


def _by_grpc(error: Exception) -> bool:
    """Whether gRPC itself raised this: ExecuteBatchError has no public name."""
    return isinstance(error, grpc.aio.BaseError)


def _kept(deadline: float) -> float | None:
    """A deadline as calls have it: None for one that is as good as none."""
    return deadline if deadline - time.monotonic() <= _FARTHEST else None
