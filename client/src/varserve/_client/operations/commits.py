"""The history, and commits as they happen: how they are asked for and read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta, timezone
from functools import cached_property
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


class WatchMessage:
    """A message of a watch. Each part of it is made once, for all watches that it is for."""

    def __init__(self, message: pb.WatchVariablesResponse) -> None:
        self.message = message
        self._whole: dict[tuple[bool, bool], Event | None] = {}

    @classmethod
    def read(cls, data: bytes) -> WatchMessage:
        """The message in its encoded form."""
        return cls(pb.WatchVariablesResponse.FromString(data))

    @property
    def more(self) -> bool:
        """The next message continues the changes of the same commit."""
        more: bool = self.message.more
        return more

    @cached_property
    def header(self) -> specs.StateHeader:
        """Up to which revision the watch has come."""
        return specs.header(self.message.header)

    @cached_property
    def info(self) -> CommitInfo | None:
        """The commit; None for a bookmark."""
        return _info(self.message.commit) if self.message.HasField("commit") else None

    @cached_property
    def changes(self) -> list[_ChangeMessage]:
        """What the message tells of variables."""
        return [_ChangeMessage(each) for each in self.message.changes]

    @cached_property
    def _event(self) -> Event:
        assert self.info is not None
        changes = (change.told(change.value, change.previous) for change in self.changes)
        return Event(self.header, self.info, tuple(changes))

    def whole(self, request: pb.WatchVariablesRequest) -> Event | None:
        """The event of a commit of which all that a watch asks for is here; else None."""
        key = request.values, request.previous_values
        if key not in self._whole:
            lacks = self.more or any(change.lacks(request) for change in self.changes)
            self._whole[key] = None if lacks else self._event
        return self._whole[key]


class _ChangeMessage:
    """A change in a message: what does not depend on the watch that it is for."""

    def __init__(self, change: pb.VariableChange) -> None:
        self.message = change
        self.variable = change.variable
        self.region = _index(change)
        self.shape = tuple(change.tensor.shape)
        self.nbytes = change.tensor.byte_length
        self.previous_nbytes = change.previous_tensor.byte_length
        self.has_previous = change.HasField("previous_tensor")
        self.value = self._array("value")
        self.previous = self._array("previous")

    def lacks_value(self, request: pb.WatchVariablesRequest) -> bool:
        """Whether the value is still to be read."""
        return self.value is None and request.values

    def lacks_previous(self, request: pb.WatchVariablesRequest) -> bool:
        """Whether the value before is still to be read."""
        return self.previous is None and self.has_previous and request.previous_values

    def lacks(self, request: pb.WatchVariablesRequest) -> bool:
        """Whether something is still to be read."""
        return self.lacks_value(request) or self.lacks_previous(request)

    def told(self, value: Array | None, previous: Array | None) -> Change:
        """What a watch is told, with these values. They are shared."""
        for array in (value, previous, self.region):
            if isinstance(array, np.ndarray):
                array.flags.writeable = False
        return Change(self.variable, self.region, value, previous, self.shape, self.nbytes)

    def _array(self, field: str) -> Array | None:
        return tensors.from_tensor(getattr(self.message, field)) if self.has(field) else None

    def has(self, field: str) -> bool:
        """Whether the value in a field came with the message."""
        has: bool = self.message.HasField(field)
        return has


WATCH_VARIABLES = method("WatchVariables", WatchMessage.read)
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
    reading: Callable[[int], Scope],
    request: pb.WatchVariablesRequest,
    messages: Sequence[WatchMessage],
    info: CommitInfo,
) -> Op[Event]:
    """The event of a commit's messages, where it is not in one of them alone.

    Values that did not fit into them are read; `reading` gives the scope for their bytes.
    """
    changes = [change for message in messages for change in message.changes]
    header = messages[-1].header
    scope = reading(_nbytes(changes))
    told = []
    for change in changes:
        value, previous = change.value, change.previous
        if change.lacks_value(request):
            value = yield from _read(scope, change, header.revision, header.epoch)
        if change.lacks_previous(request):
            previous = yield from _read(scope, change, header.revision - 1, header.epoch)
        told.append(change.told(value, previous))
    return Event(header, info, tuple(told))


def _nbytes(changes: Iterable[_ChangeMessage]) -> int:
    return sum(change.nbytes + change.previous_nbytes for change in changes)


def _read(scope: Scope, change: _ChangeMessage, revision: int, epoch: str) -> Op[Array | None]:
    """The value of a change, read at its revision; None when it is not kept."""
    message = change.message
    read = Read(change.variable, Part(None, message.region if change.has("region") else None))
    try:
        snapshot = yield from read_variables(
            scope, {change.variable: read}, ReadOptions(revision, epoch)
        )
    except OutOfRange:
        return None
    return snapshot[change.variable]


def _info(info: pb.CommitInfo) -> CommitInfo:
    return CommitInfo(
        revision=info.revision,
        time=_EPOCH + timedelta(microseconds=info.time_unix_nanos // 1000),
        kind=specs.member(CommitKind, "COMMIT_KIND_", pb.CommitKind, info.kind),
        subject=info.subject,
        message=info.message,
        request_id=info.request_id,
    )


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
