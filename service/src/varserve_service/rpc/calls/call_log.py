"""One log line for each call: method, model, duration and outcome. Never a value."""

from __future__ import annotations

import logging

import grpc
import structlog

from .call import RpcCall
from .observers import CallObserver

log = structlog.get_logger("varserve.calls")
_stdlib = logging.getLogger("varserve.calls")


class CallLog(CallObserver):
    """Logs calls at `level`, and refused ones at INFO at least.

    A conditional write that lost a race is no more than a call: its caller reads and tries again.
    """

    def __init__(self, level: str) -> None:
        self._level = logging.getLevelNamesMapping()[level.upper()]

    def ended(self, call: RpcCall) -> None:
        """Write the line."""
        refused = call.reason and call.code is not grpc.StatusCode.ABORTED
        level = max(self._level, logging.INFO) if refused else self._level
        if not _stdlib.isEnabledFor(level):
            return
        fields = {
            "method": call.method.name,
            "model": call.model,
            "version": call.version,
            "revision": call.revision,
            "code": call.code.name,
            "reason": call.reason,
            "subject": call.subject,
        }
        log.log(
            level,
            "call",
            seconds=round(call.seconds, 6),
            **{key: value for key, value in fields.items() if value not in ("", None)},
        )
