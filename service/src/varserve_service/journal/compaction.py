"""Compaction: the state at a later horizon becomes the base, and the commits before it go.

Runs on a thread of its own, in this order: the values of the new base in synced files; one
transaction that puts the base in place of the commits; removal of the files that no row names any
more. A crash between two steps leaves the state as it was, and at most files that the next start
removes.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from varserve_service.core.arrays.patches import Elements, fold
from varserve_service.core.arrays.regions import Rows
from varserve_service.core.errors import StateStoreFull, StateStoreUnavailable
from varserve_service.core.ports.journal import KeptChange
from varserve_service.core.threads import ModelThread

from . import records
from .database import Database
from .disk import end_process, log
from .options import JournalOptions
from .payloads import Inline, PayloadFiles, stored_bytes
from .records import Record, Row
from .rows import (
    answer_key,
    base_key,
    change_record,
    commit_key,
    files_of,
    history_key,
    indices_key,
    next_base_checksum,
    read_change,
    read_part,
    write_state,
)

_CHECKPOINT_COMMITS = 1_000
"""The write-ahead log is moved into the database after this many commits."""


@dataclass(frozen=True, slots=True, eq=False)
class _Change:
    """A change as it is in its row."""

    revision: int
    record: Record
    payload: bytes
    crc: int


class Compactor:
    """Keeps one journal within its bounds. `state` is the journal's, and moves with the horizon."""

    def __init__(
        self, database: Database, files: PayloadFiles, state: Record, options: JournalOptions
    ) -> None:
        self._database = database
        self._files = files
        self._state = state
        self._options = options
        self._counting = threading.Lock()
        self._commits: deque[tuple[int, int]] = deque()  # revision and bytes of values
        self._nbytes = 0
        self._answers = 0
        self._answers_nbytes = 0
        self._since_checkpoint = 0
        self._working = threading.Lock()
        self._due = threading.Event()
        self._stopped = False
        self._thread = ModelThread(self._run, "varserve-compact")

    # Counting.

    def count(self, revision: int, record: Record) -> None:
        """Add a commit."""
        nbytes = sum(change["value"]["bytes"] for change in record["changes"])
        with self._counting:
            self._commits.append((revision, nbytes))
            self._nbytes += nbytes
            self._since_checkpoint += 1

    def count_answers(self, number: int, nbytes: int) -> None:
        """Add answers, and the bytes of their values."""
        with self._counting:
            self._answers += number
            self._answers_nbytes += nbytes

    # The thread.

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()
        self.wake_when_due()

    def wake_when_due(self) -> None:
        """Wake the thread when a bound is exceeded by a tenth."""
        if self.is_due():
            self._due.set()

    def is_due(self) -> bool:
        """Whether a bound is exceeded by a tenth."""
        options = self._options
        return (
            len(self._commits) * 10 > options.history_commits * 11
            or self._nbytes * 10 > options.history_bytes * 11
            or self._answers * 10 > options.answer_count * 11
            or self._answers_nbytes * 10 > options.answers_bytes * 11
            or self._since_checkpoint >= _CHECKPOINT_COMMITS
        )

    def stop(self) -> None:
        """Finish the compaction in progress, and end the thread."""
        self._stopped = True
        self._due.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while True:
            self._due.wait()
            self._due.clear()
            if self._stopped:
                return
            self.try_to_compact()

    def try_to_compact(self) -> None:
        """`compact`, or try again after the next commits. A failing disk ends the process."""
        try:
            self.compact()
        except (StateStoreFull, StateStoreUnavailable, MemoryError) as error:
            log.warning("compaction failed; tried again after the next commits", error=str(error))
        except BaseException as error:
            end_process("compaction", error)

    # Compacting.

    def compact(self) -> None:
        """Bring the journal within its bounds.

        Raises StateStoreFull, StateStoreUnavailable, with nothing changed.
        """
        with self._working:
            self._compact()

    def _compact(self) -> None:
        horizon = self._next_horizon()
        started = time.monotonic()
        if horizon > self._state["horizon"]:
            self._move_to(horizon)
            log.info("compacted", horizon=horizon, seconds=round(time.monotonic() - started, 3))
        self._drop_answers()
        with self._counting:
            self._since_checkpoint = 0
        self._database.checkpoint()

    def _next_horizon(self) -> int:
        with self._counting:
            count, nbytes = len(self._commits), self._nbytes
            horizon = int(self._state["horizon"])
            for revision, size in self._commits:
                options = self._options
                if count <= options.history_commits and nbytes <= options.history_bytes:
                    break
                horizon, count, nbytes = revision, count - 1, nbytes - size
            return horizon

    def _move_to(self, horizon: int) -> None:
        gone, kept, history = self._read(horizon)
        base, written = self._base_at(gone, kept)
        checksum = 0
        for path in sorted(kept | base):
            crc = base[path].encoded()[2] if path in base else kept[path].crc
            checksum = next_base_checksum(checksum, crc)
        state = self._state | {"horizon": horizon, "base": checksum}
        try:
            with self._database.writing() as connection:
                connection.executemany(
                    "INSERT OR REPLACE INTO base VALUES (?, ?, ?, ?)",
                    [(path, *row.encoded()) for path, row in base.items()],
                )
                connection.execute("DELETE FROM commits WHERE revision <= ?", (horizon,))
                connection.executemany("INSERT INTO history VALUES (?, ?, ?, ?)", history)
                connection.execute("DELETE FROM history WHERE revision <= ?", (self._last_gone(),))
                write_state(connection, state)
        except BaseException:
            self._files.remove(written)
            raise
        self._files.need(written)
        with self._counting:
            self._state.update(state)
            while self._commits and self._commits[0][0] <= horizon:
                self._nbytes -= self._commits.popleft()[1]
        named = _named(row.record["change"] for row in base.values())
        named |= _named(each.record for path, each in kept.items() if path not in base)
        before = _named(each.record for each in kept.values())
        self._files.remove((before | _named(each.record for each in gone)) - named)

    def _last_gone(self) -> int:
        """The last commit of which not even the record stays."""
        with self._counting:
            return self._commits[-1][0] - self._options.history_commits

    def _read(
        self, horizon: int
    ) -> tuple[list[_Change], dict[str, _Change], list[tuple[Any, ...]]]:
        """The changes up to the new horizon, the base by path, and the new rows of `history`."""
        gone: list[_Change] = []
        history: list[tuple[Any, ...]] = []
        with self._database.reading() as connection:
            for revision, record, payload, crc in connection.execute(
                "SELECT revision, record, payload, crc FROM commits WHERE revision <= ? "
                "ORDER BY revision",
                (horizon,),
            ):
                row = records.decode(commit_key(revision), record, payload, crc)
                gone += [_Change(revision, each, payload, crc) for each in row.record["changes"]]
                remains = Row(history_key(revision), records.history_record(row.record), b"")
                history.append((revision, *remains.encoded()))
            kept = {}
            for path, record, payload, crc in connection.execute(
                "SELECT path, record, payload, crc FROM base"
            ):
                row = records.decode(base_key(path), record, payload, crc)
                kept[path] = _Change(row.record["revision"], row.record["change"], payload, crc)
        return gone, kept, history

    def _base_at(
        self, gone: Sequence[_Change], kept: Mapping[str, _Change]
    ) -> tuple[dict[str, Row], set[str]]:
        """The rows of the base that are new at the horizon, and the files written for them."""
        by_path = {path: [change] for path, change in kept.items()}
        for change in gone:
            by_path.setdefault(change.record["path"], []).append(change)
        last = {path: _after_last_whole(changes) for path, changes in by_path.items()}
        touched = {change.record["path"] for change in gone}
        moved = {p for p in touched if len(last[p]) == 1 and "file" in last[p][0].record["value"]}
        # A value in a file of which less than half is still needed is written again, too.
        live: Counter[str] = Counter()
        for path in moved | (kept.keys() - touched):
            record = last[path][0].record
            for place in (record["value"], record.get("indices", {})):
                if "file" in place:
                    live[place["file"]] += place["bytes"]
        wasteful = {file for file, nbytes in live.items() if 2 * nbytes < self._files.size(file)}
        anew = {
            path
            for path in last
            if (path in touched and path not in moved)
            or files_of([last[path][0].record["value"]]) & wasteful
        }
        values = {path: self._fold(path, last[path]) for path in anew}
        large = {
            path: change.value
            for path, change in values.items()
            if stored_bytes(change.value) > self._options.inline_bytes
        }
        # Beside a large value: a row of the database holds at most 1e9 bytes.
        large |= {
            indices_key(path): np.asarray(part.indices, np.int64)
            for path in list(large)
            if isinstance(part := values[path].part, Rows | Elements)
        }
        places = self._files.write(large) if large else {}
        written = files_of(places.values())
        rows = {}
        for path in anew | moved:
            inline, revision = Inline(), last[path][-1].revision
            if path in moved and path not in anew:
                only = last[path][0]
                part = read_part(only.record, only.payload, self._files)
                places[path] = only.record["value"]
            else:
                part = values[path].part
                if path not in large:
                    places[path] = inline.add(values[path].value)
            record = {"revision": revision, "change": change_record(path, part, places, inline)}
            rows[path] = Row(base_key(path), record, inline.payload())
        return rows, written

    def _fold(self, path: str, changes: Sequence[_Change]) -> KeptChange:
        begins_as = self._state["model"]["variables"][path]["begins_as"]
        shape = None if begins_as is None else tuple(begins_as)
        kept = [read_change(c.record, c.payload, self._files) for c in changes]
        return KeptChange(path, *fold(kept, shape))

    def _drop_answers(self) -> None:
        oldest = time.time_ns() - int(self._options.answer_age * 1e9)
        with self._database.writing() as connection:
            connection.execute("DELETE FROM answers WHERE time < ?", (oldest,))
            # Of whoever has the most, the oldest: nobody pushes another's out.
            connection.execute(
                "DELETE FROM answers WHERE revision IN (SELECT revision FROM (SELECT revision, "
                "row_number() OVER (PARTITION BY "
                "json_extract(CAST(record AS TEXT), '$.request.subject') ORDER BY revision DESC"
                ") AS place FROM answers) ORDER BY place, revision DESC "
                "LIMIT -1 OFFSET ?)",
                (self._options.answer_count,),
            )
            self._empty_answers(connection)
            left, nbytes = connection.execute(
                "SELECT count(*), coalesce(sum(length(payload)), 0) FROM answers"
            ).fetchone()
        with self._counting:
            self._answers, self._answers_nbytes = left, nbytes

    def _empty_answers(self, connection: sqlite3.Connection) -> None:
        """Drop the values of the oldest answers while all together are too large.

        As in memory, the journal still knows that their writes were done.
        """
        room = self._options.answers_bytes
        large = connection.execute(
            "SELECT revision, time, length(payload) FROM answers WHERE length(payload) > 0 "
            "ORDER BY revision DESC"
        ).fetchall()
        for revision, given, nbytes in large:
            room -= nbytes
            if room >= 0:
                continue
            key = answer_key(revision, given)
            columns = connection.execute(
                "SELECT record, payload, crc FROM answers WHERE revision = ?", (revision,)
            ).fetchone()
            record = records.decode(key, *columns).record | {"values": None}
            connection.execute(
                "UPDATE answers SET record = ?, payload = ?, crc = ? WHERE revision = ?",
                (*Row(key, record, b"").encoded(), revision),
            )


def _after_last_whole(changes: Sequence[_Change]) -> Sequence[_Change]:
    """The changes to one variable that matter: a whole value supersedes those before it."""
    whole = [number for number, change in enumerate(changes) if change.record["part"] is None]
    return changes[whole[-1] :] if whole else changes


def _named(changes: Iterable[Record]) -> set[str]:
    return files_of(change["value"] for change in changes)
