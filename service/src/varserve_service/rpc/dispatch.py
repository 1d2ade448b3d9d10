"""What every call goes through, whatever its method: from gRPC to the handler and back.

Owns the order of the steps (authenticate, admit, decode, authorize, handle), the calls in progress,
and how failures reach the caller. Knows gRPC and rows of the table of methods; knows nothing of
what a handler does.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn, TypeVar

import grpc
import structlog
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from varserve import frames
from varserve.frames import FrameError
from varserve.reasons import DETAILS_KEY, Failure
from varserve.tensors import TensorError
from varserve_service.access.policy import Policy, Verb
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.threads import model_executor

from .authorization.auditing import Auditing
from .authorization.guard import Guard
from .authorization.requirements import Requirements
from .calls.admission import Admission
from .calls.call import Authenticator, CallerGone, Context, RpcCall
from .calls.method import UNKNOWN, Method
from .calls.observers import Observers
from .calls.permissions import CallerPermissions
from .calls.transfers import first_message
from .messages import translate
from .messages.wire_count import count_fields, opaque_bytes

log = structlog.get_logger("varserve.rpc")

T = TypeVar("T")

# Trailing metadata has room for 8 KiB in all. The message is in it twice: once with three
# characters for each byte that is not ASCII, once in base64.
MAX_MESSAGE_BYTES = 1_000
MAX_METADATA_BYTES = 200

# Requests with at most so many fields are decoded and judged on the event loop: others wait for
# that no longer than for a thread. A field takes two bytes at least.
_PAGE_FIELDS = 500
_PAGE_BYTES = 2 * _PAGE_FIELDS
# Beyond it, to decode a request takes a copy that the event loop should not make.
_QUICK_BYTES = 8 << 20
# Fields of one request, where no model is so large that a request about all of its variables has
# more. To decode as many takes milliseconds.
MAX_FIELDS = 100_000
_FIELDS_PER_VARIABLE = 8
# Between the end of a stream and the news that its client has cancelled the call.
_CANCELLATION_SECONDS = 0.1
# Between two pieces of work on a thread that are about as long as Python lets one have.
_PAUSE_SECONDS = 0.0002
# Variables of a model beyond which a look at all of them is a thread's work.
_PAGE_VARIABLES = 1_000


@dataclass(frozen=True, slots=True)
class Row:
    """One RPC: a row of the table of methods.

    `handler` is given the backend, the decoded request and the call, and returns the response; of a
    streaming response it writes the messages to the call and returns None. `requirements` derives
    from the request what the caller needs. Where requests stream, `opening` reads the first
    message, the request is its `manifest`, and the handler takes the other messages from the call;
    without an `opening` the request is None. `bounds` has the most elements of the request's
    repeated fields, as far as they are known without the model.
    """

    method: Method
    descriptor: Any
    handler: Callable[[Any, Any, RpcCall], Awaitable[Any]]
    requirements: Callable[[Any], Requirements]
    opening: Callable[[bytes], Any] | None = None
    bounds: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        service: Any,
        name: str,
        verb: Verb,
        requirements: Callable[[Any], Requirements],
        handler: Callable[[Any, Any, RpcCall], Awaitable[Any]],
        *,
        opening: Callable[[bytes], Any] | None = None,
        bounds: Mapping[str, int] | None = None,
        always_admitted: bool = False,
    ) -> Row:
        """The row of a method of a service, by the service's descriptor."""
        descriptor = service.methods_by_name[name]
        method = Method.of(descriptor, verb, always_admitted=always_admitted)
        return cls(method, descriptor, handler, requirements, opening, bounds or {})

    def decode(self, data: bytes) -> Any:
        """The request in a message. Raises DecodeError, FrameError, RequestError."""
        if self.opening is None:
            return GetMessageClass(self.descriptor.input_type).FromString(data)
        message = self.opening(data)
        if isinstance(message, frames.ChunkFrame) or not message.HasField("manifest"):
            raise translate.malformed("expected a manifest first, found another message")
        return message.manifest

    def check_bounds(self, request: Any) -> None:
        """Raises RequestError REQUEST_MALFORMED for a field with too many elements."""
        for name, most in self.bounds.items():
            count = len(getattr(request, name))
            if count > most:
                raise translate.malformed(f"{name}: expected at most {most}, found {count}")


