"""Appending to the log: the transaction of a commit, and its three outcomes.

Done; refused, with nothing changed; or undecided, when the connection goes while the commit is on
its way. What became of an undecided commit is found out behind the lock of the head row, in a
transaction that is committed itself.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg

from varserve_service.core.errors import (
    JournalError,
    Reason,
    RequestError,
    StateStoreUnavailable,
)
from varserve_service.core.ports.journal import Entry, KeptCommit, Position
from varserve_service.core.ports.messages import sent_bytes
from varserve_service.core.ports.shared_journal import AppendUndecided, LeaseChange
from varserve_service.journal.disk import log
from varserve_service.journal.options import JournalOptions

from .connection import Connector, refusal
from .guard import Guard
from .head import HEAD, OF_MODEL, Head, Key
from .leases import write_changes
from .reading import blob_bytes_of, commits_after, commits_of, rows_after
from .rows import LogRow, write_log_rows
from .schema import Connection
from .staging import StagedBlobs

_COMMIT_SECONDS = 3.0
"""A commit that takes longer is undecided, and resolved."""
_TURN_SECONDS = 10.0
"""How long others may have the lock."""
_LOCK_SECONDS = 2.0
"""Then it is asked for again: a lock that others have is told from a server that says nothing."""
_ANSWER_SECONDS = 1.5
_READ_SECONDS = 14.0
_RESOLVE_SECONDS = 20.0
_RETRY_SECONDS = 0.1
_BYTES_PER_SECOND = 10e6
_LOCKED_BYTES = 8 * 2**20
"""Of values in blobs that are read while others wait for the lock."""

_APPEND = f"""
    WITH head AS (
        UPDATE varserve_head SET revision = %s, append = %s
        WHERE {OF_MODEL} AND revision = %s AND append = %s
        RETURNING model, version
    )
    INSERT INTO varserve_log
    SELECT head.model, head.version, row.revision, %s, row.record, row.payload, row.crc
    FROM head, unnest(%s::bigint[], %b::bytea[], %b::bytea[], %s::bigint[])
        AS row (revision, record, payload, crc)
