"""Commits as rows of the log, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from varserve_service.core.arrays.patches import Array
from varserve_service.core.errors import JournalError
from varserve_service.core.ports.commits import CommitKind, Origin
from varserve_service.core.ports.journal import Entry, KeptChange, KeptCommit
from varserve_service.core.ports.messages import sent_bytes
from varserve_service.journal import records
from varserve_service.journal.payloads import Inline, read_inline
from varserve_service.journal.records import Record, Row
from varserve_service.journal.rows import change_record, commit_key

LOG_COLUMNS = "revision, append, record, payload, crc"


def log_row(entry: Entry, max_answer_bytes: int) -> tuple[Any, ...]:
    """Revision, record, payload and checksum; the caller's answer is in them, too."""
    commit, inline = entry.commit, Inline()
    places = {each.variable.path: inline.add(each.value.numpy()) for each in commit.changed}
    changes = [
        change_record(each.variable.path, each.region, places, inline) for each in commit.changed
    ]
    answer = None
    if sum(map(sent_bytes, entry.answer.values())) <= max_answer_bytes:
        answer = {name: inline.add(value.numpy()) for name, value in entry.answer.items()}
    record = records.commit_record(commit, changes) | {"answer": answer}
    row = Row(commit_key(commit.revision), record, inline.payload())
    return (commit.revision, *row.encoded())


def kept_commit(revision: int, append: str, record: bytes, payload: bytes, crc: int) -> KeptCommit:
    """The commit of a row. Raises JournalError."""
    row = decoded(commit_key(revision), record, payload, crc)
    return KeptCommit(
        revision,
        row.record["time"],
        CommitKind(row.record["kind"]),
        Origin(row.record["subject"], row.record["message"]),
        records.read_request(row.record["request"]),
        tuple(kept_change(change, payload) for change in row.record["changes"]),
        append,
        _answer(row.record["answer"], payload),
    )


def kept_change(record: Record, payload: bytes) -> KeptChange:
    """A change of a row."""
    indices = read_inline(record["indices"], payload) if "indices" in record else None
    part = records.read_part(record["part"], indices)
    return KeptChange(record["path"], part, read_inline(record["value"], payload))


def decoded(key: str, record: bytes, payload: bytes, crc: int) -> Row:
    """A row. Raises JournalError when its checksum is wrong."""
    try:
        return records.decode(key, record, payload, crc)
    except ValueError as error:
        raise JournalError(f"the database is damaged: {error}") from error


def _answer(record: Mapping[str, Record] | None, payload: bytes) -> Mapping[str, Array] | None:
    if record is None:
        return None
    return {name: read_inline(place, payload) for name, place in record.items()}
