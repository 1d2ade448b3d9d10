"""Commits and events as messages.

Knows the contract and the core's types; knows no calls.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from varserve import tensors
from varserve.v1 import history_pb2, tensor_pb2
from varserve_service.core.commit.watchers import ChangeEvent, Event, EventValue
from varserve_service.core.model.timeline import Page
from varserve_service.core.ports.commits import CommitKind, CommitRecord
from varserve_service.core.ports.messages import Header

from . import translate

# How many of its variables a listed commit names.
MAX_NAMES = 100

_KINDS = {
    CommitKind.ASSIGN: history_pb2.COMMIT_KIND_ASSIGN,
    CommitKind.RUN: history_pb2.COMMIT_KIND_RUN,
    CommitKind.REVERT: history_pb2.COMMIT_KIND_REVERT,
    CommitKind.EXPIRE: history_pb2.COMMIT_KIND_EXPIRE,
}


def _info(commit: CommitRecord | Event, request_id: str) -> history_pb2.CommitInfo:
    return history_pb2.CommitInfo(
        revision=commit.revision,
        time_unix_nanos=commit.time,
        kind=_KINDS[commit.kind],
        subject=commit.origin.subject,
        message=commit.origin.message,
        request_id=request_id,
    )


def page(
    commits: Page, labels: Mapping[str, str], max_bytes: int
) -> history_pb2.ListCommitsResponse:
    """A ListCommitsResponse of as many of the commits, at least one, as fit into one message.

    It tells of the variables that have a label.
    """
    response = history_pb2.ListCommitsResponse(
        header=translate.header(commits.header),
        oldest_revision=commits.oldest,
        history_bytes=commits.max_bytes,
    )
    room = max_bytes
    for commit in commits.commits:
        writes = [write for write in commit.writes if write.path in labels]
        entry = history_pb2.CommitEntry(
            info=_info(commit, commit.request_id),
            variables=[labels[write.path] for write in writes[:MAX_NAMES]],
            variable_count=len(writes),
            byte_length=sum(write.nbytes for write in writes),
        )
        room -= entry.ByteSize()
        if room < 0 and response.commits:
            break
        response.commits.append(entry)
    return response


def bookmark(header: Header, revision: int) -> history_pb2.WatchVariablesResponse:
    """Says that all commits up to a revision have been sent."""
    return history_pb2.WatchVariablesResponse(
        header=translate.header(replace(header, revision=revision))
    )


@dataclass(frozen=True, slots=True)
class WatchFilter:
    """What a watch selects of each commit. `paths` None: all variables."""

    paths: frozenset[str] | None
    values: bool
    previous: bool


def event_messages(
    event: Event, wanted: WatchFilter, header: Header, labels: Mapping[str, str], max_bytes: int
) -> list[bytes]:
    """The messages of one commit; none when it changed nothing that is wanted.

    `max_bytes`: what the changes in one message may take.
    """
    changes = [
        _change(change, wanted, labels, max_bytes)
        for change in event.changes
        if wanted.paths is None or change.variable.path in wanted.paths
    ]
    if not changes:
        return []
    response = bookmark(header, event.revision)
    response.commit.CopyFrom(_info(event, event.request_id))
    messages = []
    groups = list(_grouped(changes, max_bytes))
    for number, group in enumerate(groups):
        response.ClearField("changes")
        response.changes.extend(group)
        response.more = number + 1 < len(groups)
        messages.append(response.SerializeToString())
    return messages


def _grouped(
    changes: Collection[history_pb2.VariableChange], max_bytes: int
) -> Iterator[list[history_pb2.VariableChange]]:
    group: list[history_pb2.VariableChange] = []
    room = max_bytes
    for change in changes:
        size = change.ByteSize() + 8  # and its own tag and length
        if size > room and group:
            yield group
            group, room = [], max_bytes
        group.append(change)
        room -= size
    yield group


def _change(
    change: ChangeEvent, wanted: WatchFilter, labels: Mapping[str, str], max_bytes: int
) -> history_pb2.VariableChange:
    message = history_pb2.VariableChange(
        variable=labels[change.variable.path], tensor=_header(change.value)
    )
    if change.previous is not None:
        message.previous_tensor.CopyFrom(_header(change.previous))
    if change.region is not None:
        region = translate.region_message(change.region)
        if region.ByteSize() > max_bytes // 2:
            return message
        message.region.CopyFrom(region)
    room = max_bytes - message.ByteSize()
    for field, event_value, requested in (
        ("value", change.value, wanted.values),
        ("previous", change.previous, wanted.previous),
    ):
        if (
            requested
            and event_value is not None
            and event_value.value is not None
            and event_value.nbytes < room - 512
        ):
            getattr(message, field).CopyFrom(translate.tensor(event_value.value))
            room -= event_value.nbytes + 512
    return message


def _header(event_value: EventValue) -> tensor_pb2.TensorHeader:
    return tensor_pb2.TensorHeader(
        dtype=tensors.wire_dtype(event_value.dtype),
        shape=event_value.shape,
        byte_length=event_value.nbytes,
    )
