"""The base of all errors: what each of them has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


class VarserveError(Exception):
    """Base of all errors of varserve.

    reason: name of an ErrorReason, for programs; for a failure that the service did not report
        itself, the name of a gRPC status code or `CLIENT_CLOSED`.
    message: what happened, for people.
    metadata: what the message says, for programs: `variable`, `current_revision`, ...
    from_service: the service gave this answer, to each attempt that it got, and so the failed call
        has changed nothing (unless it is AuditLogUnavailable or AnswerNotKept). When False for a
        failure of a call that was sent, a write may have been done.
    messages: a FunctionMessage for each thing that an inspected function said before it failed.
    """

    reason: str = "UNKNOWN"
    # Of a connection that failed: looks at what is there for some seconds, and gives a message that
    # tells more.
    _look: Callable[[float], str] | None = None

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        from_service: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.reason
        self.metadata: dict[str, str] = dict(metadata or {})
        self.from_service = from_service
        self.messages: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return self.message

    def _revision(self, key: str) -> int | None:
        text = self.metadata.get(key, "")
        return int(text) if text.isdecimal() else None

    @property
    def model(self) -> str | None:
        """Name of the model, where the error is about one."""
        return self.metadata.get("model")

    @property
    def variable(self) -> str | None:
        """Name of the variable, where the error is about one."""
        return self.metadata.get("variable")

    @property
    def function(self) -> str | None:
        """Name of the function, where the error is about one."""
        return self.metadata.get("function")
