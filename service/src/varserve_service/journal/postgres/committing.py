"""A connection that commits go by, and the three outcomes that one has on it.

Done; refused, with nothing changed; or undecided, when the connection goes while the commit is on
its way. Whatever takes too long is cut, and nothing is cancelled.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg

from varserve_service.core.errors import StateStoreUnavailable
from varserve_service.core.ports.shared_journal import AppendUndecided
from varserve_service.journal.disk import log

from .connection import Connector, refusal
from .guard import Guard
from .schema import Connection
from .telling import Teller

COMMIT_SECONDS = 3.0
"""A commit that takes longer is undecided, and resolved."""
_SETTLE_SECONDS = 1.5


class Committing:
    """The connection of one replica. Its methods are for one thread at a time."""

    def __init__(self, connector: Connector, teller: Teller) -> None:
        self._connector = connector
        self._teller = teller
        self._closed = threading.Event()
        self._guard = Guard()
        self._open: Connection | None = None
        self._stamp = ""
        """That of the head row, where it is known: the transaction that wrote it last."""

    def _commit(
        self, connection: Connection, query: str, parameters: Sequence[Any], seconds: float
    ) -> list[str]:
        """Run the last statement of a turn and commit; the stamps that it returns.

        Raises AppendUndecided; StateStoreFull, StateStoreUnavailable with nothing changed.
        """
        self._stamp = ""  # that of this transaction now
        try:
            with self._guard.cut_after(connection, seconds):
                # Prepared, and not in one pipeline with the commit: a replica that stops between
                # two of its messages would keep the lock, because the server waits for the rest.
                changed = connection.execute(query, parameters, prepare=True)
                stamps = [stamp for (stamp,) in changed] if changed.description else []
        except psycopg.Error as error:
            # The commit was not sent: the server rolls back what it has.
            self._drop()
            raise refusal(self._connector.name, error) from error
        with self._decided(connection, COMMIT_SECONDS):
            commit = connection.execute("COMMIT")
        if commit.statusmessage != "COMMIT":
            raise StateStoreUnavailable(
                "the database rolled the commit back; nothing was changed; retry"
            )
        return stamps

    @contextmanager
    def _decided(self, connection: Connection, seconds: float) -> Iterator[None]:
        """Of a block that commits: it happened, unless this raises.

        Raises AppendUndecided; StateStoreFull with nothing changed.
        """
        notices: list[str] = []

        def note(diagnostic: psycopg.errors.Diagnostic) -> None:
            notices.append(diagnostic.message_primary or "")

        connection.add_notice_handler(note)
        try:
            with self._guard.cut_after(connection, seconds):
                yield
        except psycopg.errors.DiskFull as error:
            self._drop()  # an error that the server tells ends its transaction
            raise refusal(self._connector.name, error) from error
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

    def _connection(self) -> Connection:
        if self._closed.is_set():
            raise StateStoreUnavailable("the model is being closed; nothing was changed")
        if self._open is None or self._open.closed:
            self._open = self._connector.connect()
        self._connector.check(self._open)
        if self._teller.waits:
            with self._guard.cut_after(self._open, _SETTLE_SECONDS):
                self._teller.settle(self._open)
        else:
            self._teller.settle(self._open)
        return self._open

    def _roll_back(self) -> None:
        """Give the turn back, if it is still held."""
        connection = self._open
        if connection is None:
            return
        try:
            with self._guard.cut_after(connection, COMMIT_SECONDS):
                connection.execute("ROLLBACK")
        except psycopg.Error:
            self._drop()

    def _drop(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None
        self._stamp = ""
        self._teller.forget()

    def close(self) -> None:
        """Close the connection."""
        self._closed.set()
        self._guard.close()
        self._drop()
