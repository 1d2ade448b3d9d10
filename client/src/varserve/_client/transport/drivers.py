"""How an operation reaches the wire, blocking or awaited.

An operation is a generator: it yields the steps that it needs (`Call`, `Sleep`, ...), is sent what
each gave, and returns its result. It does no I/O of its own, so that one description of it serves
both drivers here. Owns the channel and the mapping of everything that gRPC raises; knows nothing of
what the calls mean.
"""

from __future__ import annotations

import asyncio
import functools
import math
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    NamedTuple,
    ParamSpec,
    Protocol,
    TypeAlias,
    overload,
)

import grpc
import grpc.aio
from google.protobuf.message import EncodeError

from varserve._client import errors
from varserve._client.transport.credentials import Token, authorization
from varserve._client.transport.throttle import Throttle
from varserve._client.transport.traces import trace_metadata
from varserve.frames import ACCEPTED_KEY, FrameError, write_message
from varserve.tensors import TensorError

if TYPE_CHECKING:
    # At run time grpcio's own; only its type checker's form has a default.
    from typing_extensions import TypeVar
else:
    from typing import TypeVar as _TypeVar

    def TypeVar(name, default=None, **options):
        return _TypeVar(name, **options)


T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
P = ParamSpec("P")


# ---- what an operation is made of: named tuples, which are made at once ----


class Method(NamedTuple):
    """An RPC: its path, how its answers are read, and which sides stream."""

    path: str
    read: Callable[[bytes], Any]
    streams_requests: bool = False
    streams_responses: bool = False

    @property
    def shape(self) -> str:
        """The name of grpc.Channel's method for it."""
        sides = (self.streams_requests, self.streams_responses)
        return "_".join("stream" if streams else "unary" for streams in sides)


def seconds(given: Any, called: str = "timeout") -> float:
    """A time that a caller gave, as `called`. Raises InvalidRequest unless it is above 0."""
    try:
        found = math.nan if isinstance(given, (str, bytes)) else float(given)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not found > 0:
        raise errors.InvalidRequest(
            f"{called}: expected seconds above 0 that a float can hold, found {errors.shown(given)}"
        )
    return found


class Budget:
    """The seconds and retries that an operation may use, counted from now.

    `throttle` is what it shares with the client's other operations. Raises InvalidRequest.
    """

    def __init__(self, timeout: float, retries: int, throttle: Throttle | None = None) -> None:
        self.timeout = seconds(timeout)
        self.retries = retries
        self.throttle = throttle or Throttle()
        self._end = time.monotonic() + self.timeout

    def remaining(self) -> float:
        """Seconds left, not below 0; infinity when there is no deadline."""
        return max(0.0, self._end - time.monotonic())


class Receiver(Protocol):
    """Takes the messages of one answering stream and makes one answer of them."""

    def take(self, message: Any) -> None:
        """One message, in order."""

    def finish(self) -> Any:
        """The stream has ended well: the answer."""


class Call(NamedTuple):
    """One attempt at an RPC.

    `request` is the message, or for a streaming request what makes its messages. `receive` makes
    the receiver of a streaming answer.
    """

    method: Method
    request: Any
    budget: Budget
    receive: Callable[[], Receiver] | None = None


class Sleep(NamedTuple):
    """Let this many seconds pass."""

    seconds: float


class Open(NamedTuple):
    """Begin a call whose answer is a stream of no foreseeable end; gives the stream.

    Its `cancel()` ends it, with either driver, from any thread and without waiting.
    """

    call: Call


class Receive(NamedTuple):
    """Wait for the next message of a stream; gives None when it has ended."""

    stream: Any


class Close:
    """Close the channel."""


Step: TypeAlias = Call | Open | Receive | Sleep | Close
Op: TypeAlias = Generator[Step, Any, T]
"""What returns a T from a blocking client and is awaited for a T from an asyncio one."""


def _step(go_on: Callable[[Any], Step], given: Any) -> Step:
    """What an operation asks for next. Raises StopIteration, with its result, when it is done."""
    try:
        return go_on(given)
    except (TensorError, FrameError) as error:
        raise errors.from_reason(error.reason, error.message) from None


# ---- drivers ----


