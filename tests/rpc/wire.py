"""Calls as bytes: for requests that no generated class would write, and to see what comes back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass

from varserve.reasons import DETAILS_KEY, STATUS_OF_REASON, Failure, read_details
from varserve.v1 import model_service_pb2 as pb
from varserve_service.rpc.methods import METHODS as TABLE

ROWS = {row.method.name: row for row in TABLE}
SERVICE = pb.DESCRIPTOR.services_by_name["ModelService"]
METHODS = {method.name: method for method in SERVICE.methods}
REQUESTS = {name: GetMessageClass(method.input_type) for name, method in METHODS.items()}


@dataclass(frozen=True)
class Outcome:
    """What a call came to: its status code, and the failure or the response messages."""

    code: grpc.StatusCode
    text: str = ""
    failure: Failure | None = None
    responses: tuple[bytes, ...] = ()

    @property
    def reason(self) -> str:
        """The reason of the failure; the bare code where there is none."""
        return self.failure.reason if self.failure else self.code.name

    def check(self) -> None:
        """A failure has one reason, in the details and with its own code, and tells of itself."""
        if self.code is grpc.StatusCode.OK:
            return
        assert self.failure is not None, f"{self.code} without a reason: {self.text}"
        assert self.failure.reason in STATUS_OF_REASON
        assert self.failure.status is self.code
        assert self.failure.message == self.text
        assert self.text


def outcome_of(error: Any) -> Outcome:
    """The outcome of a failed call, from the error of either kind of channel."""
    details = [value for key, value in error.trailing_metadata() or () if key == DETAILS_KEY]
    failure = read_details(details[0]) if len(details) == 1 else None
    return Outcome(error.code(), error.details(), failure)


def calls_of(channel: Any) -> dict[str, Any]:
    """What makes each call with bytes, on a channel of either kind."""

    def make(method: Any) -> Any:
        sides = (method.client_streaming, method.server_streaming)
        kind = "_".join("stream" if streaming else "unary" for streaming in sides)
        return getattr(channel, kind)(f"/{SERVICE.full_name}/{method.name}")

    return {name: make(method) for name, method in METHODS.items()}


class Wire:
    """A channel on which requests and responses are bytes."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._calls = calls_of(channel)

    def send(
        self,
        method: str,
        messages: Iterable[bytes],
        timeout: float = 30,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> Outcome:
        """Make one call; of a unary request, the first message counts."""
        request: Any = iter(messages)
        request = request if METHODS[method].client_streaming else next(request)
        try:
            found = self._calls[method](request, timeout=timeout, metadata=metadata)
            responses = tuple(found) if METHODS[method].server_streaming else (found,)
        except grpc.RpcError as error:
            return outcome_of(error)
        return Outcome(grpc.StatusCode.OK, responses=responses)

    def ask(self, method: str, *requests: Any) -> Outcome:
        """Make one call with request messages."""
        return self.send(method, [request.SerializeToString() for request in requests])


class AsyncWire:
    """The same for calls by the thousand."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._calls = calls_of(channel)

    async def send(self, method: str, messages: Iterable[bytes], timeout: float = 60) -> Outcome:
        """Make one call; of a unary request, the first message counts."""
        messages = list(messages)
        outcome = await self._send(method, messages, timeout)
        # grpc.aio loses a refusal that comes while a further message is being sent: ask again.
        while outcome.text == "Internal error from Core" and len(messages) > 1:
            outcome = await self._send(method, messages, timeout)
        return outcome

    async def _send(self, method: str, messages: list[bytes], timeout: float) -> Outcome:
        request: Any = iter(messages)
        request = request if METHODS[method].client_streaming else next(request)
        try:
            call = self._calls[method](request, timeout=timeout)
            if METHODS[method].server_streaming:
                responses = tuple([response async for response in call])
            else:
                responses = (await call,)
        except grpc.aio.AioRpcError as error:
            return outcome_of(error)
        return Outcome(grpc.StatusCode.OK, responses=responses)


@contextmanager
def connected(address: str, **options: int) -> Iterator[Wire]:
    """A Wire to an address; gRPC options by their names after `grpc.`."""
    pairs = [(f"grpc.{name}", value) for name, value in options.items()]
    with grpc.insecure_channel(address, options=pairs) as channel:
        yield Wire(channel)
