"""Copying a state from one home to another: from its journal's port into rows, and its digest.

A copy has everything that the port gives back: base, history, commits with their values, answers.
Knows SQLite's home; `postgres/copying.py` knows the other one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from varserve_service.core.arrays.patches import Array, Elements
from varserve_service.core.arrays.regions import Rows
from varserve_service.core.errors import JournalError
from varserve_service.core.ports.commits import CommitRecord
from varserve_service.core.ports.journal import (
    KeptAnswer,
    KeptBase,
    KeptChange,
    KeptCommit,
    KeptState,
)

from . import records
from .database import Database
from .disk import Head, exists, make_folder
from .failures import told_apart
from .journal import SqliteJournal
from .options import JournalOptions
from .payloads import Inline, PayloadFiles, stored_bytes
from .records import Record, Row, TensorRecord
from .rows import (
    STATE_KEY,
    answer_key,
    base_key,
    change_record,
    commit_key,
    history_key,
    next_base_checksum,
    write_state,
)


def answered(journal: KeptState) -> frozenset[int]:
    """The revisions of the commits that are kept with what their callers were told."""
    return frozenset(a.revision for a in journal.answers() if a.revision > journal.horizon)


def digest(journal: KeptState, answers: frozenset[int]) -> str:
    """The SHA-256 of all that a journal gives back, with the answers of these revisions.

    Equal of two journals: whoever starts from one has what whoever starts from the other has.
    """
    hashed = hashlib.sha256()

    def add(*items: Any) -> None:
        hashed.update(repr(items).encode())

    def add_array(array: Array) -> None:
        add(array.dtype.name, array.shape)
        if array.dtype.hasobject:
            add(*map(len, array.flat))
        hashed.update(b"".join(array.flat) if array.dtype.hasobject else array.tobytes())

    def add_change(change: KeptChange) -> None:
        add(change.path, records.part_record(change.part))
        if isinstance(change.part, Rows | Elements):
            add_array(change.part.indices)
        add_array(change.value)

    add(journal.epoch, journal.horizon)
    for base in journal.base():
        add(base.revision)
        add_change(base.change)
    for record in journal.records():
        add(record)
    for commit in journal.commits():
        add(commit.revision, commit.time, commit.kind, commit.origin, commit.request)
        for change in commit.changes:
            add_change(change)
    for answer in journal.answers():
        if answer.revision in answers:
            add(answer.revision, answer.request, answer.values is None)
            for name, array in (answer.values or {}).items():
                add(name)
                add_array(array)
    return hashed.hexdigest()


def history_row(record: CommitRecord) -> Row:
    """The row of a commit whose values are gone."""
    content = {
        "time": record.time,
        "kind": record.kind.value,
        "subject": record.origin.subject,
        "message": record.origin.message,
        "request_id": record.request_id,
        "writes": [[write.path, write.nbytes] for write in record.writes],
    }
    return Row(history_key(record.revision), content, b"")


def commit_content(commit: KeptCommit, changes: list[Record]) -> Record:
    """The record of a commit whose values are described by `changes`."""
    return {
        "time": commit.time,
        "kind": commit.kind.value,
        "subject": commit.origin.subject,
        "message": commit.origin.message,
        "request": records.request_record(commit.request),
        "changes": changes,
    }


def described(folder: Path) -> Record:
    """The model of the state in a folder, as it was described when the state began.

    Raises JournalError when there is none, StateUnavailable when it cannot be looked at.
    """
    with told_apart(folder):
        if not exists(folder / "log.sqlite3"):
            raise JournalError(f"{folder} has no state")
        database = Database(folder / "log.sqlite3")
        try:
            with database.reading() as connection:
                row = connection.execute("SELECT record, payload, crc FROM state").fetchone()
        finally:
            database.close()
    if row is None:
        raise JournalError(f"{folder} has no state")
    try:
        model = records.decode(STATE_KEY, *row).record["model"]
    except ValueError as error:
        raise database.damaged(error) from error
    assert isinstance(model, dict)
    return model


def fill_folder(folder: Path, model: Record, source: KeptState, options: JournalOptions) -> None:
    """Write what a journal gives back into a new folder. Raises JournalError, StateStoreFull."""
    with told_apart(folder), ExitStack() as opened:
        if exists(folder):
            raise JournalError(f"{folder} exists: expected no state of this model there")
        make_folder((folder / "payloads").absolute())
        head = Head(folder / "head", new=True)
        opened.callback(head.close)
        database = Database(folder / "log.sqlite3")
        opened.callback(database.close)
        last = _Filling(database, PayloadFiles(folder / "payloads"), options).fill(model, source)
        head.write(last)


class _Filling:
    def __init__(self, database: Database, files: PayloadFiles, options: JournalOptions) -> None:
        self._database = database
        self._files = files
        self._inline_bytes = options.inline_bytes

    def fill(self, model: Record, source: KeptState) -> int:
        """The last revision."""
        last, checksum = source.horizon, 0
        with self._database.writing() as connection:
            for base in source.base():
                row = self._base_row(base)
                columns = row.encoded()
                checksum = next_base_checksum(checksum, columns[2])
                connection.execute(
                    "INSERT INTO base VALUES (?, ?, ?, ?)", (base.change.path, *columns)
                )
            for record in source.records():
                connection.execute(
                    "INSERT INTO history VALUES (?, ?, ?, ?)",
                    (record.revision, *history_row(record).encoded()),
                )
            for commit in source.commits():
                last = commit.revision
                changes, payload = self._placed(commit.changes)
                row = Row(commit_key(last), commit_content(commit, changes), payload)
                connection.execute(
                    "INSERT INTO commits VALUES (?, ?, ?, ?)", (last, *row.encoded())
                )
            for answer in source.answers():
                connection.execute(
                    "INSERT INTO answers VALUES (?, ?, ?, ?, ?)",
                    (answer.revision, answer.time, *_answer_row(answer).encoded()),
                )
            state = {
                "epoch": source.epoch,
                "horizon": source.horizon,
                "base": checksum,
                "model": model,
            }
            write_state(connection, state)
        return last

    def _base_row(self, base: KeptBase) -> Row:
        (change,), payload = self._placed([base.change])
        key = base_key(base.change.path)
        return Row(key, {"revision": base.revision, "change": change}, payload)

    def _placed(self, changes: Iterable[KeptChange]) -> tuple[list[Record], bytes]:
        changes, inline = list(changes), Inline()
        large = sum(stored_bytes(change.value) for change in changes) > self._inline_bytes
        placed: list[Record] = []
        files: Mapping[str, TensorRecord] = {}
        if large:
            files = self._files.write({str(at): each.value for at, each in enumerate(changes)})
        for at, change in enumerate(changes):
            place = files[str(at)] if large else inline.add(change.value)
            placed.append(change_record(change.path, change.part, {change.path: place}, inline))
        return placed, inline.payload()


def _answer_row(answer: KeptAnswer) -> Row:
    inline = Inline()
    values: dict[str, TensorRecord] | None = None
    if answer.values is not None:
        values = {name: inline.add(value) for name, value in answer.values.items()}
    record = {"request": records.request_record(answer.request), "values": values}
    return Row(answer_key(answer.revision, answer.time), record, inline.payload())


def open_folder(folder: Path, options: JournalOptions) -> tuple[Record, SqliteJournal]:
    """The state in a folder, and the model that it is of. Raises JournalError, StateUnavailable."""
    model = described(folder)
    return model, SqliteJournal(folder, model, options)