@dataclass(frozen=True, slots=True)
class Dial:
    """How to reach a service. Raises InvalidRequest for metadata that no call can have."""

    target: str
    credentials: grpc.ChannelCredentials | None
    options: Sequence[tuple[str, Any]]
    metadata: Sequence[tuple[str, str | bytes]]
    token: Token | None = None
    wait_for_ready: bool = False

    def __post_init__(self) -> None:
        given: Sequence[Any] = self.metadata
        for entry in given:
            if not _is_metadata(entry):
                # Not the value, which may be a secret.
                found = entry[0] if isinstance(entry, tuple) and entry else entry
                raise errors.InvalidRequest(
                    "metadata: expected keys of a-z, 0-9, '_', '-' and '.', each with printable "
                    "ASCII text, or with bytes where the key ends in '-bin', "
                    f"found {errors.shown(found)}"
                )

    def call_metadata(self) -> Sequence[tuple[str, str | bytes]] | None:
        """What goes with a call that begins now. Raises what the token's giver raises."""
        found = [*self.metadata]
        if not found or not any(key == "traceparent" for key, _ in found):
            found += trace_metadata()
        if self.token is not None:
            found.append(authorization(self.token))
        return found or None

    def channel(self, module: Any) -> Any:
        """A channel of `grpc` or `grpc.aio`. Raises InvalidRequest for options that none has."""
        try:
            if self.credentials is None:
                return module.insecure_channel(self.target, options=self.options)
            return module.secure_channel(self.target, self.credentials, options=self.options)
        except (TypeError, ValueError, OverflowError) as error:
            raise errors.InvalidRequest(
                f"{self.target}: no channel has these options: {error}"
            ) from None


def _is_metadata(entry: Any) -> bool:
    """gRPC takes it. For a blocking call it says so in its log alone, and asyncio it fails."""
    if not isinstance(entry, (tuple, list)) or len(entry) != 2:
        return False
    key, value = entry
    if not isinstance(key, str) or not _METADATA_KEY.fullmatch(key):
        return False
    if key.endswith("-bin"):
        return isinstance(value, bytes)
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    return isinstance(value, str) and _METADATA_TEXT.fullmatch(value) is not None


_METADATA_KEY = re.compile(r"[a-z0-9_.-]+")
_METADATA_TEXT = re.compile(r"[\x20-\x7e]*")


class Driver:
    """What both drivers share: the channel, opened at the first call, and the errors."""

    module: Any

    def __init__(self, dial: Dial) -> None:
        self.dial = dial
        self.closed = False
        self._lock = threading.Lock()
        self._channel: Any = None
        self._stubs: dict[str, Any] = {}

    def _start(self, call: Call, request: Any) -> Any:
        """The grpc call object of a streaming answer, or what a unary one returns."""
        method = call.method
        with self._lock:
            if self.closed:
                raise errors.ClientClosed("this client is closed")
            if self._channel is None:
                self._channel = self.dial.channel(self.module)
            stub = self._stubs.get(method.path)
            if stub is None:
                self._stubs[method.path] = stub = getattr(self._channel, method.shape)(
                    method.path,
                    request_serializer=write_message,
                    response_deserializer=method.read,
                )
        remaining = call.budget.remaining()
        return stub(
            request,
            # What is longer than decades is past for gRPC, which counts in nanoseconds.
            timeout=None if remaining > 1e9 else remaining,
            metadata=self.dial.call_metadata(),
            wait_for_ready=self.dial.wait_for_ready,
        )

    def _hang_up(self) -> Any:
        with self._lock:
            self.closed = True
            channel, self._channel = self._channel, None
            self._stubs.clear()
        return channel

    def _error(self, error: BaseException) -> errors.VarserveError | None:
        """What the user sees of an exception that a call raised; None for one to let pass."""
        if isinstance(error, errors.VarserveError):
            return error
        if isinstance(error, (TensorError, FrameError)):
            return errors.from_reason(error.reason, error.message)
        if isinstance(error, MemoryError):
            return errors.OutOfMemory("this process has not enough memory for the answer")
        if self.closed:
            return errors.ClientClosed("this client was closed during the call")
        if isinstance(error, grpc.RpcError):
            return errors.from_rpc(error, self.dial.target)
        if isinstance(error, EncodeError):
            return errors.InvalidRequest(f"the request cannot be sent: {error}")
        return None


