"""One model's commits on disk: implements the core's Journal.

Owns the order of writes: values in synced files, then the rows that name them, then the head. Knows
the database, the payloads and the records.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from varserve_service.core.ports.commits import CommitKind, CommitRecord, Origin
from varserve_service.core.ports.journal import (
    Entry,
    KeptAnswer,
    KeptBase,
    KeptChange,
    KeptCommit,
    Position,
)
from varserve_service.core.ports.loaded_model import Value
from varserve_service.core.ports.messages import sent_bytes

from . import records
from .compaction import Compactor
from .compatibility import check_compatible
from .database import Database
from .disk import NO_ROOM, Head, end_process, exists, log, make_folder, sync_folder
from .failures import told_apart, unwritable
from .options import JournalOptions
from .payloads import Inline, PayloadFiles
from .presence import Presence
from .records import Record, Row, TensorRecord
from .rows import (
    STATE_KEY,
    answer_key,
    base_key,
    change_record,
    commit_key,
    files_of,
    history_key,
    read_change,
    write_state,
)
from .verification import verify

_NEW_EPOCH = "new-epoch"


def begin_new_epoch(folder: Path) -> None:
    """Make the journal in a folder continue in a new epoch at its next start. Raises OSError."""
    (folder / _NEW_EPOCH).touch()
    sync_folder(folder)


class Staged:
    """Values of a commit in a file that no row names yet."""

    def __init__(
        self, files: PayloadFiles, values: Mapping[str, Value], tensors: Mapping[str, TensorRecord]
    ) -> None:
        self._files = files
        self._values = values
        self._tensors = tensors
        self._needed = False

    def take(self, path: str, value: Value) -> TensorRecord | None:
        """The place of exactly this value; None when another one was staged."""
        return self._tensors[path] if self._values.get(path) is value else None

    def keep(self) -> None:
        """A row names the file now."""
        self._needed = True

    def discard(self) -> None:
        if not self._needed:
            self._files.remove(files_of(self._tensors.values()))


class SqliteJournal:
    """The journal in one folder: `log.sqlite3` and its write-ahead log, `payloads/` and `head`."""

    def __init__(
        self,
        folder: Path,
        model: Record,
        options: JournalOptions | None = None,
        *,
        needs: Sequence[Path] = (),
    ) -> None:
        """`model`: of `compatibility.describe`. `needs`: files outside the folder that must stay.

        Raises JournalError when the state in the folder is damaged or belongs to another model,
        StateUnavailable when it cannot be opened, StateStoreFull when a new one has no room.
        """
        self._options = options or JournalOptions()
        self._folder = folder
        self._files = PayloadFiles(folder / "payloads")
        log_path = folder / "log.sqlite3"
        with told_apart(folder), ExitStack() as opened:
            make_folder((folder / "payloads").absolute())
            self._head = Head(folder / "head", new=not exists(log_path))
            opened.callback(self._head.close)
            acknowledged = self._head.read()
            verify(log_path, acknowledged)
            self._database = Database(log_path)
            opened.callback(self._database.close)
            self._state = self._read_state() or self._new_state(model)
            check_compatible(self._state["model"], model)
            if exists(folder / _NEW_EPOCH):
                self._begin_new_epoch()
            self._presence = Presence(
                [
                    *(folder, folder / "payloads", folder / "head"),
                    *(log_path, self._database.wal_path, *needs),
                ]
            )
            opened.pop_all()
        self._position = Position(self.horizon)
        self._compactor = Compactor(self._database, self._files, self._state, self._options)

    @property
    def shared(self) -> None:
        return None

    @property
    def position(self) -> Position:
        return self._position

    @property
    def epoch(self) -> str:
        return str(self._state["epoch"])

    @property
    def horizon(self) -> int:
        return int(self._state["horizon"])

    @property
    def inline_bytes(self) -> int:
        return self._options.inline_bytes

    @property
    def nbytes(self) -> int:
        return _nbytes(self._folder) + _nbytes(self._folder / "payloads")

    # Giving back.

    def base(self) -> Iterator[KeptBase]:
        for path, *columns in self._rows("base", "path, record, payload, crc", "path"):
            row = self._decode(base_key(path), *columns)
            self._files.need(files_of([row.record["change"]["value"]]))
            yield KeptBase(row.record["revision"], self._change(row.record["change"], row.payload))

    def records(self) -> Iterator[CommitRecord]:
        for revision, *columns in self._rows("history", "revision, record, payload, crc"):
            row = self._decode(history_key(revision), *columns)
            yield records.read_history(revision, row.record)

    def commits(self) -> Iterator[KeptCommit]:
        last = self.horizon
        for revision, *columns in self._rows("commits", "revision, record, payload, crc"):
            row, last = self._decode(commit_key(revision), *columns), revision
            record = row.record
            self._compactor.count(revision, record)
            self._files.need(files_of(change["value"] for change in record["changes"]))
            yield KeptCommit(
                revision,
                record["time"],
                CommitKind(record["kind"]),
                Origin(record["subject"], record["message"]),
                records.read_request(record["request"]),
                tuple(self._change(each, row.payload) for each in record["changes"]),
            )
        self._position = Position(last)
        self._note(last)

    def answers(self) -> Iterator[KeptAnswer]:
        columns = "revision, time, record, payload, crc"
        for revision, time_, *rest in self._rows("answers", columns):
            row = self._decode(answer_key(revision, time_), *rest)
            request = records.read_request(row.record["request"])
            assert request is not None
            values = row.record["values"]
            self._compactor.count_answers(1, len(row.payload))
            yield KeptAnswer(
                revision,
                time_,
                request,
                None
                if values is None
                else {name: self._files.read(each, row.payload) for name, each in values.items()},
            )

    def start(self) -> None:
        with told_apart(self._folder / "payloads"):
            self._files.clean_up()
        self._compactor.start()

    # Keeping.

    def stage(self, values: Mapping[str, Value], deadline: float | None = None) -> Staged:
        arrays = {path: value.numpy() for path, value in values.items()}
        return Staged(self._files, values, self._files.write(arrays))

    def append(self, entries: Sequence[Entry]) -> None:
        commits: list[tuple[Any, ...]] = []
        answers: list[tuple[Any, ...]] = []
        counted: list[tuple[int, Record]] = []
        written: set[str] = set()
        try:
            for entry in entries:
                row = self._commit_row(entry, written)
                counted.append((entry.commit.revision, row.record))
                commits.append((entry.commit.revision, *row.encoded()))
                answers += self._answer_rows(entry)
            with self._database.writing() as connection:
                connection.executemany("INSERT INTO commits VALUES (?, ?, ?, ?)", commits)
                connection.executemany("INSERT INTO answers VALUES (?, ?, ?, ?, ?)", answers)
                self._check_presence()
        except BaseException:
            self._files.remove(written)
            raise
        for entry in entries:
            if isinstance(entry.staged, Staged):
                entry.staged.keep()
        for _, record in counted:
            self._files.need(files_of(change["value"] for change in record["changes"]))
        if missing := self._missing():
            # Deleted after the check above: whether the commit stays depends on who did it.
            end_process(str(missing[0]), "it was deleted or replaced while a commit was written")
        self._note(entries[-1].commit.revision)
        for revision, record in counted:
            self._compactor.count(revision, record)
        self._compactor.count_answers(len(answers), sum(len(payload) for *_, payload, _ in answers))
        self._compactor.wake_when_due()

    def close(self) -> None:
        """Close the files. What was appended is durable already."""
        self._compactor.stop()
        self._database.close()
        self._head.close()

    def _commit_row(self, entry: Entry, written: set[str]) -> Row:
        """The row of a commit. Adds the file that it writes for it to `written`."""
        commit, staged = entry.commit, entry.staged
        values = {changed.variable.path: changed.value for changed in commit.changed}
        places: dict[str, TensorRecord] = {}
        if isinstance(staged, Staged):
            known = {path: staged.take(path, value) for path, value in values.items()}
            places = {path: place for path, place in known.items() if place is not None}
        rest = {path: value.numpy() for path, value in values.items() if path not in places}
        inline = Inline()
        if sum(sent_bytes(values[path]) for path in rest) > self._options.inline_bytes:
            places |= self._files.write(rest)
            written |= files_of(places[path] for path in rest)
        else:
            places |= {path: inline.add(array) for path, array in rest.items()}
        changes = [
            change_record(changed.variable.path, changed.region, places, inline)
            for changed in commit.changed
        ]
        record = records.commit_record(commit, changes)
        return Row(commit_key(commit.revision), record, inline.payload())

    def _answer_rows(self, entry: Entry) -> list[tuple[Any, ...]]:
        commit = entry.commit
        if commit.request is None:
            return []
        inline = Inline()
        values: dict[str, TensorRecord] | None = None
        if sum(map(sent_bytes, entry.answer.values())) <= self._options.answer_bytes:
            values = {name: inline.add(value.numpy()) for name, value in entry.answer.items()}
        record = {"request": records.request_record(commit.request), "values": values}
        row = Row(answer_key(commit.revision, commit.time), record, inline.payload())
        return [(commit.revision, commit.time, *row.encoded())]

    # Helpers.

    def _read_state(self) -> Record | None:
        with self._database.reading() as connection:
            row = connection.execute("SELECT record, payload, crc FROM state").fetchone()
        if row is None:
            return None
        return self._decode(STATE_KEY, *row).record

    def _new_state(self, model: Record) -> Record:
        state = {
            "epoch": secrets.token_hex(8),
            "horizon": 0,
            "base": 0,
            "model": model,
        }
        with self._database.writing() as connection:
            write_state(connection, state)
        log.info("a new state begins", folder=str(self._folder), epoch=state["epoch"])
        return state

    def _begin_new_epoch(self) -> None:
        before, self._state["epoch"] = self._state["epoch"], secrets.token_hex(8)
        with self._database.writing() as connection:
            write_state(connection, self._state)
        # Last: a crash in between costs one more epoch, which no caller has seen.
        (self._folder / _NEW_EPOCH).unlink()
        sync_folder(self._folder)
        log.warning(
            "restored state: it continues in a new epoch",
            folder=str(self._folder),
            before=before,
            epoch=self.epoch,
        )

    def _rows(self, table: str, columns: str, order: str = "revision") -> Iterator[tuple[Any, ...]]:
        with self._database.reading() as connection:
            yield from connection.execute(f"SELECT {columns} FROM {table} ORDER BY {order}")

    def _decode(self, key: str, record: bytes, payload: bytes, crc: int) -> Row:
        try:
            return records.decode(key, record, payload, crc)
        except ValueError as error:
            raise self._database.damaged(error) from error

    def _change(self, record: Record, payload: bytes) -> KeptChange:
        return read_change(record, payload, self._files)

    def _missing(self) -> list[Path]:
        return self._presence.missing() or self._files.missing()

    def _check_presence(self) -> None:
        """Raises StateStoreUnavailable when a file of the state was deleted or replaced."""
        if missing := self._missing():
            raise unwritable(
                missing[0],
                "it was deleted or replaced while the service ran; put it back, or save the model "
                "or pull its values, which are in memory alone now, and start again",
            )

    def _note(self, revision: int) -> None:
        try:
            self._head.write(revision)
        except OSError as error:
            # The head is a check on the log; the commit itself is durable.
            if error.errno not in NO_ROOM:
                end_process(str(self._folder / "head"), error)


def _nbytes(folder: Path) -> int:
    total = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # compaction was faster
                if entry.is_file(follow_symlinks=False):
                    total += entry.stat().st_size
    return total
