"""The RPCs of the contract, by name, and what each operation is about."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from google.protobuf.message_factory import GetMessageClass

from varserve._client.transport.calls import Budget, Method
from varserve.v1 import model_service_pb2

if TYPE_CHECKING:
    from varserve._client.transport.lane import Lane

_SERVICE = model_service_pb2.DESCRIPTOR.services_by_name["ModelService"]


class Scope(NamedTuple):
    """A model, by the name that it is asked for with, and what one operation on it may use.

    `chunk_bytes`: the size of the chunks of a body, and `message_bytes`: what one message may have,
    as the service said; 0 where it has not been asked. `lane_socket`, `lane_port`: where large
    values go beside gRPC.
    """

    model: str
    budget: Budget
    chunk_bytes: int = 0
    message_bytes: int = 0
    lane_socket: str = ""
    lane_port: int = 0

    @property
    def lane(self) -> Lane | None:
        """The way for large values; None: through gRPC."""
        use = self.budget.lane
        if use is None or not (self.lane_socket or self.lane_port or use.wanted is not True):
            return None
        from varserve._client.transport.lane import lane_to  # for those who have one

        return lane_to(self.lane_socket, self.lane_port, use)


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
