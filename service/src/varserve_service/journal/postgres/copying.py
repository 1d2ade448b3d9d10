"""Copying a state into the database, or out of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from varserve_service.core.errors import JournalError
from varserve_service.core.ports.journal import KeptAnswer, KeptCommit, KeptState
from varserve_service.core.values.host_value import HostValue
from varserve_service.journal.copying import commit_content, history_row
from varserve_service.journal.failures import StateUnavailable
from varserve_service.journal.options import JournalOptions
from varserve_service.journal.payloads import Inline
from varserve_service.journal.records import Record, Row
from varserve_service.journal.rows import base_key, change_record, commit_key

from .blobs import OF_NO_COMMIT, BlobWriter
from .connection import Connector
from .journal import PostgresJournal
from .rows import placed
from .schema import Connection, prepare

APPEND = "copied"
"""The append that all copied commits are part of."""


class CopyingDatabase:
    """A database that states are copied into or out of."""

    def __init__(self, address: str, options: JournalOptions) -> None:
        """Raises StateUnavailable, JournalError."""
        self._options = options
        try:
            self._connector = Connector(address)
            with self._connector.connect() as connection:
                prepare(connection)
        except psycopg.Error as error:
            raise self._unavailable(error) from error

    def states(self) -> list[tuple[str, int, Record]]:
        """Model, version and description of each state. Raises StateUnavailable."""
        query = "SELECT model, version, description FROM varserve_head ORDER BY model, version"
        try:
            with self._connector.connect() as connection:
                return [(row[0], row[1], row[2]) for row in connection.execute(query)]
        except psycopg.Error as error:
            raise self._unavailable(error) from error

    def open(self, model: str, version: int, description: Record) -> PostgresJournal:
        """The journal of a state, from one snapshot. Raises StateUnavailable, JournalError."""
        try:
            return PostgresJournal(self._connector, model, version, description, self._options)
        except psycopg.Error as error:
            raise self._unavailable(error) from error

    def fill(self, model: str, version: int, description: Record, source: KeptState) -> None:
        """Write what a journal gives back as a new state: all of it or nothing.

        Raises JournalError when there is one of this model, StateUnavailable.
        """
        try:
            with self._connector.connect() as connection, connection.transaction():
                connection.execute("SET LOCAL statement_timeout = 0")
                connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
                _fill(connection, (model, version), description, source)
        except psycopg.Error as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: psycopg.Error) -> StateUnavailable:
        said = " ".join(str(error).split())
        return StateUnavailable(f"the database cannot be used: {said}")


def _fill(
    connection: Connection,
    key: tuple[str, int],
    description: Record,
    source: KeptState,
) -> None:
    at_horizon = APPEND if source.horizon else ""
    made = connection.execute(
        "INSERT INTO varserve_head VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
        (*key, source.epoch, *(source.horizon, at_horizon) * 2, Jsonb(description)),
    )
    if made.rowcount != 1:
        raise JournalError(
            f"the database has a state of model {key[0]!r}, version {key[1]}: expected none"
        )
    _insert(connection, "base", _base_rows(key, source, BlobWriter(connection, key)))
    _insert(
        connection,
        "history",
        ((*key, each.revision, *history_row(each).encoded()) for each in source.records()),
    )
    answers = {each.revision: each for each in source.answers()}
    last, blobs = source.horizon, BlobWriter(connection, key)
    with connection.cursor() as cursor:
        for commit in source.commits():
            last = commit.revision
            row = _log_row(commit, answers.get(last), blobs)
            cursor.execute(
                "INSERT INTO varserve_log VALUES (%s, %s, %s, %s, %b, %b, %s)",
                (*key, last, APPEND, *row.encoded()),
            )
    connection.execute(
        "UPDATE varserve_head SET revision = %s, append = %s WHERE model = %s AND version = %s",
        (last, APPEND if last else "", *key),
    )


def _base_rows(
    key: tuple[str, int], source: KeptState, blobs: BlobWriter
) -> Iterator[tuple[Any, ...]]:
    for base in source.base():
        change, inline = base.change, Inline()
        values, parts = {change.path: HostValue(change.value)}, {change.path: change.part}
        places = placed(values, parts, inline, blobs, OF_NO_COMMIT)
        record = {
            "revision": base.revision,
            "change": change_record(change.path, change.part, places, inline),
        }
        row = Row(base_key(change.path), record, inline.payload())
        yield (*key, change.path, *row.encoded())


def _log_row(commit: KeptCommit, answer: KeptAnswer | None, blobs: BlobWriter) -> Row:
    inline = Inline()
    written = {each.path: HostValue(each.value) for each in commit.changes}
    parts = {each.path: each.part for each in commit.changes}
    places = placed(written, parts, inline, blobs, commit.revision)
    changes = [change_record(path, part, places, inline) for path, part in parts.items()]
    values = {} if answer is None else answer.values
    told = None
    if values is not None:
        told = {name: inline.add(value) for name, value in values.items()}
    record = commit_content(commit, changes) | {"answer": told}
    return Row(commit_key(commit.revision), record, inline.payload())


def _insert(connection: Connection, table: str, rows: Iterator[tuple[Any, ...]]) -> None:
    query = f"INSERT INTO varserve_{table} VALUES (%s, %s, %s, %b, %b, %s)"
    for row in rows:  # one by one: making a row may write blobs by the same connection
        connection.execute(query, row)
