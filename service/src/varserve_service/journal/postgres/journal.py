"""One model's commits in the database: implements the core's Journal and SharedJournal.

Owns what a commit's transaction does, and its three outcomes: done, refused, undecided. Knows the
connections, the rows and the compaction.
"""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from varserve_service.core.errors import (
    JournalError,
    Reason,
    RequestError,
    StateStoreUnavailable,
)
from varserve_service.core.ports.commits import CommitRecord
from varserve_service.core.ports.journal import (
    AppendUndecided,
    Entry,
    KeptAnswer,
    KeptBase,
    KeptCommit,
    Position,
    StagedValues,
)
from varserve_service.core.ports.loaded_model import Value
from varserve_service.core.ports.messages import sent_bytes
from varserve_service.journal import records
from varserve_service.journal.compatibility import check_compatible
from varserve_service.journal.disk import end_process, log
from varserve_service.journal.options import JournalOptions
from varserve_service.journal.records import Record
from varserve_service.journal.rows import base_key, history_key

from . import compaction
from .connection import Connector, cut_after, refusal
from .guard import Guard
from .rows import LOG_COLUMNS, decoded, kept_change, kept_commit, log_row
from .schema import CHANNEL, Connection

MAX_COMMIT_BYTES = 64 * 2**20
_COMMIT_SECONDS = 3.0
"""A commit that takes longer is undecided, and resolved."""
_TURN_SECONDS = 14.0
"""Longer than the server lets anybody wait for a row."""
_RESOLVE_SECONDS = 20.0
_BYTES_PER_SECOND = 10e6
_COMPACT_SECONDS = 60.0
_LOOK_SECONDS = 30.0
_IDLE_SECONDS = 5.0
_POLL_SECONDS = 0.1
_NEWS_SECONDS = 0.25
_AT_ONCE = 1_000  # rows that are read at a time

LOCKED = psycopg.errors.LockNotAvailable.sqlstate
_WHERE = "model = %s AND version = %s"
_APPEND = f"""
    WITH head AS (
        UPDATE varserve_head SET revision = %s, append = %s
        WHERE {_WHERE} AND revision = %s AND append = %s
        RETURNING model, version
    )
    INSERT INTO varserve_log
    SELECT head.model, head.version, row.revision, %s, row.record, row.payload, row.crc
    FROM head, unnest(%s::bigint[], %b::bytea[], %b::bytea[], %s::bigint[])
        AS row (revision, record, payload, crc)
"""
# A commit that waits for the standbys, and with it for all before it.
_CONFIRM = f"UPDATE varserve_head SET append = append WHERE {_WHERE}"
_HEAD = "SELECT epoch, revision, append, horizon, horizon_append FROM varserve_head"


