"""What the audit log says of a call: who, from where, what, and what became of it. Never a value.

Owns the lines' fields (docs/access.md describes them) and the moment at which each is written.
Knows gRPC's contexts and commits; the file is the log's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import structlog

from varserve.reasons import Failure
from varserve_service.access.audit import AuditError, AuditLog
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.ports.commits import Changed, Commit, CommitListener
from varserve_service.core.ports.messages import Header
from varserve_service.core.values.summaries import hash_of
from varserve_service.rpc.entry.identity import Context, subject_of

from .requirements import Requirements, names_of

log = structlog.get_logger("varserve.audit")

_DENIALS = {Reason.UNAUTHENTICATED.value, Reason.PERMISSION_DENIED.value}
# Of what a caller sent and nobody checked.
_MAX_NAMES = 100
_MAX_NAME = 200


@dataclass(slots=True, eq=False)
class Record:
    """A call that may leave a line."""

    fields: dict[str, Any]
    writes: bool = False
    told: bool = False
    names: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


# A call's own: gRPC has a task for each.
_record: ContextVar[Record | None] = ContextVar("record", default=None)
_auditing: ContextVar[Auditing | None] = ContextVar("auditing", default=None)


class Auditing:
    """Writes the lines of calls."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log

    @contextmanager
    def recording(
        self, method: str, asked: Requirements, subject: str, context: Context
    ) -> Iterator[Record]:
        """The record of the call that the running task answers."""
        model, variables, function = names_of(asked.needs)
        record = Record(_fields(method, subject, context))
        record.fields["request_id"] = asked.request_id[:_MAX_NAME]
        record.details = {
            key: value[:_MAX_NAME] if isinstance(value, str) else value
            for key, value in asked.details.items()
        }
        record.names = {
            "model": model[:_MAX_NAME],
            "variables": [name[:_MAX_NAME] for name in variables[:_MAX_NAMES]],
            "function": function[:_MAX_NAME],
        }
        _record.set(record)
        _auditing.set(self)
        yield record

    async def ready(self) -> None:
        """Nothing is done while what was done cannot be told. Raises AUDIT_LOG_UNAVAILABLE."""
        if self._log.owed:
            try:
                await asyncio.to_thread(self._log.check)
            except AuditError as error:
                log.error("write refused: the audit log cannot be written", error=str(error))
                raise RequestError(
                    Reason.AUDIT_LOG_UNAVAILABLE,
                    "the audit log cannot be written; nothing was changed by this call",
                ) from None

    async def done(self, record: Record, answer: Any) -> None:
        """A call that was to write has come to its end, maybe without a commit of its own."""
        if record.told:
            return
        details = record.details
        header = getattr(answer, "header", None)
        if details and header is not None:  # the version that was meant, also where none was named
            details = details | {"version": header.version, "epoch": header.epoch}
        await self._write(_line(record.fields, "OK", record.names | details), done=True)

    def cut_off(self, record: Record) -> None:
        """The caller has gone. What has begun on a thread is done, and a commit tells of itself."""
        if record.told:
            return
        line = _line(record.fields, "CANCELLED", record.names | record.details)
        loop = asyncio.get_running_loop()
        writing = loop.run_in_executor(None, partial(self._log.write, line, done=True))
        # What cannot be written is owed: the log refuses the next write until it is.
        writing.add_done_callback(lambda written: written.cancelled() or written.exception())

    async def failed(self, method: str, context: Context, failure: Failure) -> None:
        """A call that has failed leaves a line if it was denied or was to write."""
        record = _record.get()
        if failure.reason not in _DENIALS and (record is None or not record.writes):
            return
        if failure.reason == Reason.AUDIT_LOG_UNAVAILABLE.value:
            return  # the log has it, or nothing was done
        fields = record.fields if record else _fields(method, subject_of(context), context)
        names = record.names | record.details if record else {}
        try:
            await self._write(_line(fields, failure.reason, names), done=False)
        except RequestError as error:
            log.error("refusal not audited", reason=failure.reason, error=error.message)

    async def _write(self, line: dict[str, Any], *, done: bool) -> None:
        try:
            await asyncio.to_thread(self._log.write, line, done=done)
        except AuditError as error:
            raise _unavailable(error) from None

    def on_commit(self, record: Record) -> CommitListener:
        """Tells of the call's commit, on the thread that made it."""

        def tell(header: Header, commit: Commit) -> None:
            record.told = True
            self._commit(record.fields, record.names.get("function", ""), header, commit)

        return tell

    def expired(self, header: Header, commit: Commit) -> None:
        """Tells of a lease that ended by itself."""
        fields = {"subject": "", "peer": "", "method": "LeaseExpired", "request_id": ""}
        self._commit(fields, "", header, commit)

    def _commit(
        self, fields: dict[str, Any], function: str, header: Header, commit: Commit
    ) -> None:
        names = {
            "model": header.model,
            "variables": [each.variable.name for each in commit.changed],
            "function": function,
        }
        line = _line(fields, "OK", names) | {
            "version": header.version,
            "epoch": header.epoch,
            "revision_before": commit.revision - 1,
            "revision_after": commit.revision,
            "changes": [_change(each) for each in commit.changed],
        }
        try:
            self._log.write(line, done=True)
        except AuditError as error:
            raise _unavailable(error, revision=commit.revision) from None


def listener_of(context: Context) -> CommitListener | None:
    """What must be told of the call's commit; None where nothing is audited.

    To be asked on the event loop, in the task that answers the call.
    """
    auditing, record = _auditing.get(), _record.get()
    return auditing.on_commit(record) if auditing and record else None


def _unavailable(error: AuditError, **metadata: object) -> RequestError:
    log.error("not audited", error=str(error), **metadata)
    return RequestError(
        Reason.AUDIT_LOG_UNAVAILABLE,
        "what this call asked for is done, and the audit log does not have it yet: it will be "
        "written before anything else is; ask again with the same request_id",
        done="true",
        **metadata,
    )


def _fields(method: str, subject: str, context: Context) -> dict[str, Any]:
    return {"subject": subject, "peer": context.peer(), "method": method, "request_id": ""}


def _line(fields: dict[str, Any], outcome: str, names: dict[str, Any]) -> dict[str, Any]:
    time = datetime.now(UTC).isoformat(timespec="microseconds")
    return {"time": time, "outcome": outcome} | fields | names


def _change(changed: Changed) -> dict[str, Any]:
    value = changed.value
    return {
        "variable": changed.variable.name,
        "path": changed.variable.path,
        "whole": changed.region is None,
        "dtype": value.dtype,
        "shape": list(value.shape),
        "content_hash": hash_of(value).hex(),
    }
