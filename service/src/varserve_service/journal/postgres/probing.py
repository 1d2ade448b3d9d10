"""Asking the database for the newest commit, so that the answer is worth something.

A plain select would be answered by a primary that was cut off from its standbys and replaced. The
probe writes a record that nobody reads, so the answer waits for what a commit waits for.
"""

from __future__ import annotations

import time

import psycopg

from varserve_service.core.errors import JournalClosed, JournalError, StateStoreUnavailable
from varserve_service.core.ports.journal import Position
from varserve_service.journal.disk import log

from .connection import Connector, cut_after
from .head import OF_MODEL, Key
from .reading import check_known
from .schema import Connection

_PROBE_SECONDS = 3.0
_AT_ONCE_SECONDS = 1.0
# One statement: the look at the head and the record are one transaction.
_PROBE = f"""
    SELECT epoch, revision, append, horizon, horizon_append, (
        SELECT log.append FROM varserve_log AS log
        WHERE (log.model, log.version) = (head.model, head.version) AND log.revision = %s
    ), pg_logical_emit_message(true, 'varserve', '')
    FROM varserve_head AS head WHERE {OF_MODEL}
"""


class Prober:
    """The connection by which one replica asks. `newest` is for one thread."""

    def __init__(self, connector: Connector, key: Key, epoch: str) -> None:
        self._connector = connector
        self._key = key
        self._epoch = epoch
        self._open: Connection | None = None
        self._closed = False

    def newest(self, known: Position) -> Position:
        """As `SharedJournal.newest`."""
        reused, began = self._open is not None, time.monotonic()
        try:
            newest = self._newest(known)
            if self._closed:
                self._drop()  # one that was made while it closed
            return newest
        except psycopg.Error as error:
            self._drop()
            if self._closed:
                raise JournalClosed from error
            if reused and time.monotonic() < began + _AT_ONCE_SECONDS:
                return self.newest(known)  # the connection ended while nobody used it
            log.warning(
                "the newest commit is not known", database=self._connector.name, error=str(error)
            )
            raise StateStoreUnavailable(
                "the database that keeps the state cannot be asked for the newest revision, or "
                "does not make anything durable; retry, or read what this replica has"
            ) from error

    def _newest(self, known: Position) -> Position:
        if self._open is None:
            self._open = self._connector.connect()
            self._open.add_notice_handler(self._note)
        connection = self._open
        self._connector.check(connection)
        self._notices: list[str] = []
        with cut_after(connection, _PROBE_SECONDS):
            row = connection.execute(_PROBE, (known.revision, *self._key), prepare=True).fetchone()
        if self._notices:
            # A wait for the standbys was ended: the answer may be of a primary that was replaced.
            raise psycopg.OperationalError(self._notices[0])
        if row is None or row[0] != self._epoch:
            raise JournalError("the state in the database was removed or began anew")
        check_known(known, row[5], Position(row[3], row[4]))
        return Position(row[1], row[2])

    def _note(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        self._notices.append(diagnostic.message_primary or "")

    def close(self) -> None:
        """Close the connection; a question in progress fails."""
        self._closed = True
        self._drop()

    def _drop(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None