"""
# A commit that waits for the standbys, and with it for all before it.
_CONFIRM = f"UPDATE varserve_head SET append = append WHERE {OF_MODEL}"


class Appender:
    """The connection by which one replica appends. Its methods are for one thread at a time."""

    def __init__(
        self,
        connector: Connector,
        key: Key,
        epoch: str,
        options: JournalOptions,
        tell: Callable[[], None],
    ) -> None:
        """`tell` is called when something was appended."""
        self._connector = connector
        self._key = key
        self._epoch = epoch
        self._options = options
        self._tell = tell
        self.last_append = ""
        """The one that was made, or tried, last."""
        self._closed = threading.Event()
        self._guard = Guard()
        self._open: Connection | None = None
        self.nbytes = 0
        """Bytes of values that were appended."""

    @contextmanager
    def turn(self, known: Position, deadline: float | None) -> Iterator[Turn]:
        connection, head, missed, behind = self._take_turn(known, deadline)
        turn = Turn(self, connection, head, missed, behind=behind)
        if behind:
            yield turn
            return
        try:
            self._guard.keep_awake(connection)
            yield turn
        finally:
            self._guard.rest()
            if not turn.ended:
                self._roll_back()

    def _take_turn(
        self, known: Position, deadline: float | None
    ) -> tuple[Connection, Head, Sequence[KeptCommit], bool]:
        until = time.monotonic() + _TURN_SECONDS
        if deadline is not None:
            until = min(until, deadline)
        while True:
            reused = self._open is not None
            try:
                connection = self._connection()
                head = self._lock_head(connection, until)
                missed = self._missed(connection, known, head)
                if missed is not None:
                    return connection, head, missed, False
                self._roll_back()
                return connection, head, self._commits_after(connection, known), True
            except psycopg.errors.LockNotAvailable as error:
                self._roll_back()
                if time.monotonic() >= until:
                    raise self._no_turn(error, deadline) from error
            except psycopg.Error as error:
                self._drop()
                if not (reused and isinstance(error, psycopg.OperationalError)):
                    raise self._no_turn(error, deadline) from error
                # The connection ended while nobody used it. Nothing was asked for yet.
            except BaseException:
                self._drop()
                raise

    def _missed(
        self, connection: Connection, known: Position, head: Head
    ) -> Sequence[KeptCommit] | None:
        """What others committed; None: more than is read while they wait for the lock."""
        # A statement of its own: in one with the lock it would see the log before it.
        with self._guard.cut_after(connection, _READ_SECONDS):
            rows = rows_after(connection, self._key, known, head)
            if not _are_all(rows, known, head) or blob_bytes_of(rows) > _LOCKED_BYTES:
                return None
            return commits_of(connection, self._key, rows)

    def _commits_after(self, connection: Connection, known: Position) -> list[KeptCommit]:
        """The next commits after a position, without the lock."""
        with self._guard.cut_after(connection, _READ_SECONDS):
            rows = rows_after(connection, self._key, known)
        return commits_after(connection, self._key, known, rows, self._guard.cut_after)

    def _no_turn(self, error: psycopg.Error, deadline: float | None) -> RequestError:
        waited = isinstance(error, psycopg.errors.LockNotAvailable)
        if waited and deadline is not None and time.monotonic() >= deadline:
            return RequestError(
                Reason.DEADLINE_EXCEEDED,
                "the deadline passed while other replicas committed; nothing was changed",
            )
        return refusal(self._connector.name, error)

    def _lock_head(self, connection: Connection, until: float) -> Head:
        """Begin the transaction of a turn: this replica may append until its end.

        Raises psycopg.errors.LockNotAvailable after `_LOCK_SECONDS`, or when the time is over.
        """
        seconds = max(0.001, min(_LOCK_SECONDS, until - time.monotonic()))
        begin = "BEGIN ISOLATION LEVEL READ COMMITTED"
        begin += f"; SET LOCAL lock_timeout = {int(1000 * seconds)}"
        # In one message, and not in a pipeline: that ends with a flush, after which the server
        # waits for what is to come, and does not count a transaction as idle.
        head = psycopg.ClientCursor(connection)
        with self._guard.cut_after(connection, seconds + _ANSWER_SECONDS):
            head.execute(f"{begin}; {HEAD} FOR NO KEY UPDATE", self._key)
        while head.nextset():
            pass
        row = head.fetchone()
        if row is None or row[0] != self._epoch:
            raise JournalError("the state in the database was removed or began anew")
        return row

    def _append(
        self,
        connection: Connection,
        head: Head,
        entries: Sequence[Entry],
        leases: Sequence[LeaseChange],
    ) -> Position:
        self._write_leases(connection, leases)
        if not entries:
            self._commit(connection, _CONFIRM, self._key, _COMMIT_SECONDS)
            return Position(head[1], head[2])
        append = self.last_append = secrets.token_hex(8)
        nbytes = sum(sent_bytes(c.value) for entry in entries for c in entry.commit.changed)
        seconds = _COMMIT_SECONDS + nbytes / _BYTES_PER_SECOND
        rows = self._write_values(connection, entries, seconds)
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
            seconds,
        )
        if inserted != len(entries):
            raise StateStoreUnavailable("another replica committed; nothing was changed; retry")
        for entry in entries:
            if isinstance(entry.staged, StagedBlobs):
                entry.staged.keep()
        self.nbytes += nbytes
        self._tell()
        return Position(last, append)

    def _write_values(
        self, connection: Connection, entries: Sequence[Entry], seconds: float
    ) -> list[tuple[int, bytes, bytes, int]]:
        """The rows of commits, with what was staged for them kept, and the rest written.

        Raises StateStoreFull, StateStoreUnavailable.
        """
        try:
            with self._guard.cut_after(connection, seconds):
                return write_log_rows(connection, self._key, entries, self._options.answer_bytes)
        except psycopg.Error as error:
            self._drop()
            raise refusal(self._connector.name, error) from error

    def _write_leases(self, connection: Connection, changes: Sequence[LeaseChange]) -> None:
        """Raises StateStoreFull, StateStoreUnavailable, RequestError LEASE_NOT_FOUND."""
        if not changes:
            return
        held = [each for change in changes for each in change.held or ()]
        seconds = _COMMIT_SECONDS + sum(e.previous.nbytes for e in held) / _BYTES_PER_SECOND
        try:
            with self._guard.cut_after(connection, seconds):
                write_changes(connection, self._key, changes)
        except psycopg.Error as error:
            self._drop()
            raise refusal(self._connector.name, error) from error

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
            self._drop()
            raise refusal(self._connector.name, error) from error
        notices: list[str] = []

        def note(diagnostic: psycopg.errors.Diagnostic) -> None:
            notices.append(diagnostic.message_primary or "")

        connection.add_notice_handler(note)
        try:
            with self._guard.cut_after(connection, _COMMIT_SECONDS):
                commit = connection.execute("COMMIT")
        except psycopg.Error as error:
            self._drop()
            log.warning("a commit is undecided", database=self._connector.name, error=str(error))
            raise AppendUndecided from error
        finally:
            connection.remove_notice_handler(note)
        if notices:
            # A wait for the standbys was ended: the commit is there, and may be on no standby.
            self._drop()
            log.warning("a commit is undecided", database=self._connector.name, notice=notices[0])
            raise AppendUndecided
        if commit.statusmessage != "COMMIT":
            raise StateStoreUnavailable(
                "the database rolled the commit back; nothing was changed; retry"
            )
        return int(changed.rowcount)

    def resolve(self, known: Position) -> tuple[bool, Sequence[KeptCommit]]:
        until = time.monotonic() + _RESOLVE_SECONDS
        while not self._closed.is_set():
            try:
                return self._resolve(known)
            except (psycopg.Error, AppendUndecided, StateStoreUnavailable) as error:
                self._drop()
                if time.monotonic() >= until:
                    log.error(
                        "a commit could not be resolved",
                        database=self._connector.name,
                        error=str(error),
                    )
                    break
                self._closed.wait(_RETRY_SECONDS)
        raise StateStoreUnavailable(
            "the connection to the database was lost while the commit was written, and is not back "
            "in time: it may have been done; retry with the same request_id",
            done="unknown",
        )

    def _resolve(self, known: Position) -> tuple[bool, Sequence[KeptCommit]]:
        connection = self._connection()
        head = self._lock_head(connection, time.monotonic() + _LOCK_SECONDS)
        with self._guard.cut_after(connection, _READ_SECONDS):
            rows_after(connection, self._key, known, head)  # or this replica is on a fork
            query = f"SELECT FROM varserve_log WHERE {OF_MODEL} AND revision > %s AND append = %s"
            happened = connection.execute(
                f"{query} LIMIT 1", (*self._key, known.revision, self.last_append)
            ).fetchone()
        self._commit(connection, _CONFIRM, self._key, _COMMIT_SECONDS)
        log.info(
            "a commit was resolved", database=self._connector.name, happened=happened is not None
        )
        missed: list[KeptCommit] = []
        while known.revision < head[1]:
            missed += self._commits_after(connection, known)
            known = missed[-1].position
        return happened is not None, missed

    def _connection(self) -> Connection:
        if self._closed.is_set():
            raise StateStoreUnavailable("the model is being closed; nothing was changed")
        if self._open is None or self._open.closed:
            self._open = self._connector.connect()
        self._connector.check(self._open)
        return self._open

    def _roll_back(self) -> None:
        """Give the turn back, if it is still held."""
        connection = self._open
        if connection is None:
            return
        try:
            with self._guard.cut_after(connection, _COMMIT_SECONDS):
                connection.execute("ROLLBACK")
        except psycopg.Error:
            self._drop()

    def _drop(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def close(self) -> None:
        """Close the connection."""
        self._closed.set()
        self._guard.close()
        self._drop()


def _are_all(rows: Sequence[LogRow], known: Position, head: Head) -> bool:
    """Whether rows after a position are all of them."""
    return bool((rows[-1].revision if rows else known.revision) == head[1])


class Turn:
    """The lock of a model's head row, until it is committed or given back."""

    def __init__(
        self,
        appender: Appender,
        connection: Connection,
        head: Head,
        missed: Sequence[KeptCommit],
        *,
        behind: bool,
    ) -> None:
        self._appender = appender
        self._connection = connection
        self._head = head
        self.missed = missed
        self.behind = behind
        self.ended = behind

    def append(self, entries: Sequence[Entry], leases: Sequence[LeaseChange] = ()) -> Position:
        self.ended = True
        self._appender._guard.rest()
        try:
            return self._appender._append(self._connection, self._head, entries, leases)
        except BaseException:
            self._appender._roll_back()
            raise

    def confirm(self) -> None:
        self.ended = True
        self._appender._guard.rest()
        self._appender._confirm(self._connection)
