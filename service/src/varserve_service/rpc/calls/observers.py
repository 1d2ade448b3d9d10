"""Who is told of calls: counts, traces, logs.

Owns when an observer is told, and that one that fails breaks no call. What an observer does with a
call is its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import structlog

if TYPE_CHECKING:
    from .call import RpcCall

log = structlog.get_logger("varserve.rpc")

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_NO_TRACE = "0" * 32


class CallObserver(Protocol):
    """Is told of every call, on the event loop: it must be quick and must not wait.

    A method that a subclass does not define costs nothing.
    """

    def started(self, call: RpcCall) -> None:
        """A call has begun; `method`, `metadata`, `started_at` and `trace_id` are known."""
        return

    def received(self, call: RpcCall) -> None:
        """A request message has arrived."""
        return

    def sent(self, call: RpcCall) -> None:
        """A response message is on its way to the client."""
        return

    def ended(self, call: RpcCall) -> None:
        """The call was answered, refused or cancelled; everything is known."""
        return


class Observers:
    """All observers of the calls of one service."""

    def __init__(self, observers: Sequence[CallObserver]) -> None:
        self._callbacks = {
            event: [
                getattr(observer, event)
                for observer in observers
                if getattr(type(observer), event, None) is not getattr(CallObserver, event)
            ]
            for event in ("started", "received", "sent", "ended")
        }

    def tell(self, event: str, call: RpcCall) -> None:
        """Call this method of every observer."""
        for callback in self._callbacks[event]:
            try:
                callback(call)
            except Exception:
                # An observer must not break what it observes.
                log.exception("an observer of calls failed", at=event)


def trace_id_of(metadata: Sequence[tuple[str, str | bytes]]) -> str:
    """The trace id in W3C's `traceparent` header; empty where there is no valid one."""
    for key, value in metadata:
        if key == "traceparent" and isinstance(value, str):
            match = _TRACEPARENT.fullmatch(value)
            return match[1] if match and match[1] != _NO_TRACE else ""
    return ""
