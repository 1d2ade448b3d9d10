"""One description for each RPC that follows, explains and undoes, and how its answer is read.

Owns the wire form of commits and events. Knows the calls; knows no handles.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from varserve import tensors
from varserve._client.errors import OutOfRange
from varserve._client.operations.calls import Conditions, attempt, method, read_variables
from varserve._client.operations.requests import build
from varserve._client.transport.drivers import Budget, Call, Op
from varserve._client.values import specs
from varserve._client.values.regions import Part
from varserve._client.values.results import (
    Change,
    Commit,
    CommitInfo,
    CommitKind,
    Commits,
    Event,
    ListedCommit,
)
from varserve.tensors import Array
from varserve.v1 import history_pb2 as pb

WATCH_VARIABLES = method("WatchVariables")
LIST_COMMITS = method("ListCommits")
REVERT_COMMITS = method("RevertCommits")
RENEW_LEASE = method("RenewLease")
REVOKE_LEASE = method("RevokeLease")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def patterns_of(patterns: str | Iterable[str]) -> list[str]:
    """One pattern or several, as a list."""
    return [patterns] if isinstance(patterns, str) else list(patterns)


def watch_request(
    model: str,
    after_revision: int | None,
    epoch: str,
    patterns: str | Iterable[str],
    values: bool,
    previous: bool,
) -> pb.WatchVariablesRequest:
    """The request of a watch."""
    return build(
        pb.WatchVariablesRequest,
        model=model,
        after_revision=after_revision,
        epoch=epoch,
        patterns=patterns_of(patterns),
        values=values,
        previous_values=previous,
    )


def list_commits(
    model: str, limit: int, before: int | None, patterns: Sequence[str], budget: Budget
) -> Op[Commits]:
    """ListCommits."""
    request = build(
        pb.ListCommitsRequest,
        model=model,
        before_revision=before,
        patterns=patterns,
        max_commits=limit,
    )
    reply = yield from attempt(Call(LIST_COMMITS, request, budget))
    commits = [
        ListedCommit(_info(each.info), tuple(each.variables), each.variable_count, each.byte_length)
        for each in reply.commits
    ]
    return Commits(specs.header(reply.header), commits, reply.oldest_revision)


def revert_commits(
    model: str, revision: int, variables: Sequence[str], budget: Budget, conditions: Conditions
) -> Op[Commit]:
    """RevertCommits."""
    request = build(
        pb.RevertCommitsRequest,
        model=model,
        to_revision=revision,
        variables=variables,
        **conditions.fields(),
    )
    call = Call(REVERT_COMMITS, request, budget)
    reply = yield from attempt(call, repeatable=bool(conditions.request_id))
    return Commit(specs.header(reply.header))


def renew_lease(model: str, lease: int, epoch: str, budget: Budget) -> Op[float]:
    """RenewLease: the seconds that it lasts from now on."""
    request = build(pb.RenewLeaseRequest, model=model, lease=lease, epoch=epoch)
    reply = yield from attempt(Call(RENEW_LEASE, request, budget))
    seconds: float = reply.seconds
    return seconds


def revoke_lease(model: str, lease: int, epoch: str, keep: bool, budget: Budget) -> Op[Commit]:
    """RevokeLease."""
    request = build(pb.RevokeLeaseRequest, model=model, lease=lease, epoch=epoch, keep=keep)
    # Not again: what was revoked is not found, and that is no news of what became of the values.
    reply = yield from attempt(Call(REVOKE_LEASE, request, budget), repeatable=False)
    return Commit(specs.header(reply.header))


def _info(info: pb.CommitInfo) -> CommitInfo:
    name = pb.CommitKind.Name(info.kind) if info.kind in pb.CommitKind.values() else ""
    kind = name.removeprefix("COMMIT_KIND_").lower()
    return CommitInfo(
        revision=info.revision,
        time=_EPOCH + timedelta(microseconds=info.time_unix_nanos // 1000),
        kind=CommitKind(kind) if kind else CommitKind.UNSPECIFIED,
        subject=info.subject,
        message=info.message,
        request_id=info.request_id,
    )


# ---- events ----


def event(
    message: pb.WatchVariablesResponse,
    changes: Iterable[pb.VariableChange],
    wish: pb.WatchVariablesRequest,
    chunk_bytes: int,
    budget: Budget,
) -> Op[Event]:
    """The event of a commit's messages; values that did not fit into them are read."""
    header = specs.header(message.header)
    found = []
    for change in changes:
        value = yield from _value(
            change, "value", wish.values, wish.model, header, header.revision, chunk_bytes, budget
        )
        previous = None
        if change.HasField("previous_tensor"):
            previous = yield from _value(
                change,
                "previous",
                wish.previous_values,
                wish.model,
                header,
                header.revision - 1,
                chunk_bytes,
                budget,
            )
        found.append(
            Change(
                variable=change.variable,
                region=_index(change),
                value=value,
                previous=previous,
                shape=tuple(change.tensor.shape),
                nbytes=change.tensor.byte_length,
            )
        )
    return Event(header, _info(message.commit), tuple(found))


def _value(
    change: pb.VariableChange,
    field: str,
    wanted: bool,
    model: str,
    header: specs.StateHeader,
    revision: int,
    chunk_bytes: int,
    budget: Budget,
) -> Op[Array | None]:
    if not wanted:
        return None
    if change.HasField(field):
        return tensors.from_tensor(getattr(change, field))
    part = Part(None, change.region if change.HasField("region") else None)
    try:
        snapshot = yield from read_variables(
            model,
            {change.variable: (change.variable, part)},
            chunk_bytes,
            budget,
            at_revision=revision,
            epoch=header.epoch,
        )
    except OutOfRange:
        return None
    return snapshot[change.variable]


def _index(change: pb.VariableChange) -> Any:
    part = change.region.WhichOneof("part")
    if part == "rows":
        return np.array(change.region.rows.indices, np.int64)
    if part == "slices":
        return tuple(
            slice(each.start, each.stop if each.HasField("stop") else None, each.step or 1)
            for each in change.region.slices.dimensions
        )
    return None
