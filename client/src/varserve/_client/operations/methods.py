"""The RPCs of the contract, by name, and what each operation is about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from google.protobuf.message_factory import GetMessageClass

from varserve._client.transport.calls import Budget, Method
from varserve.v1 import model_service_pb2

_SERVICE = model_service_pb2.DESCRIPTOR.services_by_name["ModelService"]


class Scope(NamedTuple):
    """A model, by the name that it is asked for with, and what one operation on it may use.

    `chunk_bytes`: the size of the chunks of a body, and `message_bytes`: what one message may have,
    as the service said; 0 where it has not been asked. `lane_socket`: where it hands memory over.
    """

    model: str
    budget: Budget
    chunk_bytes: int = 0
    message_bytes: int = 0
    lane_socket: str = ""

    @property
    def lane(self) -> str:
        """Path of the socket on which memory is handed over; empty where it is not."""
        if not self.budget.lane or not (self.lane_socket or isinstance(self.budget.lane, str)):
            return ""
        from varserve._client.transport.lane import usable

        return usable(self.lane_socket, self.budget.lane)


def method(
    name: str, read: Callable[[bytes], Any] | None = None, service: Any = _SERVICE
) -> Method:
    """A method of a service's descriptor. `read`: reads its answers; None: the generated class."""
    descriptor = service.methods_by_name[name]
    return Method(
        f"/{service.full_name}/{name}",
        read or GetMessageClass(descriptor.output_type).FromString,
        descriptor.client_streaming,
        descriptor.server_streaming,
    )
