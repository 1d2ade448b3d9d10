"""What a row records of a commit, a base or an answer: JSON, and its checksum.

Owns the layout of the records; does not know where they are.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from crc32c import crc32c

from varserve import tensors
from varserve_service.core.arrays.patches import Elements, Part
from varserve_service.core.arrays.regions import Rows, Slice, Slices
from varserve_service.core.ports.commits import (
    Commit,
    CommitKind,
    CommitRecord,
    Origin,
    WriteRequest,
    WrittenBytes,
)

Record = dict[str, Any]
TensorRecord = dict[str, Any]
"""Dtype, shape and bytes of a value, and where they are.

That is `at` in its row, `key` of a `file`, or `at` in a `blob`.
"""


# Made once: `json.dumps` makes an encoder of its own for each call that asks for anything.
_encode = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One row of any table, as it is written and read. `key` identifies it in its checksum."""

    key: str
    record: Record
    payload: bytes

    def encoded(self) -> tuple[bytes, bytes, int]:
        """The columns record, payload and crc."""
        data = _encode(self.record).encode()
        return data, self.payload, checksum(self.key, data, self.payload)


def checksum(key: str, record: bytes, payload: bytes) -> int:
    """The CRC32C of a row."""
    return int(crc32c(payload, crc32c(record, crc32c(key.encode()))))


def decode(key: str, record: bytes, payload: bytes, crc: int) -> Row:
    """Decode a row. Raises ValueError when its checksum is wrong."""
    if checksum(key, record, payload) != crc:
        raise ValueError(f"row {key} does not have the checksum that was written with it")
    return Row(key, json.loads(record), payload)


def commit_record(commit: Commit, changes: list[Record]) -> Record:
    """The record of a commit whose values are described by `changes`."""
    return {
        "time": commit.time,
        "kind": commit.kind.value,
        "subject": commit.origin.subject,
        "message": commit.origin.message,
        "request": request_record(commit.request),
        "changes": changes,
    }


def history_record(record: Record) -> Record:
    """What remains of the record of a commit when its values are dropped."""
    request = record["request"]
    return {
        "time": record["time"],
        "kind": record["kind"],
        "subject": record["subject"],
        "message": record["message"],
        "request_id": "" if request is None else request["id"],
        "writes": [[change["path"], _value_bytes(change["value"])] for change in record["changes"]],
    }


def _value_bytes(place: TensorRecord) -> int:
    """Bytes of a value as a commit tells them: without the lengths that strings are stored with."""
    lengths = 8 * math.prod(place["shape"]) if place["dtype"] == tensors.STRING else 0
    return int(place["bytes"]) - lengths


def read_history(revision: int, record: Record) -> CommitRecord:
    """The commit of a row of `history`."""
    return CommitRecord(
        revision,
        record["time"],
        CommitKind(record["kind"]),
        Origin(record["subject"], record["message"]),
        record["request_id"],
        tuple(WrittenBytes(path, nbytes) for path, nbytes in record["writes"]),
    )


def request_record(request: WriteRequest | None) -> Record | None:
    """The record of a write request."""
    if request is None:
        return None
    return {
        "subject": request.subject,
        "id": request.id,
        "fingerprint": request.fingerprint.hex(),
    }


def read_request(record: Record | None) -> WriteRequest | None:
    """The write request of a record."""
    if record is None:
        return None
    return WriteRequest(record["id"], bytes.fromhex(record["fingerprint"]), record["subject"])


def part_record(part: Part) -> Record | None:
    """The record of a part; its indices are an array beside it."""
    match part:
        case None:
            return None
        case Slices():
            return {"slices": [[s.start, s.stop, s.step] for s in part.dimensions]}
        case Rows():
            return {"indices_of": "rows"}
        case Elements():
            return {"indices_of": "elements"}


def read_part(record: Record | None, indices: Any) -> Part:
    """The part of a record."""
    if record is None:
        return None
    if "slices" in record:
        return Slices(tuple(Slice(*each) for each in record["slices"]))
    return Rows(indices) if record["indices_of"] == "rows" else Elements(indices)
