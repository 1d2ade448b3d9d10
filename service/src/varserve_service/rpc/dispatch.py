"""What every call goes through, whatever its method: from gRPC to the handler and back.

Owns the order of the steps (authenticate, admit, decode, authorize, handle) and the calls in
progress. Knows gRPC and rows of the table of methods; knows nothing of what a handler does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Sequence
from functools import partial
from typing import Any

import grpc

from varserve import frames
from varserve.reasons import Failure
from varserve_service.access.policy import Policy
from varserve_service.core.errors import Reason, RequestError

from .authorization.auditing import Auditing
from .authorization.guard import Guard
from .authorization.requirements import Requirements
from .calls.admission import Admission
from .calls.call import Authenticator, Context, RpcCall, Writer
from .calls.method import UNKNOWN
from .calls.observers import Observers
from .calls.permissions import CallerPermissions
from .calls.transfers import first_message
from .calls.untaken import LARGE_BYTES, Untaken
from .decoding import Decoder
from .failures import Failed, abort, failure_of, has_gone
from .messages import translate
from .row import Row


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
        decoder: Decoder | None = None,
        memory_limit: Callable[[], int | None] = lambda: None,
    ) -> None:
        """`backend` is what handlers work with. `policy` gives the one that is in force now.

        `authenticate_first`: strangers can connect, so their messages are not read into memory.
        `transfer_silence`: seconds that a first message may take.
        `memory_limit` tells the bytes of the memory, if known.
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
        self._decoder = decoder or Decoder()
        self._untaken = Untaken(memory_limit)
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
        # A partial of the function: of a bound method, gRPC takes long to see what it is each time.
        handle = partial(Dispatcher._handle, self, row, unread=unread)
        return make(handle, response_serializer=frames.write_message)

    async def _handle(
        self, row: Row, request: Any, context: Context, *, unread: bool = False
    ) -> Any:
        """Answer a call; whatever it raises reaches the caller as one Failure.

        `unread`: the request is still a stream, of one message.
        """
        streams = row.descriptor.client_streaming
        call = RpcCall(row.method, self._observers, context)
        task = asyncio.current_task()
        assert task is not None
        self._in_progress.add(task)
        self._idle.clear()
        # Not when the handler is done: its answer is still on its way then.
        context.add_done_callback(lambda _: self._finished(task))
        call.start()
        try:
            if self._authenticator is not None:
                call.subject = call.queue_key = await self._authenticator.subject(context)
            else:
                call.queue_key = context.peer()
            if self._untaken.answers and not row.method.always_admitted:
                self._untaken.check(call)
            if unread:
                request = await self._only_message(request)
            response = await self._admitted(row, None if streams else request, call)
            call.answered(response)
            if response is not None:
                if not isinstance(response, bytes):
                    response = response.SerializeToString()
                if len(response) >= LARGE_BYTES:
                    self._untaken.add(task, call, len(response))
            return response
        except (asyncio.CancelledError, grpc.aio.AbortError):
            call.cancelled()
            raise
        except BaseException as error:
            failure = None
            if await has_gone(error, call):
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
        return await abort(context, failure)

    async def message(self, call: RpcCall, data: bytes) -> Any:
        """A message of a call's stream, of the method's request type, within its bounds."""
        row = self._rows[call.method.full_name]
        request = self._decoder.decode_small(row, data)
        return await self._decoder.decode_large(row, data) if request is None else request

    async def nested(
        self,
        method: str,
        data: bytes,
        outer: RpcCall,
        *,
        deadline: float | None = None,
        traces: tuple[tuple[str, str], ...] | None = None,
        writer: Writer | None = None,
    ) -> Any:
        """Answer a call that came inside the stream of another one, with its credentials.

        `method` is the full name of a unary method, or, with a `writer` that sends its messages, of
        one whose answer is a stream. `deadline` and `traces` are its own; None: those of the other
        one. An infinite deadline is none. Returns the response. Raises Failed.
        """
        row = self._rows.get(method)
        kind = "unary" if writer is None else "server_stream"
        if row is None or row.method.kind != kind:
            problem = f"expected the full name of a {kind} method, found {method[:200]!r}"
            raise Failed(Failure(Reason.REQUEST_MALFORMED.value, problem))
        call = outer.nested(row.method, deadline, traces, writer)
        call.start()
        try:
            if self._authenticator is not None:
                call.subject = call.queue_key = await self._authenticator.subject(call.context)
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
                request = self._decoder.decode_small(row, data)
                large = request is None
                if large:
                    request = await self._decoder.decode_large(row, data)
            if self._policy is None and self._auditing is None:
                if self._authenticator is not None:
                    call.recheck = partial(self._recheck, call, None)
                return await row.handler(self._backend, request, call)
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

    async def _authorized(self, row: Row, request: Any, call: RpcCall, large: bool) -> Any:
        handle = partial(row.handler, self._backend, request, call)
        auditing = self._auditing
        if self._policy is not None:
            call.permissions = CallerPermissions.of(self._policy, call.subject)

        def derive() -> Requirements:
            requirements = row.requirements(request)
            if auditing is not None:
                call.audit = auditing.record(call, requirements)
            return requirements

        requirements = await self._decoder.run(derive, large=large)
        large = large or requirements.waits
        large = large or (requirements.walks_model and self._decoder.has_large_models)
        decide = partial(self._guard.decide, requirements, call.permissions)
        decision = await self._decoder.run(decide, large=large)
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
            decide = partial(self._guard.decide, requirements, renewed)
            await self._decoder.run(decide, large=True)
            call.permissions = renewed

    # The end.

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._untaken.ended(task)
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
        self._decoder.close()


class UnknownMethods(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Has no method; observes every call that no handler before it has."""

    def __init__(self, observers: Observers) -> None:
        self._observers = observers

    def service(self, handler_call_details: Any) -> None:
        call = RpcCall(UNKNOWN, self._observers)
        call.refused(grpc.StatusCode.UNIMPLEMENTED, "")
        self._observers.tell("started", call)
        call.end()