class Sync(Driver):
    """Runs operations in the calling thread. Any number of threads may share one."""

    module = grpc

    def run(self, op: Op[T]) -> T:
        """The result of an operation. Raises VarserveError."""
        go_on, given = op.send, None
        try:
            while True:
                try:
                    step = _step(go_on, given)
                except StopIteration as stop:
                    return stop.value  # type: ignore[no-any-return]
                try:
                    go_on, given = op.send, self._take(step)
                except Exception as error:
                    go_on, given = op.throw, self._error(error)
                    if given is None:
                        raise
        finally:
            op.close()  # also when what ends it is no failure of the call: Ctrl-C, say
            del given  # a failure, by its traceback, holds this frame

    def _take(self, step: Step) -> Any:
        if isinstance(step, Sleep):
            return time.sleep(step.seconds)
        if isinstance(step, Close):
            channel = self._hang_up()
            return channel and channel.close()
        if isinstance(step, Receive):
            return next(step.stream, None)
        if isinstance(step, Open):
            return self._start(step.call, step.call.request)
        answer = self._start(step, step.request() if step.method.streams_requests else step.request)
        if step.receive is None:
            return answer
        try:
            receiver = step.receive()
            for message in answer:
                receiver.take(message)
            return receiver.finish()
        finally:
            answer.cancel()


class _Upload:
    """The messages of a streaming request: the chunks only when the manifest was accepted.

    The service says so in its initial metadata. grpc.aio, unlike the blocking grpc, loses
    the service's answer when that comes while a message is being sent, and reports INTERNAL.
    """

    def __init__(self, messages: Callable[[], Iterator[Any]]) -> None:
        self._messages = messages
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def messages(self) -> AsyncIterator[Any]:
        messages = self._messages()
        yield next(messages)
        metadata = await (await self.answer).initial_metadata()
        if ACCEPTED_KEY in metadata:
            for message in messages:
                yield message


class Async(Driver):
    """Runs operations as coroutines of one event loop."""

    module = grpc.aio

    async def run(self, op: Op[T]) -> T:
        """The result of an operation. Raises VarserveError."""
        go_on, given = op.send, None
        try:
            while True:
                try:
                    step = _step(go_on, given)
                except StopIteration as stop:
                    return stop.value  # type: ignore[no-any-return]
                try:
                    go_on, given = op.send, await self._take(step)
                except asyncio.CancelledError as error:
                    # Closing the channel cancels its calls, which is not what cancels a task.
                    task = asyncio.current_task()
                    if not self.closed or (task is not None and task.cancelling()):
                        raise
                    go_on, given = op.throw, self._error(error)
                except Exception as error:
                    go_on, given = op.throw, self._error(error)
                    if given is None:
                        raise
        finally:
            op.close()
            del given

    async def _take(self, step: Step) -> Any:
        if isinstance(step, Sleep):
            return await asyncio.sleep(step.seconds)
        if isinstance(step, Close):
            channel = self._hang_up()
            return channel and await channel.close()
        if isinstance(step, Receive):
            message = await step.stream.read()
            return None if message is grpc.aio.EOF else message
        if isinstance(step, Open):
            return self._start(step.call, step.call.request)
        upload = _Upload(step.request) if step.method.streams_requests else None
        answer = self._start(step, upload.messages() if upload else step.request)
        if upload:
            upload.answer.set_result(answer)
        if step.receive is None:
            return await answer
        try:
            receiver = step.receive()
            async for message in answer:
                receiver.take(message)
            return receiver.finish()
        finally:
            answer.cancel()


# ---- handles: objects whose methods are operations ----

D = TypeVar("D", bound=Sync | Async, default=Sync)
D_co = TypeVar("D_co", bound=Sync | Async, default=Sync, covariant=True)


class Handle(Generic[D_co]):
    """An object whose methods are operations on a driver."""

    _driver: Sync | Async

    def _blocking(self, what: str, instead: str) -> Sync:
        if isinstance(self._driver, Sync):
            return self._driver
        raise TypeError(f"{what} would block the event loop: use {instead}")

    def _awaited(self, what: str, instead: str) -> Async:
        if isinstance(self._driver, Async):
            return self._driver
        raise TypeError(f"{what} needs a client of varserve.aio: use {instead}")


if TYPE_CHECKING:

    class operation(Generic[P, T_co]):  # noqa: N801, RUF100
        """A method that returns an operation: runs it, or gives what is to be awaited."""

        def __init__(self, make: Callable[Concatenate[Any, P], Op[T_co]]) -> None: ...
        @overload
        def __get__(self, handle: None, owner: type) -> operation[P, T_co]: ...
        @overload
        def __get__(self, handle: Handle[Sync], owner: type) -> Callable[P, T_co]: ...
        @overload
        def __get__(
            self, handle: Handle[Async], owner: type
        ) -> Callable[P, Coroutine[Any, Any, T_co]]: ...
        def __get__(self, handle: Any, owner: type) -> Any: ...

else:

    def operation(make):
        """A method that returns an operation: runs it, or gives what is to be awaited."""

        @functools.wraps(make)
        def method(self, *args, **kwargs):
            return self._driver.run(make(self, *args, **kwargs))

        return method
