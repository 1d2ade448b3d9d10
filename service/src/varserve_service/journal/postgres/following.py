"""Following the log: the commits of other replicas, by LISTEN and a poll beside it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Protocol

import psycopg

from varserve_service.core.errors import JournalError
from varserve_service.core.ports.journal import KeptCommit, Position
from varserve_service.core.ports.shared_journal import Standing
from varserve_service.journal.disk import log

from .connection import Connector
from .guard import Guard
from .head import OF_MODEL, Key
from .reading import blob_bytes_of, commits_after, may_be_more, rows_after
from .rows import LogRow
from .schema import CHANNEL, Connection
from .telling import Sender

_PATIENCE_SECONDS, _MOST_SECONDS = 3.0, 14.0
"""For an answer: more, when one did not come, because it may have been a large one."""
_POLL_SECONDS = 0.1
_NEWS_SECONDS = 0.25
_LOOK_SECONDS = 5.0
_OWN_SECONDS = 0.02
_WHERE_THE_LOG_IS = (
    "SELECT revision, current_setting('synchronous_standby_names') <> '' "
    f"FROM varserve_head WHERE {OF_MODEL}"
)


class Appends(Protocol):
    """What a replica appends itself."""

    last_append: str
    """The one that was made, or tried, last; this replica has its values already."""
    position: Position | None
    """Of the last one that it knows to be there; None: there was none yet."""
    rests: threading.Event
    """Set while it does not append."""
    waited: float
    """Seconds, so far, in which it wanted to append and did not: it takes no commits meanwhile."""


class Nothing:
    """Implements Appends: of who appends nothing."""

    last_append = ""
    position = None
    waited = 0.0

    def __init__(self) -> None:
        self.rests = threading.Event()
        self.rests.set()


class Listener:
    """The connection by which one replica follows. `news` is for one thread."""

    def __init__(
        self,
        connector: Connector,
        key: Key,
        sender: Sender,
        own: Appends | None = None,
    ) -> None:
        """`own`: what this replica appends itself."""
        self._sender = sender
        self._own = own or Nothing()
        self._waited = self._own.waited
        self._passed = ""
        self._connector = connector
        self._key = key
        self._closed = threading.Event()
        self._open: Connection | None = None
        self._guard = Guard()
        self._patience = _PATIENCE_SECONDS
        self._is_lost = False
        """The log was asked for and not read since, which was told."""
        self._read_at = time.monotonic()
        self._had_all_at: float | None = None
        """When this replica had every commit last, not counting when the log was out of reach."""
        self._handed: tuple[float, int, bool] | None = None
        """When commits were asked for that may not be taken yet, the last, and if these are all."""
        self._behind = 0
        self._synchronous = False
        self._look_at = 0.0

    @property
    def standing(self) -> Standing:
        """As `SharedJournal.standing`. From any thread."""
        read_at, had_all_at = self._read_at, self._had_all_at
        silent = max(0.0, time.monotonic() - read_at)
        # Not by the time now: while a commit of its own is found out it takes none of the others'.
        behind = float("inf") if had_all_at is None else max(0.0, read_at - had_all_at)
        return Standing(silent, self._behind, behind, self._synchronous)

    def news(self, known: Position) -> Sequence[KeptCommit]:
        """As `SharedJournal.news`."""
        if self._closed.is_set():
            self._drop()  # one that was made while it closed
            raise JournalError("the journal is closed")
        until = time.monotonic() + _NEWS_SECONDS
        self._note_taken(known)
        self._note_waited()
        try:
            if self._open is None or self._open.closed:
                self._open = self._connector.connect()
                with self._guard.cut_after(self._open, self._patience):
                    self._open.execute(f"LISTEN {CHANNEL}")
            connection = self._open
            self._connector.check(connection)
            while not self._closed.is_set():
                asked_at = time.monotonic()
                known = self._latest(known)
                with self._guard.cut_after(connection, self._patience):
                    rows = rows_after(connection, self._key, known)
                    self._look(connection, known)
                self._patience = _PATIENCE_SECONDS
                self._tell_followed()
                if self._is_own(rows):
                    self._closed.wait(_OWN_SECONDS)
                    return []
                commits = commits_after(connection, self._key, known, rows, self._guard.cut_after)
                all_of_them = len(commits) == len(rows) and not may_be_more(rows)
                self._note_read(asked_at, commits, all_of_them=all_of_them)
                if commits or time.monotonic() >= until:
                    return commits
                self._wait(connection, known)
        except psycopg.Error as error:
            if not self._closed.is_set():
                self._tell_not_followed(error)
                self._closed.wait(_POLL_SECONDS)
            self._patience = min(2 * self._patience, _MOST_SECONDS)
            self._drop()
        return []

    def _latest(self, known: Position) -> Position:
        """The position, or that of a later commit of this replica: it has all before that."""
        own = self._own.position
        return own if own is not None and own.revision > known.revision else known

    def _wait(self, connection: Connection, known: Position) -> None:
        """Wait until another replica tells what this one has not, or until it is time to look."""
        until = time.monotonic() + _POLL_SECONDS
        while (left := until - time.monotonic()) > 0:
            told = connection.notifies(timeout=left, stop_after=1)
            newest = max((self._sender.news(each.payload) for each in told), default=0)
            if not newest:
                continue
            # Nothing could be taken before a turn ends, and that brings it.
            self._own.rests.wait(max(0.0, until - time.monotonic()))
            if self._latest(known).revision < newest:
                return

    def _is_own(self, rows: Sequence[LogRow]) -> bool:
        """Whether these are large values that this replica has just written.

        It has them when it is asked with its new position; once, because it may not know that it
        wrote them.
        """
        own = self._own.last_append
        if own == self._passed or not blob_bytes_of([row for row in rows if row.append == own]):
            return False
        self._passed = own
        return True

    def _tell_not_followed(self, error: psycopg.Error) -> None:
        """In the log, once until it is followed again: it is tried many times a second."""
        if not self._is_lost:
            self._is_lost = True
            log.warning("the log is not followed", database=self._connector.name, error=str(error))

    def _tell_followed(self) -> None:
        if self._is_lost:
            self._is_lost = False
            log.info("the log is followed again", database=self._connector.name)

    def _note_read(
        self, asked_at: float, commits: Sequence[KeptCommit], *, all_of_them: bool
    ) -> None:
        if commits:
            self._handed = asked_at, commits[-1].revision, all_of_them
        else:
            self._had_all_at = asked_at

    def _note_taken(self, known: Position) -> None:
        if self._handed is not None and self._handed[1] <= known.revision:
            asked_at, _, all_of_them = self._handed
            self._handed = None
            if all_of_them:
                self._had_all_at = asked_at

    def _note_waited(self) -> None:
        """All replicas wait while the database makes nothing durable, and none is older for it."""
        more = self._own.waited - self._waited
        self._waited += more
        now = time.monotonic()
        if self._had_all_at is not None:
            self._had_all_at = min(now, self._had_all_at + more)
        if self._handed is not None:
            asked_at, last, all_of_them = self._handed
            self._handed = min(now, asked_at + more), last, all_of_them

    def _look(self, connection: Connection, known: Position) -> None:
        """Take note that the log was read, and of where it is, now and then."""
        now = time.monotonic()
        if self._is_lost and self._had_all_at is not None:
            # All replicas lost it, and would be too old all at once when it is back. Since the last
            # read, and not since one failed: none is tried while a commit is found out.
            self._had_all_at += now - self._read_at
        self._read_at = now
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_SECONDS
        row = connection.execute(_WHERE_THE_LOG_IS, self._key).fetchone()
        if row is not None:
            self._behind = max(0, row[0] - known.revision)
            self._synchronous = bool(row[1])

    def _drop(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def close(self) -> None:
        """Close the connection; a wait in progress ends."""
        self._closed.set()
        self._guard.close()
        self._drop()