class PostgresJournal:
    """The journal of one version of a model. Threads: one that appends, one that follows."""

    def __init__(
        self,
        connector: Connector,
        model: str,
        version: int,
        description: Record,
        options: JournalOptions,
    ) -> None:
        """`description`: of `compatibility.describe`.

        Raises JournalError when the state is of another model, psycopg.Error.
        """
        self._connector = connector
        self._key = (model, version)
        self._options = options
        self._last_append = ""
        self._closed = threading.Event()
        self._news_due = threading.Event()
        self._guard = Guard()
        self._appending: Connection | None = None
        self._following: Connection | None = None
        self._nbytes = 0
        connection = self._appending = connector.connect()
        try:
            self._begin(connection, description)
            self._epoch, self._horizon, self._position = self._take_snapshot(connection)
        except BaseException:
            self.close()
            raise

    def _begin(self, connection: Connection, description: Record) -> None:
        row = connection.execute(
            "INSERT INTO varserve_head VALUES (%s, %s, %s, 0, '', 0, '', %s) "
            "ON CONFLICT DO NOTHING RETURNING epoch",
            (*self._key, secrets.token_hex(8), Jsonb(description)),
        ).fetchone()
        if row is not None:
            log.info("a new state begins", database=self._connector.name, epoch=row[0])
        (kept,) = connection.execute(
            f"SELECT description FROM varserve_head WHERE {_WHERE}", self._key
        ).fetchone() or ({},)
        check_compatible(kept, description)

    def _take_snapshot(self, connection: Connection) -> tuple[str, int, Position]:
        """What is given back is of one moment, whoever commits meanwhile."""
        connection.execute("SET idle_in_transaction_session_timeout = 0")
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        row = connection.execute(f"{_HEAD} WHERE {_WHERE}", self._key).fetchone()
        assert row is not None
        epoch, _, _, horizon, append = row
        return epoch, horizon, Position(horizon, append)

    @property
    def shared(self) -> PostgresJournal:
        return self

    @property
    def position(self) -> Position:
        return self._position

    @property
    def epoch(self) -> str:
        return self._epoch

    @property
    def horizon(self) -> int:
        return self._horizon

    @property
    def inline_bytes(self) -> int:
        return MAX_COMMIT_BYTES  # nothing is staged

    @property
    def max_commit_bytes(self) -> int:
        return MAX_COMMIT_BYTES

    @property
    def nbytes(self) -> int:
        return self._nbytes

    # Giving back.

    def base(self) -> Iterator[KeptBase]:
        for path, record, payload, crc in self._rows("base", "path, record, payload, crc", "path"):
            row = decoded(base_key(path), record, payload, crc)
            yield KeptBase(row.record["revision"], kept_change(row.record["change"], payload))

    def records(self) -> Iterator[CommitRecord]:
        columns = "revision, record, payload, crc"
        for revision, record, payload, crc in self._rows("history", columns, "revision"):
            row = decoded(history_key(revision), record, payload, crc)
            yield records.read_history(revision, row.record)

    def commits(self) -> Iterator[KeptCommit]:
        for columns in self._rows("log", LOG_COLUMNS, "revision"):
            commit = kept_commit(*columns)
            self._position = commit.position
            self._nbytes += len(columns[2]) + len(columns[3])
            yield commit

    def answers(self) -> Iterator[KeptAnswer]:
        for columns in self._rows("log", LOG_COLUMNS, "revision"):
            commit = kept_commit(*columns)
            if commit.request is not None:
                yield KeptAnswer(commit.revision, commit.time, commit.request, commit.answer)

    def start(self) -> None:
        assert self._appending is not None
        self._drop_appending()  # and its snapshot
        threading.Thread(target=self._keep_house, name="varserve-house", daemon=True).start()

    def _rows(self, table: str, columns: str, order: str) -> Iterator[tuple[Any, ...]]:
        assert self._appending is not None
        # A cursor of the server, or all of the rows would be in memory at once.
        name = f"varserve_{table}_{secrets.token_hex(4)}"
        with self._appending.cursor(name, binary=True) as cursor:
            cursor.itersize = 100
            query = f"SELECT {columns} FROM varserve_{table} WHERE {_WHERE} ORDER BY {order}"
            yield from cursor.execute(query, self._key)

    # Appending.

    def stage(self, values: Mapping[str, Value]) -> StagedValues:
        raise NotImplementedError("values of a shared journal go into the commit's own transaction")

    def append(self, entries: Sequence[Entry]) -> None:
        raise NotImplementedError("a shared journal is appended to in a turn")

    @contextmanager
    def turn(self, known: Position, deadline: float | None) -> Iterator[Turn]:
        connection, head, missed = self._take_turn(known, deadline)
        turn = Turn(self, connection, head, missed)
        try:
            self._guard.keep_awake(connection)
            yield turn
        finally:
            self._guard.rest()
            if not turn.ended:
                self._roll_back()

    def _take_turn(
        self, known: Position, deadline: float | None
    ) -> tuple[Connection, tuple[Any, ...], list[KeptCommit]]:
        reused = self._appending is not None
        try:
            connection = self._connection()
            with self._guard.cut_after(connection, _TURN_SECONDS):
                head = self._lock_head(connection, deadline)
                # A statement of its own: in one with the lock it would see the log before it.
                return connection, head, self._after(connection, known, head)
        except psycopg.Error as error:
            self._drop_appending()
            if reused and isinstance(error, psycopg.OperationalError) and error.sqlstate != LOCKED:
                # The connection ended while nobody used it. Nothing was asked for yet.
                return self._take_turn(known, deadline)
            raise self._no_turn(error, deadline) from error
        except BaseException:
            self._drop_appending()
            raise

    def _no_turn(self, error: psycopg.Error, deadline: float | None) -> RequestError:
        waited = isinstance(error, psycopg.errors.LockNotAvailable)
        if waited and deadline is not None and time.monotonic() >= deadline:
            return RequestError(
                Reason.DEADLINE_EXCEEDED,
                "the deadline passed while other replicas committed; nothing was changed",
            )
        return refusal(self._connector.name, error)

    def _lock_head(self, connection: Connection, deadline: float | None) -> tuple[Any, ...]:
        """Begin the transaction of a turn: this replica may append until its end."""
        with connection.pipeline():
            connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
            if deadline is not None:
                milliseconds = max(1, min(10_000, int(1000 * (deadline - time.monotonic()))))
                connection.execute(f"SET LOCAL lock_timeout = {milliseconds}")
            head = connection.execute(f"{_HEAD} WHERE {_WHERE} FOR NO KEY UPDATE", self._key)
        row = head.fetchone()
        if row is None or row[0] != self._epoch:
            raise JournalError("the state in the database was removed or began anew")
        return row

    def _after(
        self, connection: Connection, known: Position, head: tuple[Any, ...] | None = None
    ) -> list[KeptCommit]:
        """The commits after a position. Raises JournalError when the log does not go on from it."""
        if head is not None and Position(head[1], head[2]) == known:
            return []
        rows = connection.execute(
            f"SELECT {LOG_COLUMNS} FROM varserve_log WHERE {_WHERE} AND revision >= %s "
            "ORDER BY revision LIMIT %s",
            (*self._key, known.revision, _AT_ONCE if head is None else None),
            binary=True,
        ).fetchall()
        if rows and rows[0][0] == known.revision:
            if rows[0][1] != known.append:
                raise JournalError(
                    f"commit {known.revision} of this replica is not the one in the database, "
                    "which lost commits in a failover: this replica builds its state anew"
                )
            rows = rows[1:]
        elif rows or known.revision:
            self._check_horizon(connection, known)
        if rows and rows[0][0] != known.revision + 1:
            raise JournalError(f"the log goes on at {rows[0][0]}, expected {known.revision + 1}")
        return [kept_commit(*row) for row in rows]

    def _check_horizon(self, connection: Connection, known: Position) -> None:
        row = connection.execute(f"{_HEAD} WHERE {_WHERE}", self._key).fetchone()
        if row is None or Position(row[3], row[4]) != known:
            raise JournalError(
                f"commit {known.revision}, the last of this replica, is not in the database any "
                "more: this replica builds its state anew"
            )

    def _append(
        self, connection: Connection, head: tuple[Any, ...], entries: Sequence[Entry]
    ) -> Position:
        append = self._last_append = secrets.token_hex(8)
        nbytes = sum(sent_bytes(c.value) for entry in entries for c in entry.commit.changed)
        rows = [log_row(entry, self._options.answer_bytes) for entry in entries]
        last = entries[-1].commit.revision
        inserted = self._commit(
            connection,
            _APPEND,
            (
                last,
                append,
                *self._key,
                head[1],
                head[2],
                append,
                *map(list, zip(*rows, strict=True)),
            ),
            _COMMIT_SECONDS + nbytes / _BYTES_PER_SECOND,
        )
        if inserted != len(entries):
            raise StateStoreUnavailable("another replica committed; nothing was changed; retry")
        self._nbytes += nbytes
        self._news_due.set()
        return Position(last, append)

    def _confirm(self, connection: Connection) -> None:
        """Raises StateStoreUnavailable."""
        try:
            self._commit(connection, _CONFIRM, self._key, _COMMIT_SECONDS)
        except AppendUndecided as error:
            raise StateStoreUnavailable(
                "the write was done before, and the database does not say that it is durable; retry"
            ) from error

    def _commit(
        self, connection: Connection, query: str, parameters: Sequence[Any], seconds: float
    ) -> int:
        """Run the last statement of a turn and commit; the number of rows that it changed.

        Raises AppendUndecided; StateStoreFull, StateStoreUnavailable with nothing changed.
        """
        try:
            with self._guard.cut_after(connection, seconds):
                # Prepared, and not in one pipeline with the commit: a replica that stops between
                # two of its messages would keep the lock, because the server waits for the rest.
                changed = connection.execute(query, parameters, prepare=True)
        except psycopg.Error as error:
            # The commit was not sent: the server rolls back what it has.
            self._drop_appending()
            raise refusal(self._connector.name, error) from error
        notices: list[str] = []

        def note(diagnostic: psycopg.errors.Diagnostic) -> None:
            notices.append(diagnostic.message_primary or "")

        connection.add_notice_handler(note)
        try:
            with self._guard.cut_after(connection, _COMMIT_SECONDS):
                commit = connection.execute("COMMIT")
        except psycopg.Error as error:
            self._drop_appending()
            log.warning("a commit is undecided", database=self._connector.name, error=str(error))
            raise AppendUndecided from error
        finally:
            with suppress(ValueError):
                connection.remove_notice_handler(note)
        if notices:
            # A wait for the standbys was ended: the commit is there, and may be on no standby.
            self._drop_appending()
            log.warning("a commit is undecided", database=self._connector.name, notice=notices[0])
            raise AppendUndecided
        if commit.statusmessage != "COMMIT":
            raise StateStoreUnavailable(
                "the database rolled the commit back; nothing was changed; retry"
            )
        return int(changed.rowcount)

    # Finding out.

    def resolve(self, known: Position) -> tuple[bool, Sequence[KeptCommit]]:
        until = time.monotonic() + _RESOLVE_SECONDS
        while not self._closed.is_set():
            try:
                return self._resolve(known)
            except (psycopg.Error, AppendUndecided, StateStoreUnavailable) as error:
                self._drop_appending()
                if time.monotonic() >= until:
                    log.error(
                        "a commit could not be resolved",
                        database=self._connector.name,
                        error=str(error),
                    )
                    break
                self._closed.wait(_POLL_SECONDS)
        raise StateStoreUnavailable(
            "the connection to the database was lost while the commit was written, and is not back "
            "in time: it may have been done; retry with the same request_id",
            done="unknown",
        )

    def _resolve(self, known: Position) -> tuple[bool, Sequence[KeptCommit]]:
        connection = self._connection()
        with self._guard.cut_after(connection, _TURN_SECONDS):
            head = self._lock_head(connection, None)
            missed = self._after(connection, known, head)
        self._commit(connection, _CONFIRM, self._key, _COMMIT_SECONDS)
        happened = any(commit.append == self._last_append for commit in missed)
        log.info("a commit was resolved", database=self._connector.name, happened=happened)
        return happened, missed

    # Following.

    def news(self, known: Position) -> Sequence[KeptCommit]:
        if self._closed.is_set():
            self._drop_following()  # one that was made while it closed
            raise JournalError("the journal is closed")
        until = time.monotonic() + _NEWS_SECONDS
        try:
            if self._following is None or self._following.closed:
                self._following = self._connector.connect()
                self._following.execute(f"LISTEN {CHANNEL}")
            connection = self._following
            self._connector.check(connection)
            while not self._closed.is_set():
                with cut_after(connection, _TURN_SECONDS):
                    commits = self._after(connection, known)
                    if commits or time.monotonic() >= until:
                        return commits
                    for _ in connection.notifies(timeout=_POLL_SECONDS, stop_after=1):
                        pass
        except psycopg.Error as error:
            if not self._closed.is_set():
                log.warning(
                    "the log is not followed", database=self._connector.name, error=str(error)
                )
                self._closed.wait(_POLL_SECONDS)
            self._drop_following()
        return []

    def give_up(self, error: Exception) -> None:
        """End the process: the next one builds its state from the database."""
        if not self._closed.is_set():
            end_process(self._connector.name, error)

    # Compacting.

    def compact(self) -> None:
        """Bring the log within its bounds. Raises JournalError, psycopg.Error."""
        with self._connector.connect() as connection, cut_after(connection, _COMPACT_SECONDS):
            while compaction.compact(connection, self._key, self._options):
                pass

    def _keep_house(self) -> None:
        """Tell the other replicas of commits, and compact the log now and then."""
        look_at = time.monotonic() + _LOOK_SECONDS * random.random()  # not all at the same time
        while True:
            told = self._news_due.wait(max(0.0, look_at - time.monotonic()))
            if self._closed.is_set():
                return
            self._news_due.clear()
            try:
                with self._connector.connect() as connection:
                    while told and not self._closed.is_set():
                        # In the commit it would hold a lock of the whole cluster meanwhile.
                        with cut_after(connection, _TURN_SECONDS):
                            connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, self._key[0]))
                        told = self._news_due.wait(_IDLE_SECONDS)
                        self._news_due.clear()
                    if time.monotonic() >= look_at:
                        look_at = time.monotonic() + _LOOK_SECONDS
                        if compaction.is_due(connection, self._key, self._options):
                            self.compact()
            except (psycopg.Error, JournalError) as error:
                look_at = max(look_at, time.monotonic() + 1)
                log.warning(
                    "housekeeping failed; tried again later",
                    database=self._connector.name,
                    error=str(error),
                )

    # Helpers.

    def _connection(self) -> Connection:
        if self._closed.is_set():
            raise StateStoreUnavailable("the model is being closed; nothing was changed")
        if self._appending is None or self._appending.closed:
            self._appending = self._connector.connect()
        self._connector.check(self._appending)
        return self._appending

    def _roll_back(self) -> None:
        """Give the turn back, if it is still held."""
        connection = self._appending
        if connection is None:
            return
        try:
            with self._guard.cut_after(connection, _COMMIT_SECONDS):
                connection.execute("ROLLBACK")
        except psycopg.Error:
            self._drop_appending()

    def _drop_appending(self) -> None:
        if self._appending is not None:
            with suppress(psycopg.Error):
                self._appending.close()
            self._appending = None

    def _drop_following(self) -> None:
        if self._following is not None:
            with suppress(psycopg.Error):
                self._following.close()
            self._following = None

    def close(self) -> None:
        """Close the connections. What was appended is durable already."""
        self._closed.set()
        self._news_due.set()
        self._guard.close()
        self._drop_appending()
        self._drop_following()


class Turn:
    """The lock of a model's head row, until it is committed or given back."""

    def __init__(
        self,
        journal: PostgresJournal,
        connection: Connection,
        head: tuple[Any, ...],
        missed: Sequence[KeptCommit],
    ) -> None:
        self._journal = journal
        self._connection = connection
        self._head = head
        self.missed = missed
        self.ended = False

    def append(self, entries: Sequence[Entry]) -> Position:
        self.ended = True
        self._journal._guard.rest()
        try:
            return self._journal._append(self._connection, self._head, entries)
        except StateStoreUnavailable:
            self._journal._roll_back()
            raise

    def confirm(self) -> None:
        self.ended = True
        self._journal._guard.rest()
        self._journal._confirm(self._connection)
