"""Appending to the log: the transaction of a commit, and what became of an undecided one.

That is found out behind the lock of the head row, in a transaction that is committed itself.

A replica that has been alone for a while appends without a turn of the database's: by one statement
that does nothing if the head row is not as this replica left it, or somebody has its lock. The row
carries a stamp, the transaction that wrote it last. Finding out what became of a commit writes the
row, so that a statement that arrives later finds another stamp.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import psycopg

from varserve_service.core.errors import (
    JournalError,
    Reason,
    RequestError,
    StateStoreUnavailable,
)
from varserve_service.core.ports.journal import Entry, KeptCommit, Position
from varserve_service.core.ports.messages import sent_bytes
from varserve_service.core.ports.shared_journal import AppendUndecided, LeaseChange, TurnNeeded
from varserve_service.journal.disk import log
from varserve_service.journal.options import JournalOptions

from . import committing
from .committing import Committing
from .connection import Connector, refusal
from .head import LOCKED_HEAD, OF_MODEL, Head, Key
from .leases import write_changes
from .reading import PAGE_BYTES, blob_bytes_of, commits_after, commits_of, rows_after
from .rows import LogRow, inline_log_rows, write_log_rows
from .schema import Connection
from .staging import StagedBlobs
from .statements import appending
from .telling import Teller
from .turns import OptimisticTurn, Turn

_TURN_SECONDS = 10.0
"""How long others may have the lock."""
_LOCK_SECONDS = 2.0
"""Then it is asked for again: a lock that others have is told from a server that says nothing."""
_ANSWER_SECONDS = 1.5
_RESOLVE_SECONDS = 20.0
_RETRY_SECONDS = 0.1
_BYTES_PER_SECOND = 10e6
_LOCKED_BYTES = 8 * 2**20
"""Of values that are read while others wait for the lock: in rows, and again in blobs."""

_CALM_TURNS = 2
"""With no commit of others before them; then the next one is optimistic."""

# A commit that waits for the standbys, and with it for all before it.
_CONFIRM = f"UPDATE varserve_head SET append = append WHERE {OF_MODEL}"


class Appender(Committing):
    """The connection by which one replica appends. Its methods are for one thread at a time."""

    def __init__(
        self,
        connector: Connector,
        key: Key,
        epoch: str,
        options: JournalOptions,
        teller: Teller,
        is_alive: Callable[[], bool],
    ) -> None:
        """`is_alive`: whether the database has said something, just now, to somebody else."""
        super().__init__(connector, teller)
        self._key = key
        self._epoch = epoch
        self._options = options
        self._is_alive = is_alive
        self.last_append = ""
        """The one that was made, or tried, last."""
        self.position: Position | None = None
        """Of the last commit of this replica that was acknowledged."""
        self._calm_turns = 0
        self.rests = threading.Event()
        """Set while there is no turn. One brings all that others have appended before it."""
        self.rests.set()
        self.waited = 0.0
        """Seconds of turns in which nothing was appended, and of finding out what was."""
        self.nbytes = 0
        """Bytes of values that were appended."""

    @contextmanager
    def turn(
        self, known: Position, deadline: float | None, *, sure: bool
    ) -> Iterator[Turn | OptimisticTurn]:
        self.rests.clear()
        began, before = time.monotonic(), self.position
        try:
            if not sure and self._may_be_optimistic(known):
                yield OptimisticTurn(self, known)
            else:
                with self._sure_turn(known, deadline) as turn:
                    yield turn
        finally:
            if self.position is before:
                self.waited += time.monotonic() - began
            self.rests.set()

    @contextmanager
    def _sure_turn(self, known: Position, deadline: float | None) -> Iterator[Turn]:
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

    def _may_be_optimistic(self, known: Position) -> bool:
        """Whether the head row is likely to be as this replica left it, and the server to answer.

        A caller waits longer for a commit that gets no answer than for a turn that gets none.
        """
        if known != self.position:
            self._calm_turns = 0
        if self._open is None or not self._stamp:
            return False
        if self._calm_turns < _CALM_TURNS or not self._is_alive():
            return False
        try:
            return self._connection() is not None
        except psycopg.Error:
            self._drop()
            return False

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
                self._calm_turns = 0 if missed is None or missed else self._calm_turns + 1
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
        with self._guard.cut_after(connection, _seconds_for(_LOCKED_BYTES)):
            rows = rows_after(connection, self._key, known, head, _LOCKED_BYTES)
        nbytes = blob_bytes_of(rows)
        if not _are_all(rows, known, head) or nbytes > _LOCKED_BYTES:
            return None
        if not nbytes:
            return commits_of(connection, self._key, rows)
        with self._guard.cut_after(connection, _seconds_for(nbytes)):
            return commits_of(connection, self._key, rows)

    def _commits_after(self, connection: Connection, known: Position) -> list[KeptCommit]:
        """The next commits after a position, without the lock."""
        with self._guard.cut_after(connection, _seconds_for(PAGE_BYTES)):
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
            head.execute(f"{begin}; {LOCKED_HEAD}", self._key)
        while head.nextset():
            pass
        row = head.fetchone()
        if row is None or row[0] != self._epoch:
            raise JournalError("the state in the database was removed or began anew")
        self._stamp = row[5]
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
            self._commit(connection, _CONFIRM, self._key, committing.COMMIT_SECONDS)
            return Position(head[1], head[2])
        nbytes = _bytes_of(entries)
        seconds = _seconds_for(nbytes)
        rows = self._write_values(connection, entries, seconds)
        self.last_append = secrets.token_hex(8)
        known = Position(head[1], head[2])
        statement = appending(self._key, known, self.last_append, rows)
        stamps = self._commit(connection, *statement, seconds)
        if len(stamps) != len(entries):
            raise StateStoreUnavailable("another replica committed; nothing was changed; retry")
        return self._appended(connection, entries, stamps, nbytes)

    def _append_optimistically(self, known: Position, entries: Sequence[Entry]) -> Position:
        """Append if this replica was the last to do so.

        Raises TurnNeeded, AppendUndecided; StateStoreFull, StateStoreUnavailable with nothing
        changed.
        """
        connection = self._open
        if connection is None or any(each.staged is not None for each in entries):
            raise TurnNeeded
        rows = inline_log_rows(entries, self._options.answer_bytes)
        self.last_append = secrets.token_hex(8)
        query, parameters = appending(self._key, known, self.last_append, rows, self._stamp)
        self._stamp = ""
        nbytes = _bytes_of(entries)
        seconds = _seconds_for(nbytes)
        with self._decided(connection, seconds):
            inserted = connection.execute(query, parameters, prepare=True)
            stamps = [stamp for (stamp,) in inserted]
        if len(stamps) != len(entries):
            self._calm_turns = 0
            raise TurnNeeded
        return self._appended(connection, entries, stamps, nbytes)

    def _appended(
        self, connection: Connection, entries: Sequence[Entry], stamps: Sequence[str], nbytes: int
    ) -> Position:
        for entry in entries:
            if isinstance(entry.staged, StagedBlobs):
                entry.staged.keep()
        self.nbytes += nbytes
        self._stamp = stamps[0]
        position = self.position = Position(entries[-1].commit.revision, self.last_append)
        try:
            self._teller.tell(connection, position.revision)
        except psycopg.Error as error:
            self._drop()  # they look by themselves, a little later
            log.warning("other replicas are not told of a commit", error=str(error))
        return position

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
        seconds = _seconds_for(sum(each.previous.nbytes for each in held))
        try:
            with self._guard.cut_after(connection, seconds):
                write_changes(connection, self._key, changes)
        except psycopg.Error as error:
            self._drop()
            raise refusal(self._connector.name, error) from error

    def _confirm(self, connection: Connection) -> None:
        """Raises StateStoreUnavailable."""
        try:
            self._commit(connection, _CONFIRM, self._key, committing.COMMIT_SECONDS)
        except AppendUndecided as error:
            raise StateStoreUnavailable(
                "the write was done before, and the database does not say that it is durable; retry"
            ) from error

    def resolve(self, known: Position) -> tuple[bool, Sequence[KeptCommit]]:
        began = time.monotonic()
        try:
            return self._resolved(known)
        finally:
            self.waited += time.monotonic() - began

    def _resolved(self, known: Position) -> tuple[bool, Sequence[KeptCommit]]:
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
        with self._guard.cut_after(connection, _seconds_for(PAGE_BYTES)):
            rows_after(connection, self._key, known, head)  # or this replica is on a fork
            query = f"SELECT FROM varserve_log WHERE {OF_MODEL} AND revision > %s AND append = %s"
            happened = connection.execute(
                f"{query} LIMIT 1", (*self._key, known.revision, self.last_append)
            ).fetchone()
        # Durable, and with another stamp: what is still on its way will do nothing.
        self._commit(connection, _CONFIRM, self._key, committing.COMMIT_SECONDS)
        log.info(
            "a commit was resolved", database=self._connector.name, happened=happened is not None
        )
        missed: list[KeptCommit] = []
        while known.revision < head[1]:
            missed += self._commits_after(connection, known)
            known = missed[-1].position
        return happened is not None, missed


def _are_all(rows: Sequence[LogRow], known: Position, head: Head) -> bool:
    """Whether rows after a position are all of them."""
    return bool((rows[-1].revision if rows else known.revision) == head[1])


def _bytes_of(entries: Sequence[Entry]) -> int:
    """Bytes of the values of commits."""
    return sum(sent_bytes(c.value) for entry in entries for c in entry.commit.changed)


def _seconds_for(nbytes: int) -> float:
    """How long a statement may take that moves so many bytes."""
    return committing.COMMIT_SECONDS + nbytes / _BYTES_PER_SECOND
