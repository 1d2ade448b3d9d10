"""One model's commits on disk: implements the core's Journal.

Owns the order of what is written: values in files and synced, then the rows that name them, then
the head. Knows the database, the payloads and the records.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from varserve_service.core.errors import JournalError
from varserve_service.core.ports.commits import CommitKind, Origin
from varserve_service.core.ports.journal import Entry, KeptAnswer, KeptBase, KeptChange, KeptCommit
from varserve_service.core.ports.loaded_model import Value
from varserve_service.core.ports.messages import sent_bytes

from . import records
from .compaction import Compactor
from .database import Database
from .disk import NO_ROOM, Head, end_process, log, make_folder, sync_folder
from .fit import check_fit
from .options import JournalOptions
from .payloads import Inline, PayloadFiles
from .records import Record, Row, TensorRecord
from .rows import (
    STATE_KEY,
    answer_key,
    base_key,
    change_record,
    commit_key,
    files_of,
    read_change,
    write_state,
)
from .verification import verify

FORMAT = 1
_NEW_EPOCH = "new-epoch"


def begin_new_epoch(folder: Path) -> None:
    """Let the journal in a folder go on in a new epoch when it is opened next. Raises OSError."""
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
        """Where this very value is; None when another one was staged."""
        return self._tensors[path] if self._values.get(path) is value else None

    def keep(self) -> None:
        """A row names it now."""
        self._needed = True

    def discard(self) -> None:
        if not self._needed:
            self._files.remove(files_of(self._tensors.values()))


class SqliteJournal:
    """The journal in one folder: `log.sqlite3` and its write-ahead log, `payloads/` and `head`."""

    def __init__(self, folder: Path, model: Record, options: JournalOptions | None = None) -> None:
        """`model` describes the model that the state is of; see `fit`.

        Raises JournalError when what is in the folder is damaged or is of another model.
        """
        self._options = options or JournalOptions()
        make_folder((folder / "payloads").absolute())
        self._folder = folder
        self._files = PayloadFiles(folder / "payloads")
        with ExitStack() as opened:
            self._head = Head(folder / "head", new=not (folder / "log.sqlite3").exists())
            opened.callback(self._head.close)
            acknowledged = self._head.read()
            verify(folder / "log.sqlite3", acknowledged)
            self._database = Database(folder / "log.sqlite3")
            opened.callback(self._database.close)
            self._state = self._read_state() or self._new_state(model)
            check_fit(self._state["model"], model)
            if (folder / _NEW_EPOCH).exists():
                self._go_on_in_a_new_epoch()
            opened.pop_all()
        self._compactor = Compactor(self._database, self._files, self._state, self._options)

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

    # What was kept.

    def base(self) -> Iterator[KeptBase]:
        for path, *columns in self._rows("base", "path, record, payload, crc", "path"):
            row = self._decode(base_key(path), *columns)
            self._compactor.know_base(row)
            yield KeptBase(row.record["revision"], self._change(row.record["change"], row.payload))

    def commits(self) -> Iterator[KeptCommit]:
        last = self.horizon
        for revision, *columns in self._rows("commits", "revision, record, payload, crc"):
            row, last = self._decode(commit_key(revision), *columns), revision
            record = row.record
            self._compactor.count(revision, record)
            yield KeptCommit(
                revision,
                record["time"],
                CommitKind(record["kind"]),
                Origin(record["subject"], record["message"]),
                records.read_request(record["request"]),
                tuple(self._change(each, row.payload) for each in record["changes"]),
            )
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
        self._files.remove(self._files.names() - self._compactor.named_files())
        self._compactor.start()

    # What is to be kept.

    def stage(self, values: Mapping[str, Value]) -> Staged:
        arrays = {path: value.numpy() for path, value in values.items()}
        return Staged(self._files, values, self._files.write(arrays))

    def append(self, entries: Sequence[Entry]) -> None:
        commits: list[tuple[Any, ...]] = []
        answers: list[tuple[Any, ...]] = []
        counted: list[tuple[int, Record]] = []
        written: set[str] = set()
        try:
            for entry in entries:
                row, file = self._commit_row(entry)
                written |= file
                counted.append((entry.commit.revision, row.record))
                commits.append((entry.commit.revision, *row.encoded()))
                answers += self._answer_rows(entry)
            with self._database.writing() as connection:
                connection.executemany("INSERT INTO commits VALUES (?, ?, ?, ?)", commits)
                connection.executemany("INSERT INTO answers VALUES (?, ?, ?, ?, ?)", answers)
        except BaseException:
            self._files.remove(written)
            raise
        for entry in entries:
            if isinstance(entry.staged, Staged):
                entry.staged.keep()
        self._note(entries[-1].commit.revision)
        for revision, record in counted:
            self._compactor.count(revision, record)
        self._compactor.count_answers(len(answers), sum(len(payload) for *_, payload, _ in answers))
        self._compactor.wake_when_due()

    def close(self) -> None:
        """Let go of the files. What was appended is durable already."""
        self._compactor.stop()
        self._database.close()
        self._head.close()

    def _commit_row(self, entry: Entry) -> tuple[Row, set[str]]:
        """The row of a commit, and the file that was written for it just now."""
        commit, staged = entry.commit, entry.staged
        values = {changed.variable.path: changed.value for changed in commit.changed}
        places: dict[str, TensorRecord] = {}
        if isinstance(staged, Staged):
            known = {path: staged.take(path, value) for path, value in values.items()}
            places = {path: place for path, place in known.items() if place is not None}
        rest = {path: value.numpy() for path, value in values.items() if path not in places}
        file: set[str] = set()
        inline = Inline()
        if sum(sent_bytes(values[path]) for path in rest) > self._options.inline_bytes:
            places |= self._files.write(rest)
            file = files_of(places[path] for path in rest)
        else:
            places |= {path: inline.add(array) for path, array in rest.items()}
        changes = [
            change_record(changed.variable.path, changed.region, places, inline)
            for changed in commit.changed
        ]
        record = records.commit_record(commit, changes)
        return Row(commit_key(commit.revision), record, inline.payload()), file

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

    # What they share.

    def _read_state(self) -> Record | None:
        with self._database.reading() as connection:
            found = connection.execute("SELECT record, payload, crc FROM state").fetchone()
        if found is None:
            return None
        state = self._decode(STATE_KEY, *found).record
        if state["format"] != FORMAT:
            raise JournalError(
                f"{self._database.path}: expected format {FORMAT}, found {state['format']}: it was "
                "written by another version of this service"
            )
        return state

    def _new_state(self, model: Record) -> Record:
        state = {
            "format": FORMAT,
            "epoch": secrets.token_hex(8),
            "horizon": 0,
            "base": 0,
            "model": model,
        }
        with self._database.writing() as connection:
            write_state(connection, state)
        return state

    def _go_on_in_a_new_epoch(self) -> None:
        before, self._state["epoch"] = self._state["epoch"], secrets.token_hex(8)
        with self._database.writing() as connection:
            write_state(connection, self._state)
        # Only now: a crash in between costs one more epoch, which nobody has seen.
        (self._folder / _NEW_EPOCH).unlink()
        sync_folder(self._folder)
        log.warning(
            "restored state: it goes on in a new epoch",
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

    def _note(self, revision: int) -> None:
        try:
            self._head.write(revision)
        except OSError as error:
            # It is a check on the log; the commit itself is durable.
            if error.errno not in NO_ROOM:
                end_process(str(self._folder / "head"), error)


def _nbytes(folder: Path) -> int:
    total = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # compaction was faster
                if entry.is_file(follow_symlinks=False):
                    total += entry.stat(follow_symlinks=False).st_size
    return total
