"""The history, and commits as they happen: how they are asked for and read."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np

from varserve import tensors
from varserve._client.errors import OutOfRange
from varserve._client.transport.attempts import attempt
from varserve._client.transport.calls import Call, Op
from varserve._client.values import specs
from varserve._client.values.options import ReadOptions
from varserve._client.values.regions import Part
from varserve._client.values.results import (
    Change,
    CommitInfo,
    CommitKind,
    Commits,
    Event,
    ListedCommit,
)
from varserve.tensors import Array
from varserve.v1 import history_pb2 as pb

from .methods import Scope, method
from .reads import Read, read_variables
from .requests import build

WATCH_VARIABLES = method("WatchVariables")
LIST_COMMITS = method("ListCommits")

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def patterns_of(patterns: str | Iterable[str]) -> list[str]:
    """One pattern or several, as a list."""
    return [patterns] if isinstance(patterns, str) else list(patterns)


def list_commits(
    scope: Scope, patterns: str | Iterable[str], limit: int, before: int | None
) -> Op[Commits]:
    """ListCommits."""
    request = build(
        pb.ListCommitsRequest,
        model=scope.model,
        before_revision=before,
        patterns=patterns_of(patterns),
        max_commits=limit,
        consistency=scope.consistency(),
    )
    reply = yield from attempt(Call(LIST_COMMITS, request, scope.budget))
    commits = [
        ListedCommit(_info(each.info), tuple(each.variables), each.variable_count, each.byte_length)
        for each in reply.commits
    ]
    return Commits(scope.header(reply.header), commits, reply.oldest_revision, reply.history_bytes)


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


def event(
    scope: Scope,
    request: pb.WatchVariablesRequest,
    message: pb.WatchVariablesResponse,
    changes: Iterable[pb.VariableChange],
) -> Op[Event]:
    """The event of a commit's messages; values that did not fit into them are read."""
    header = scope.header(message.header)
    told = []
    for change in changes:
        value = previous = None
        if request.values:
            value = yield from _value(scope, change, "value", header, header.revision)
        if request.previous_values and change.HasField("previous_tensor"):
            previous = yield from _value(scope, change, "previous", header, header.revision - 1)
        told.append(
            Change(
                variable=change.variable,
                region=_index(change),
                value=value,
                previous=previous,
                shape=tuple(change.tensor.shape),
                nbytes=change.tensor.byte_length,
            )
        )
    return Event(header, _info(message.commit), tuple(told))


def _info(info: pb.CommitInfo) -> CommitInfo:
    return CommitInfo(
        revision=info.revision,
        time=_EPOCH + timedelta(microseconds=info.time_unix_nanos // 1000),
        kind=specs.member(CommitKind, "COMMIT_KIND_", pb.CommitKind, info.kind),
        subject=info.subject,
        message=info.message,
        request_id=info.request_id,
    )


def _value(
    scope: Scope, change: pb.VariableChange, field: str, header: specs.StateHeader, revision: int
) -> Op[Array | None]:
    """The value in a field of a change, or read at its revision; None when it is not kept."""
    if change.HasField(field):
        return tensors.from_tensor(getattr(change, field))
    read = Read(change.variable, Part(None, change.region if change.HasField("region") else None))
    options = ReadOptions(revision, header.epoch)
    try:
        snapshot = yield from read_variables(scope, {change.variable: read}, options)
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
