"""Following the log: the commits of other replicas, by LISTEN and a poll beside it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress

import psycopg

from varserve_service.core.errors import JournalError
from varserve_service.core.ports.journal import KeptCommit, Position
from varserve_service.core.ports.shared_journal import Standing
from varserve_service.journal.disk import log

from .connection import Connector, cut_after
from .reading import OF_MODEL, Key, commits_after
from .schema import CHANNEL, Connection

_CUT_SECONDS = 14.0
_POLL_SECONDS = 0.1
_NEWS_SECONDS = 0.25
_LOOK_SECONDS = 5.0
_WHERE_THE_LOG_IS = (
    "SELECT revision, current_setting('synchronous_standby_names') <> '' "
    f"FROM varserve_head WHERE {OF_MODEL}"
)


class Listener:
    """The connection by which one replica follows. `news` is for one thread."""

    def __init__(self, connector: Connector, key: Key) -> None:
        self._connector = connector
        self._key = key
        self._closed = threading.Event()
        self._open: Connection | None = None
        self._read_at = time.monotonic()
        self._behind = 0
        self._synchronous = False
        self._look_at = 0.0

    @property
    def standing(self) -> Standing:
        """As `SharedJournal.standing`. From any thread."""
        silent = max(0.0, time.monotonic() - self._read_at)
        return Standing(silent, self._behind, self._synchronous)

    def news(self, known: Position) -> Sequence[KeptCommit]:
        """As `SharedJournal.news`."""
        if self._closed.is_set():
            self._drop()  # one that was made while it closed
            raise JournalError("the journal is closed")
        until = time.monotonic() + _NEWS_SECONDS
        try:
            if self._open is None or self._open.closed:
                self._open = self._connector.connect()
                self._open.execute(f"LISTEN {CHANNEL}")
            connection = self._open
            self._connector.check(connection)
            while not self._closed.is_set():
                with cut_after(connection, _CUT_SECONDS):
                    commits = commits_after(connection, self._key, known)
                    self._look(connection, known)
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
            self._drop()
        return []

    def _look(self, connection: Connection, known: Position) -> None:
        """Take note of where the log is, now and then."""
        self._read_at = now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_SECONDS
        row = connection.execute(_WHERE_THE_LOG_IS, self._key).fetchone()
        if row is not None:
            self._behind = max(0, row[0] - known.revision)
            self._synchronous = bool(row[1])

    def _drop(self) -> None:
        if self._open is not None:
            with suppress(psycopg.Error):
                self._open.close()
            self._open = None

    def close(self) -> None:
        """Close the connection; a wait in progress ends."""
        self._closed.set()
        self._drop()
