"""What both drivers share: the channel, its stubs, and when a call goes in a session."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import finalize

from varserve._client import errors
from varserve._client.transport.calls import Call, Method
from varserve._client.transport.endpoint import Endpoint
from varserve._client.transport.forks import GATE, Renewable
from varserve._client.transport.session_usage import Usage
from varserve._client.transport.sessions import MAX_REQUEST_BYTES, Alone, Asked, Lost
from varserve.frames import write_message

if TYPE_CHECKING:
    from varserve._client.transport.watch_sessions import Watches


class Driver(Renewable):
    """The channel of one client, opened at the first call, its stubs and its session."""

    module: Any

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.closed = False
        self._lock = threading.Lock()
        self._channel: Any = None
        # Of the channel that is open: none where there is none.
        self._stubs: dict[str, Any] = {}
        self._usage = Usage(endpoint.sessions)
        self._session: Any = None
        self._end_session = finalize(self, lambda: None)
        self._watches: Watches | None = None
        GATE.renew_in_child(self)

    def _after_fork(self) -> None:
        """This is a forked child: the channel is the parent's."""
        self._lock = threading.Lock()
        GATE.abandon((self._channel, self._stubs, self._session))
        self._end_session.detach()
        self._channel, self._stubs, self._session = None, {}, None

    def _prepared(self, call: Call) -> tuple[Callable[..., Any], dict[str, Any]]:
        """What makes the grpc call, and with which options."""
        endpoint, method = self.endpoint, call.method
        metadata = endpoint.call_metadata()
        stub = self._stubs.get(method.path) or self._made_stub(method)
        remaining = call.budget.remaining()
        return stub, {
            # What is longer than decades is past for gRPC, which counts in nanoseconds.
            "timeout": None if remaining > 1e9 else remaining,
            "metadata": metadata,
            "wait_for_ready": endpoint.wait_for_ready,
        }

    def _made_stub(self, method: Method) -> Any:
        with GATE, self._lock:
            stub = getattr(self._opened_channel(), method.shape)(
                method.path,
                request_serializer=write_message,
                response_deserializer=method.read,
            )
            return self._stubs.setdefault(method.path, stub)

    def _opened_channel(self) -> Any:
        """The channel; the lock is held."""
        if self.closed:
            raise errors.ClientClosed("this client is closed")
        if self._channel is None:
            with GATE:
                self._channel = self.endpoint.channel(self.module, shared=not GATE.forked)
        return self._channel

    def _hang_up(self) -> Any:
        with self._lock:
            self.closed = True
            channel, self._channel = self._channel, None
            session, self._session = self._session, None
            self._stubs.clear()
        if session is not None:
            session.close()
        if self._watches is not None:
            self._watches.close()
        return channel

    def _begin_watch(self, call: Call) -> Any:
        """The stream of a watch, which may share one with others."""

        def alone() -> Any:
            stub, options = self._prepared(call)
            return stub(call.request, **options)

        def channel() -> Any:
            with GATE, self._lock:
                return self._opened_channel()

        with self._lock:
            if self._watches is None:
                self._watches = self._new_watches()
        return self._watches.open(call, channel, alone)

    def _new_watches(self) -> Watches:
        """Imported by the first watch."""
        raise NotImplementedError

    # Small calls that come often share a stream.

    def _asked(self, call: Call) -> Asked | None:
        """What goes in a session; None for a call that is made alone."""
        if not call.method.small or not self._usage.wants(self._session is not None):
            return None
        request, seconds = write_message(call.request), call.budget.remaining()
        if len(request) > MAX_REQUEST_BYTES or seconds <= 0:
            return None
        return Asked(call.method.name, request, seconds, self.endpoint.trace())

    def _open_session(self, kind: Any) -> Any:
        """The session for a call that begins now; None where it is better made alone."""
        metadata = self.endpoint.session_metadata()
        session = self._session
        if session is not None and session.takes(metadata):
            return session
        with self._lock:
            session = self._session
            if session is not None and session.takes(metadata):
                return session
            if session is not None:
                self._session = None
                session.finish()
                if session.metadata != metadata and session.is_young:
                    # Credentials that are new for each call would have a session each.
                    self._usage.failed()
                    return None
            channel = self._opened_channel()
            try:
                self._session = kind(channel, metadata, self.endpoint)
            except (AttributeError, TypeError):  # a gRPC that is made in another way
                self._usage.impossible()
                return None
            # Its threads keep it, also when nobody keeps the client.
            self._end_session.detach()
            self._end_session = finalize(self, self._session.abandon)
            return self._session

    def _unanswered(self, session: Any, why: Exception) -> errors.VarserveError | None:
        """The error of a call that a session has no answer to; None: it is to be made alone."""
        if session.missing:
            self._usage.impossible()
        elif not session.proven:
            self._usage.failed()
            session.close()
        if isinstance(why, Alone):
            return None
        if not isinstance(why, Lost):
            from varserve._client.transport.failures import late

            return late(self.endpoint.target)
        error = self._error(why.error)
        if isinstance(error, errors.Unauthenticated) or (error and not error.from_service):
            return error
        return errors.Unavailable(
            f"{self.endpoint.target}: the session ended during the call: {error or why}"
        )

    def _error(self, error: BaseException) -> errors.VarserveError | None:
        if isinstance(error, errors.VarserveError):
            return error
        from varserve._client.transport.failures import failure_of  # by the first that comes

        return failure_of(error, self.endpoint.way, closed=self.closed)
