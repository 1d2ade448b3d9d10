"""Commits as rows of the log, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from varserve_service.core.arrays.patches import Array, Elements, Part
from varserve_service.core.arrays.regions import Rows
from varserve_service.core.errors import JournalError, StateStoreUnavailable
from varserve_service.core.ports.commits import CommitKind, Origin
from varserve_service.core.ports.journal import Entry, KeptAnswer, KeptCommit
from varserve_service.core.ports.loaded_model import Value
from varserve_service.core.ports.messages import sent_bytes
from varserve_service.core.ports.shared_journal import TurnNeeded
from varserve_service.core.values.host_value import HostValue
from varserve_service.journal import records
from varserve_service.journal.payloads import Inline, Payloads
from varserve_service.journal.records import Record, Row, TensorRecord
from varserve_service.journal.rows import change_record, commit_key, indices_key, read_change

from .blobs import INLINE_BYTES, BlobWriter, blob_bytes, keep
from .head import Key
from .schema import Connection
from .staging import StagedBlobs

LOG_COLUMNS = "revision, append, record, payload, crc"


@dataclass(frozen=True, slots=True, eq=False)
class LogRow:
    """A row of the log, whose checksum was right."""

    revision: int
    append: str
    row: Row

    @property
    def nbytes(self) -> int:
        """Bytes of its values, those in blobs too."""
        return len(self.row.payload) + self.blob_bytes

    @property
    def blob_bytes(self) -> int:
        """Bytes of its values that are in blobs."""
        return blob_bytes(places_of(self.row.record["changes"]))

    def commit(self, payloads: Payloads) -> KeptCommit:
        """Its commit, with all values. Raises JournalError."""
        record, payload = self.row.record, self.row.payload
        return KeptCommit(
            self.revision,
            record["time"],
            CommitKind(record["kind"]),
            Origin(record["subject"], record["message"]),
            records.read_request(record["request"]),
            tuple(read_change(change, payload, payloads) for change in record["changes"]),
            self.append,
            _answer(record["answer"], payload, payloads),
        )

    def answer(self, payloads: Payloads) -> KeptAnswer | None:
        """What its caller was told; None when it had no request id."""
        record = self.row.record
        request = records.read_request(record["request"])
        if request is None:
            return None
        values = _answer(record["answer"], self.row.payload, payloads)
        return KeptAnswer(self.revision, record["time"], request, values)


def read_log_row(revision: int, append: str, record: bytes, payload: bytes, crc: int) -> LogRow:
    """A row from its LOG_COLUMNS. Raises JournalError."""
    return LogRow(revision, append, decoded(commit_key(revision), record, payload, crc))


def write_log_rows(
    connection: Connection, key: Key, entries: Sequence[Entry], max_answer_bytes: int
) -> list[tuple[int, bytes, bytes, int]]:
    """The rows of commits, to be inserted in this transaction, which has the lock of the head row.

    What was staged for them is kept. Raises psycopg.Error, StateStoreUnavailable.
    """
    blobs, staged = BlobWriter(connection, key), dict[str, int]()
    rows = []
    for entry in entries:
        rows.append(_log_row(entry, max_answer_bytes, blobs))
        if isinstance(entry.staged, StagedBlobs):
            staged |= dict.fromkeys(entry.staged.taken, entry.commit.revision)
    if staged and not keep(connection, key, staged):
        raise StateStoreUnavailable(
            "the values were staged so long ago that they were swept; nothing was changed; retry"
        )
    return rows


def inline_log_rows(
    entries: Sequence[Entry], max_answer_bytes: int
) -> list[tuple[int, bytes, bytes, int]]:
    """The rows of commits whose values were not staged, and are small enough for the rows.

    Raises TurnNeeded where they are too large.
    """
    return [_log_row(entry, max_answer_bytes, _NoBlobs()) for entry in entries]


class _NoBlobs:
    def write(self, values: Mapping[str, Value], revision: int | None) -> dict[str, TensorRecord]:
        raise TurnNeeded


class _Blobs(Protocol):
    def write(
        self, values: Mapping[str, Value], revision: int | None
    ) -> dict[str, TensorRecord]: ...


def _log_row(entry: Entry, max_answer_bytes: int, blobs: _Blobs) -> tuple[int, bytes, bytes, int]:
    """Revision, record, payload and checksum; the caller's answer is in them, too.

    What was not staged goes into the row, or into blobs where it is too large.
    """
    commit, inline = entry.commit, Inline()
    changed = {each.variable.path: (each.region, each.value) for each in commit.changed}
    staged: dict[str, TensorRecord] = {}
    if isinstance(entry.staged, StagedBlobs):
        taken = {path: entry.staged.take(path, value) for path, (_, value) in changed.items()}
        staged = {path: place for path, place in taken.items() if place is not None}
    rest = {path: value for path, (_, value) in changed.items() if path not in staged}
    parts = {path: part for path, (part, _) in changed.items()}
    places = staged | placed(rest, parts, inline, blobs, commit.revision)
    changes = [change_record(path, part, places, inline) for path, part in parts.items()]
    answer = None
    if sum(map(sent_bytes, entry.answer.values())) <= max_answer_bytes:
        answer = {name: inline.add(value.numpy()) for name, value in entry.answer.items()}
    record = records.commit_record(commit, changes) | {"answer": answer}
    row = Row(commit_key(commit.revision), record, inline.payload())
    return (commit.revision, *row.encoded())


def placed(
    values: Mapping[str, Value],
    parts: Mapping[str, Part],
    inline: Inline,
    blobs: _Blobs,
    revision: int | None,
) -> dict[str, TensorRecord]:
    """Where values and the indices of parts are: all inline, or all in blobs. Both are by path."""
    indices = {
        indices_key(path): HostValue(np.ascontiguousarray(part.indices, np.int64))
        for path, part in parts.items()
        if isinstance(part, Rows | Elements)
    }
    together = {**values, **indices}
    if sum(map(sent_bytes, together.values())) <= INLINE_BYTES:
        return {name: inline.add(value.numpy()) for name, value in together.items()}
    return blobs.write(together, revision)


def places_of(changes: list[Record]) -> list[TensorRecord]:
    """Where the values and indices of changes are."""
    return [change[name] for change in changes for name in ("value", "indices") if name in change]


def decoded(key: str, record: bytes, payload: bytes, crc: int) -> Row:
    """A row. Raises JournalError when its checksum is wrong."""
    try:
        return records.decode(key, record, payload, crc)
    except ValueError as error:
        raise JournalError(f"the database is damaged: {error}") from error


def _answer(
    record: Mapping[str, Record] | None, payload: bytes, payloads: Payloads
) -> Mapping[str, Array] | None:
    if record is None:
        return None
    return {name: payloads.read(place, payload) for name, place in record.items()}
