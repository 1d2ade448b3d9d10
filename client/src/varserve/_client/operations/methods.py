"""The RPCs of the contract, by name, and what each operation is about."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from google.protobuf.message_factory import GetMessageClass

from varserve._client import errors, wording
from varserve._client.transport.calls import Budget, Method
from varserve._client.values import specs
from varserve._client.values.options import PRESENT, ReadOptions
from varserve._client.values.seen import Seen
from varserve._client.values.specs import StateHeader, TransferLimits
from varserve.v1 import model_pb2, model_service_pb2

if TYPE_CHECKING:
    from varserve._client.transport.lane import Lane

_SMALL = ("ReadVariable", "AssignVariable", "RunFunction")
_SERVICE = model_service_pb2.DESCRIPTOR.services_by_name["ModelService"]


class Scope(NamedTuple):
    """A model, by the name that it is asked for with, and what one operation on it may use.

    `seen`: what its client has seen of states. `limits`: of bodies and messages, as the service
    said.
    """

    model: str
    budget: Budget
    seen: Seen
    limits: TransferLimits = TransferLimits()

    @property
    def lane(self) -> Lane | None:
        """The way for large values; None: through gRPC."""
        use, limits = self.budget.lane, self.limits
        if use is None or not (limits.lane_socket or limits.lane_port or use.wanted is not True):
            return None
        from varserve._client.transport.lane import lane_to  # for those who have one

        return lane_to(limits.lane_socket, limits.lane_port, use)

    def header(self, message: model_pb2.StateHeader) -> StateHeader:
        """The header of an answer, which the client has seen from now on."""
        header = specs.header(message)
        self.seen.learn(self.model, header)
        return header

    def consistency(self, options: ReadOptions = PRESENT) -> model_pb2.Consistency | None:
        """How recent the state must be for a call; None: as it is there. Raises InvalidRequest."""
        if not 0 <= options.min_revision < 1 << 63:
            raise errors.InvalidRequest(
                "min_revision: expected an integer from 0 to 2^63 - 1, found "
                f"{wording.shown(options.min_revision)}"
            )
        epoch = options.epoch if options.min_revision else ""
        return self.seen.consistency(
            self.model, options.min_revision, epoch, linearizable=options.linearizable
        )


def method(
    name: str, read: Callable[[bytes], Any] | None = None, service: Any = _SERVICE
) -> Method:
    """A method of a service's descriptor. `read`: reads its answers; None: the generated class."""
    descriptor = service.methods_by_name[name]
    return Method(
        f"/{service.full_name}/{name}",
        name,
        read or GetMessageClass(descriptor.output_type).FromString,
        descriptor.client_streaming,
        descriptor.server_streaming,
        name in _SMALL,
    )
