"""The audit log's lines: who called, from where, what was named, and the outcome. Never a value.

Owns the lines' fields (docs/access.md describes them) and the moment at which each is written.
Knows calls and commits; the file is the log's.
"""

from __future__ import annotations

import asyncio
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
from varserve_service.rpc.calls.audit_record import AuditRecord
from varserve_service.rpc.calls.call import RpcCall

from .refusal_sampler import RefusalSampler
from .requirements import Requirements

log = structlog.get_logger("varserve.audit")

_DENIALS = {Reason.UNAUTHENTICATED.value, Reason.PERMISSION_DENIED.value}
# Bounds for what a caller sent and nobody has checked.
_MAX_NAMES = 100
_MAX_NAME = 200


class Auditing:
    """Writes the lines of calls."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log
        self._unauthenticated = RefusalSampler(self._sum_up)

    def record(self, call: RpcCall, requirements: Requirements) -> AuditRecord:
        """The record of a call, by what its request names."""
        model, variables, function = requirements.names()
        record = AuditRecord(_fields(call))
        record.fields["request_id"] = requirements.request_id[:_MAX_NAME]
        record.details = {
            key: value[:_MAX_NAME] if isinstance(value, str) else value
            for key, value in requirements.details.items()
        }
        record.names = {
            "model": model[:_MAX_NAME],
            "variables": [name[:_MAX_NAME] for name in variables[:_MAX_NAMES]],
            "function": function[:_MAX_NAME],
        }
        return record

    async def ready(self) -> None:
        """Nothing is changed while earlier lines cannot be written.

        Raises RequestError AUDIT_LOG_UNAVAILABLE.
        """
        if self._log.owed:
            try:
                await asyncio.to_thread(self._log.check)
            except AuditError as error:
                log.error("write refused: the audit log cannot be written", error=str(error))
                raise RequestError(
                    Reason.AUDIT_LOG_UNAVAILABLE,
                    "the audit log cannot be written; nothing was changed by this call",
                ) from None

    async def done(self, record: AuditRecord, response: Any) -> None:
        """A write has succeeded, maybe without a commit of its own."""
        if record.written:
            return
        details = record.details
        header = getattr(response, "header", None)
        if details and header is not None:  # the resolved version, also where none was named
            details = details | {"version": header.version, "epoch": header.epoch}
        await self._write(_line(record.fields, "OK", record.names | details), done=True)

    def cut_off(self, record: AuditRecord) -> None:
        """The caller has gone. What has begun on a thread is done; a commit writes its own line."""
        if record.written:
            return
        self._write_behind(_line(record.fields, "CANCELLED", record.names | record.details))

    async def failed(self, call: RpcCall, failure: Failure) -> None:
        """A failed call leaves a line if it was denied or was to write."""
        record = call.audit
        if failure.reason not in _DENIALS and (record is None or not record.writes):
            return
        if failure.reason == Reason.AUDIT_LOG_UNAVAILABLE.value:
            return  # the log has it, or nothing was done
        if failure.reason == Reason.UNAUTHENTICATED.value and not self._unauthenticated.take():
            return
        fields = record.fields if record else _fields(call)
        names = record.names | record.details if record else {}
        try:
            await self._write(_line(fields, failure.reason, names), done=False)
        except RequestError as error:
            log.error("refusal not audited", reason=failure.reason, error=error.message)

    def _sum_up(self, count: int, seconds: float) -> None:
        fields = {"subject": "", "peer": "", "method": "", "request_id": ""}
        line = _line(fields, Reason.UNAUTHENTICATED.value, {"count": count, "seconds": seconds})
        self._write_behind(line, done=False)

    async def _write(self, line: dict[str, Any], *, done: bool) -> None:
        try:
            await asyncio.to_thread(self._log.write, line, done=done)
        except AuditError as error:
            raise _unavailable(error) from None

    def _write_behind(self, line: dict[str, Any], *, done: bool = True) -> None:
        loop = asyncio.get_running_loop()
        writing = loop.run_in_executor(None, partial(self._log.write, line, done=done))
        # A line of something done is owed: the log refuses the next write until it is written.
        writing.add_done_callback(lambda written: written.cancelled() or written.exception())

    def listener(self, record: AuditRecord) -> CommitListener:
        """Writes the line of the call's commit, on the thread that made it."""

        def on_commit(header: Header, commit: Commit) -> None:
            record.written = True
            self._commit(record.fields, record.names.get("function", ""), header, commit)

        return on_commit

    def expired(self, header: Header, commit: Commit) -> None:
        """Writes the line of a lease that expired."""
        fields = {"subject": "", "peer": "", "method": "LeaseExpired", "request_id": ""}
        self._commit(fields, "", header, commit)

    def _commit(
        self, fields: dict[str, Any], function: str, header: Header, commit: Commit
    ) -> None:
        names = {
            "model": header.model,
            "variables": [changed.variable.name for changed in commit.changed],
            "function": function,
        }
        line = _line(fields, "OK", names) | {
            "version": header.version,
            "epoch": header.epoch,
            "revision_before": commit.revision - 1,
            "revision_after": commit.revision,
            "changes": [_change(changed) for changed in commit.changed],
        }
        try:
            self._log.write(line, done=True)
        except AuditError as error:
            raise _unavailable(error, revision=commit.revision) from None


def _unavailable(error: AuditError, **metadata: object) -> RequestError:
    log.error("not audited", error=str(error), **metadata)
    return RequestError(
        Reason.AUDIT_LOG_UNAVAILABLE,
        "what this call asked for is done, and the audit log does not have it yet: it will be "
        "written before anything else is; ask again with the same request_id",
        done="true",
        **metadata,
    )


def _fields(call: RpcCall) -> dict[str, Any]:
    return {
        "subject": call.subject,
        "peer": call.peer,
        "method": call.method.name,
        "request_id": "",
    }


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
