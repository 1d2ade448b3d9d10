"""What identifies an RPC: its service, name and kind, and the verb that limits and policies use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from varserve_service.access.policy import Verb


@dataclass(frozen=True, slots=True, eq=False)
class Method:
    """An RPC in the words of gRPC's own dashboards. `kind` is unary, client_stream, ...

    `verb` is None for what is no method of the service. `always_admitted`: no limit refuses a call.
    """

    service: str
    name: str
    kind: str
    verb: Verb | None
    always_admitted: bool = False

    @classmethod
    def of(cls, descriptor: Any, verb: Verb, *, always_admitted: bool = False) -> Method:
        """The method of a protobuf descriptor."""
        kind = {
            (False, False): "unary",
            (True, False): "client_stream",
            (False, True): "server_stream",
            (True, True): "bidi_stream",
        }[descriptor.client_streaming, descriptor.server_streaming]
        return cls(
            descriptor.containing_service.full_name, descriptor.name, kind, verb, always_admitted
        )

    @property
    def full_name(self) -> str:
        """`package.Service.Name`."""
        return f"{self.service}.{self.name}"


UNKNOWN = Method("unknown", "unknown", "unary", None)
"""Every method that the service does not have, whatever name a client uses."""
