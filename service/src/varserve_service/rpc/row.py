"""A row of the table of methods: everything that is particular to one RPC.

Knows protobuf's descriptors; knows nothing of how a call is answered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message_factory import GetMessageClass

from varserve import frames
from varserve_service.access.policy import Verb

from .authorization.requirements import Requirements
from .calls.call import RpcCall
from .calls.method import Method
from .messages import translate


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
    _message: Any = field(init=False)
    _unbounded_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        """Find out what every request would ask for again."""
        object.__setattr__(self, "_message", GetMessageClass(self.descriptor.input_type))
        # An element takes a byte at least.
        shortest = min(self.bounds.values(), default=0)
        object.__setattr__(self, "_unbounded_bytes", shortest)

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
        """The request in a message, within its bounds.

        Raises DecodeError, FrameError, RequestError.
        """
        request = self._decoded(data)
        if self.bounds and len(data) > self._unbounded_bytes:
            self._check_bounds(request)
        return request

    def _decoded(self, data: bytes) -> Any:
        if self.opening is None:
            return self._message.FromString(data)
        message = self.opening(data)
        if isinstance(message, frames.ChunkFrame) or not message.HasField("manifest"):
            raise translate.malformed("expected a manifest first, found another message")
        return message.manifest

    def _check_bounds(self, request: Any) -> None:
        for name, most in self.bounds.items():
            count = len(getattr(request, name))
            if count > most:
                raise translate.malformed(f"{name}: expected at most {most}, found {count}")
