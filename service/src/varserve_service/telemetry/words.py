"""What telemetry needs to know of a call: the shape of what rpc passes to its observers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Code(Protocol):
    """One of gRPC's status codes."""

    @property
    def name(self) -> str: ...
    @property
    def value(self) -> tuple[int, str]: ...


class Method(Protocol):
    """An RPC. Comes from the contract, never from a client; hashable."""

    @property
    def service(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...


class Call(Protocol):
    """One call, as far as it is known; see rpc."""

    method: Method
    metadata: Sequence[tuple[str, str | bytes]]
    trace_id: str
    model: str
    version: int | None
    revision: int | None
    request_id: str
    read_bytes: int
    seconds: float
    code: Code
    reason: str
