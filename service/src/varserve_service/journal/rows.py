"""The rows of the journal's tables: their keys, and the changes in them.

Knows records and payloads.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping

import numpy as np
from crc32c import crc32c

from varserve_service.core.arrays.patches import Elements, Part
from varserve_service.core.arrays.regions import Rows
from varserve_service.core.ports.journal import KeptChange

from . import records
from .payloads import Inline, Payloads
from .records import Record, Row, TensorRecord

STATE_KEY = "state"


def commit_key(revision: int) -> str:
    """Key of a row of `commits`."""
    return f"commit {revision}"


def history_key(revision: int) -> str:
    """Key of a row of `history`: a commit without its values."""
    return f"history {revision}"


def answer_key(revision: int, time: int) -> str:
    """Key of a row of `answers`."""
    return f"answer {revision} {time}"


def base_key(path: str) -> str:
    """Key of a row of `base`."""
    return f"base {path}"


def indices_key(path: str) -> str:
    """Key of the indices of a variable's part, which are beside its value in a file."""
    return f"{path}\0indices"


def next_base_checksum(before: int, row_checksum: int) -> int:
    """A checksum over the checksums of the rows of `base`, in the order of their paths."""
    return int(crc32c(row_checksum.to_bytes(4, "little"), before))


def write_state(connection: sqlite3.Connection, state: Record) -> None:
    """Replace the row of `state`."""
    columns = Row(STATE_KEY, state, b"").encoded()
    connection.execute("INSERT OR REPLACE INTO state VALUES (1, ?, ?, ?)", columns)


def change_record(
    path: str, part: Part, places: Mapping[str, TensorRecord], inline: Inline
) -> Record:
    """The record of a change whose value has a place; indices without one go inline."""
    record: Record = {"path": path, "part": records.part_record(part), "value": places[path]}
    if isinstance(part, Rows | Elements):
        kept = places.get(indices_key(path))
        record["indices"] = kept or inline.add(np.asarray(part.indices, np.int64))
    return record


def read_change(record: Record, payload: bytes, payloads: Payloads) -> KeptChange:
    """The change of a record. Raises JournalError."""
    part = read_part(record, payload, payloads)
    return KeptChange(record["path"], part, payloads.read(record["value"], payload))


def read_part(record: Record, payload: bytes, payloads: Payloads) -> Part:
    """The part of a change's record."""
    indices = payloads.read(record["indices"], payload) if "indices" in record else None
    return records.read_part(record["part"], indices)


def files_of(places: Iterable[TensorRecord]) -> set[str]:
    """Names of the files that values are in."""
    return {place["file"] for place in places if "file" in place}