class Dispatcher:
    """Answers the calls of a table of methods."""

    def __init__(
        self,
        rows: Sequence[Row],
        backend: Any,
        guard: Guard,
        admission: Admission,
        observers: Observers,
        *,
        policy: Callable[[], Policy] | None = None,
        authenticator: Authenticator | None = None,
        auditing: Auditing | None = None,
        authenticate_first: bool = False,
        transfer_silence: float = 60.0,
        most_variables: Callable[[], int] = lambda: 0,
        message_bytes: int = 4 * 2**20,
        large_messages: Mapping[str, int] | None = None,
    ) -> None:
        """`backend` is what handlers work with. `policy` gives the one that is in force now.

        `authenticate_first`: strangers can connect, so their messages are not read into memory.
        `transfer_silence`: seconds that a first message may take. `most_variables` tells how
        many the largest model has. `message_bytes`: of one request; `large_messages` has, by
        service, how many it may have with the bytes of tensors in it.
        """
        self._rows = {row.method.full_name: row for row in rows}
        self._backend = backend
        self._guard = guard
        self._admission = admission
        self._observers = observers
        self._policy = policy
        self._authenticator = authenticator
        self._auditing = auditing
        self._authenticate_first = authenticate_first
        self._transfer_silence = transfer_silence
        self._most_variables = most_variables
        self._message_bytes = message_bytes
        self._large_messages = large_messages or {}
        self._preparing = model_executor(2, "varserve-prepare")
        self._draining = False
        self._in_progress: set[asyncio.Task[Any]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    # For gRPC.

    def handlers_of(self, service: Any) -> grpc.GenericRpcHandler:
        """gRPC's handlers of a service's methods, by its descriptor."""
        rows = {method.name: self._rows.get(method.full_name) for method in service.methods}
        return grpc.method_handlers_generic_handler(
            service.full_name,
            {name: self._grpc_handler(row) for name, row in rows.items() if row is not None},
        )

    def _grpc_handler(self, row: Row) -> grpc.RpcMethodHandler:
        # Requests reach us as bytes: what gRPC itself cannot decode would be INTERNAL, though it is
        # the caller's mistake.
        descriptor = row.descriptor
        # To gRPC every method can have a stream of requests: it reads a message when it is asked
        # for one. Of other methods it has read the whole message before we are told of the call,
        # and a stranger could send 4 MiB on each of very many streams.
        unread = self._authenticate_first and not descriptor.client_streaming
        if descriptor.client_streaming or unread:
            make = (
                grpc.stream_stream_rpc_method_handler
                if descriptor.server_streaming
                else grpc.stream_unary_rpc_method_handler
            )
        elif descriptor.server_streaming:
            make = grpc.unary_stream_rpc_method_handler
        else:
            make = grpc.unary_unary_rpc_method_handler
        handle = partial(self._handle, row, unread=unread)
        return make(handle, response_serializer=frames.write_message)

    async def _handle(
        self, row: Row, request: Any, context: Context, *, unread: bool = False
    ) -> Any:
        """Answer a call; whatever it raises reaches the caller as one Failure.

        `unread`: the request is still a stream, of one message.
        """
        streams = row.descriptor.client_streaming
        call = RpcCall(row.method, self._observers, context, request if streams else None)
        task = asyncio.current_task()
        assert task is not None
        self._in_progress.add(task)
        self._idle.clear()
        # Not when the handler is done: its answer is still on its way then.
        context.add_done_callback(lambda _: self._finished(task))
        call.start()
        try:
            await self._authenticate(call, context)
            if unread:
                request = await self._only_message(request)
            response = await self._admitted(row, None if streams else request, call)
            call.answered(response)
            return response
        except (asyncio.CancelledError, grpc.aio.AbortError):
            call.cancelled()
            raise
        except BaseException as error:
            failure = None
            if await _has_gone(error, call):
                call.cancelled()
            else:
                failure = failure_of(error, row.method.name)
                call.refused(failure.status, failure.reason)
                if self._auditing is not None:
                    await self._auditing.failed(call, failure)
        finally:
            call.end()  # before the caller knows: whoever asks afterwards sees it counted
        # Without the error, whose traceback holds what the handler had: the status of a stream that
        # nobody reads is not sent for as long as that lasts.
        if failure is None:
            return await context.abort(call.code, "the client has gone")
        return await _abort(context, failure)

    async def nested(self, method: str, data: bytes, outer: RpcCall) -> Any:
        """Answer a unary call that came inside the stream of another one, with its credentials.

        `method` is a full name. Returns the response. Raises Failed.
        """
        row = self._rows.get(method)
        if row is None or row.method.kind != "unary":
            problem = f"expected the full name of a unary method, found {method[:200]!r}"
            raise Failed(Failure(Reason.REQUEST_MALFORMED.value, problem))
        call = outer.nested(row.method)
        call.start()
        try:
            response = await self._admitted(row, data, call)
            call.answered(response)
            return response
        except asyncio.CancelledError:
            call.cancelled()
            raise
        except BaseException as error:
            failure = failure_of(error, row.method.name)
            call.refused(failure.status, failure.reason)
            if self._auditing is not None:
                await self._auditing.failed(call, failure)
            raise Failed(failure) from error
        finally:
            call.end()

    # The steps.

    async def _authenticate(self, call: RpcCall, context: Context) -> None:
        authenticator = self._authenticator
        if authenticator is not None:
            call.subject = await authenticator.subject(context)

    async def _admitted(self, row: Row, data: bytes | None, call: RpcCall) -> Any:
        if self._draining:
            raise RequestError(
                Reason.SHUTTING_DOWN, "the service is shutting down; retry elsewhere"
            )
        with self._admission.admit(row.method, call.subject):
            if data is None and row.opening is not None:
                data = await self._first(call)
            request, large = None, False
            if data is not None:
                request, large = await self._decode(row, data)
            return await self._authorized(row, request, call, large)

    async def _only_message(self, requests: AsyncIterable[bytes]) -> bytes:
        async with first_message(self._transfer_silence):
            async for data in requests:
                return data
        raise translate.malformed("expected a message, found the end of the stream")

    async def _first(self, call: RpcCall) -> bytes:
        async with first_message(self._transfer_silence):
            async for data in call:
                return data
        raise translate.malformed("expected a manifest first, found the end of the stream")

    async def _decode(self, row: Row, data: bytes) -> tuple[Any, bool]:
        """The request, and whether it names more than the event loop should look at."""
        self._check_size(row, data)
        large = len(data) > _QUICK_BYTES or (
            len(data) > _PAGE_BYTES
            and count_fields(data, row.descriptor.input_type, _PAGE_FIELDS) > _PAGE_FIELDS
        )

        def decode() -> Any:
            most = max(MAX_FIELDS, _FIELDS_PER_VARIABLE * self._most_variables())
            if large and count_fields(data, row.descriptor.input_type, most, _pause) > most:
                raise translate.malformed(
                    f"the request has more than {most} fields; send several requests"
                )
            request = row.decode(data)
            row.check_bounds(request)
            return request

        return (await self._prepare(decode) if large else decode()), large

    def _check_size(self, row: Row, data: bytes) -> None:
        """Refuse a message that is too large as a whole, or without the bytes of its tensors.

        gRPC has one limit for all services of a port.
        """
        if len(data) <= self._message_bytes:
            return
        method = row.method.name
        limit = self._large_messages.get(row.method.service, self._message_bytes)
        if len(data) > limit:
            raise translate.too_large(f"the request of {method}", len(data), limit)
        structured = len(data) - opaque_bytes(data, row.descriptor.input_type)
        if structured > self._message_bytes:
            thing = f"the request of {method}, without raw bytes of tensors,"
            raise translate.too_large(thing, structured, self._message_bytes)

    async def _authorized(self, row: Row, request: Any, call: RpcCall, large: bool) -> Any:
        handle = partial(row.handler, self._backend, request, call)
        auditing = self._auditing
        if self._policy is None and auditing is None:
            if self._authenticator is not None:
                call.recheck = partial(self._recheck, call, None)
            return await handle()
        if self._policy is not None:
            call.permissions = CallerPermissions.of(self._policy, call.subject)

        def derive() -> Requirements:
            requirements = row.requirements(request)
            if auditing is not None:
                call.audit = auditing.record(call, requirements)
            return requirements

        requirements = await self._prepare(derive) if large else derive()
        large = large or (requirements.walks_model and self._most_variables() > _PAGE_VARIABLES)
        decide = partial(self._guard.decide, requirements, call.permissions)
        decision = await self._prepare(decide) if large else decide()
        call.authorized_model = decision.model
        call.recheck = partial(self._recheck, call, requirements)
        record = call.audit
        if auditing is None or record is None or not (decision.writes or requirements.writes):
            return await handle()
        record.writes = True
        call.commit_listener = auditing.listener(record)
        await auditing.ready()
        try:
            response = await handle()
        except asyncio.CancelledError:
            auditing.cut_off(record)
            raise
        await auditing.done(record, response)
        return response

    async def _recheck(self, call: RpcCall, requirements: Requirements | None) -> None:
        """Judge a call in progress again. Raises RequestError."""
        authenticator = self._authenticator
        if authenticator is not None and await authenticator.subject(call.context) != call.subject:
            raise RequestError(
                Reason.UNAUTHENTICATED,
                "the credential that this call began with now belongs to another subject",
            )
        permissions = call.permissions
        if requirements is not None and permissions is not None and permissions.outdated:
            renewed = permissions.renewed()
            await self._prepare(partial(self._guard.decide, requirements, renewed))
            call.permissions = renewed

    async def _prepare(self, work: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._preparing, work)

    # The end.

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._in_progress.discard(task)
        if not self._in_progress:
            self._idle.set()

    def refuse(self) -> None:
        """Let no new calls in."""
        self._draining = True

    async def drain(self, grace: float) -> int:
        """Wait for the calls in progress, at most `grace` seconds.

        Returns how many were still in progress.
        """
        try:
            await asyncio.wait_for(self._idle.wait(), grace)
        except TimeoutError:
            return len(self._in_progress)
        return 0

    def close(self) -> None:
        """End the threads."""
        self._preparing.shutdown(wait=False, cancel_futures=True)


class UnknownMethods(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Has no method; observes every call that no handler before it has."""

    def __init__(self, observers: Observers) -> None:
        self._observers = observers

    def service(self, handler_call_details: Any) -> None:
        call = RpcCall(UNKNOWN, self._observers)
        call.refused(grpc.StatusCode.UNIMPLEMENTED, "")
        call.tell("started")
        call.end()


class Failed(Exception):
    """A nested call has failed."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def failure_of(error: BaseException, method: str) -> Failure:
    """The failure that a caller is told of, for whatever a call has raised."""
    match error:
        case RequestError():
            return Failure(error.reason.value, error.message, error.metadata)
        case TensorError() | FrameError():
            return Failure(error.reason, error.message)
        case DecodeError():
            return Failure(
                Reason.REQUEST_MALFORMED.value, f"the message is not a valid request of {method}"
            )
        case MemoryError():
            return Failure(
                Reason.OUT_OF_MEMORY.value, "host memory does not suffice; nothing was changed"
            )
    incident = uuid.uuid4().hex
    log.error("defect", method=method, incident=incident, exc_info=error)
    return Failure(
        Reason.INTERNAL.value, f"a defect of the service; the log has it as incident {incident}"
    )


def _pause() -> None:
    """On a thread, let others run, the event loop above all, before they have to ask for it."""
    time.sleep(_PAUSE_SECONDS)


def _cut(text: str, nbytes: int) -> str:
    # What UTF-8 cannot hold, a file name with stray bytes say, is shown as a question mark.
    return text.encode(errors="replace")[:nbytes].decode(errors="ignore")


async def _has_gone(error: BaseException, call: RpcCall) -> bool:
    """Whether a call failed because its client has gone.

    To us, its requests then just end: gRPC tells of the cancellation a moment later.
    """
    if isinstance(error, FrameError) and call.requests_ended:
        call.cancelled()  # so it is, if the cancellation comes while this waits
        await call.wait_until_over(_CANCELLATION_SECONDS)
    return isinstance(error, CallerGone) or call.is_over


async def _abort(context: Context, failure: Failure) -> NoReturn:
    message = _cut(failure.message, MAX_MESSAGE_BYTES)
    if message != failure.message:
        message += " ..."
    metadata = {key: _cut(value, MAX_METADATA_BYTES) for key, value in failure.metadata.items()}
    short = Failure(failure.reason, message, metadata)
    await context.abort(
        short.status, short.message, trailing_metadata=((DETAILS_KEY, short.details()),)
    )
    raise AssertionError("abort raises")
