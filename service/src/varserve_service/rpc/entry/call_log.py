"""One line in the log for each call: what, to whom, how long, how it ended. Never a value."""

from __future__ import annotations

import logging

import structlog

from .observing import Call, CallObserver

log = structlog.get_logger("varserve.calls")
_stdlib = logging.getLogger("varserve.calls")


class CallLog(CallObserver):
    """Calls are logged at `level`, refused ones at INFO if that is less."""

    def __init__(self, level: str) -> None:
        self._level = logging.getLevelNamesMapping()[level.upper()]

    def ended(self, call: Call) -> None:
        """Write the line."""
        level = max(self._level, logging.INFO) if call.reason else self._level
        if not _stdlib.isEnabledFor(level):
            return
        found = {
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
            **{key: value for key, value in found.items() if value not in ("", None)},
        )
