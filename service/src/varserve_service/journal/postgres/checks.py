"""Rounds in which all replicas hash their values at one revision, and what each found."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from varserve_service.core.errors import JournalClosed, StateStoreUnavailable

from .connection import Connector, cut_after
from .head import OF_MODEL, Key

_SECONDS = 3.0
# A round begins where there is none, or the last one began long enough ago.
_BEGIN = """
    INSERT INTO varserve_round
    SELECT model, version, 1, revision, clock_timestamp() FROM varserve_head
    WHERE model = %s AND version = %s
    ON CONFLICT (model, version) DO UPDATE SET
        number = varserve_round.number + 1, revision = excluded.revision, began = excluded.began
    WHERE varserve_round.began < clock_timestamp() - %s * interval '1 second'
"""
_FORGET = f"DELETE FROM varserve_report WHERE {OF_MODEL} AND number < %s"
_REPORT = """
    INSERT INTO varserve_report VALUES (%s, %s, %s, %s, %s)
    ON CONFLICT (model, version, number, replica) DO NOTHING
"""


class Checks:
    """What one replica takes part in. For one thread; a connection for each look."""

    def __init__(self, connector: Connector, key: Key, seconds: float) -> None:
        self._connector = connector
        self._key = key
        self.seconds = seconds
        self._replica = secrets.token_hex(8)
        self._last: int | None = None
        self._closed = False

    def round(self) -> tuple[int, int] | None:
        """As `SharedJournal.check_round`."""
        rows = self._ask(
            (_BEGIN, (*self._key, self.seconds)),
            (f"SELECT number, revision FROM varserve_round WHERE {OF_MODEL}", self._key),
        )
        number, revision = rows[0]
        return None if number == self._last else (number, revision)

    def report(self, number: int, hashes: Mapping[str, str]) -> None:
        """As `SharedJournal.report`."""
        values = (*self._key, number, self._replica, Jsonb(dict(hashes)))
        self._ask((_FORGET, (*self._key, number)), (_REPORT, values))
        self._last = number

    def reports(self, number: int) -> Sequence[Mapping[str, str]]:
        """As `SharedJournal.reports`."""
        query = f"SELECT hashes FROM varserve_report WHERE {OF_MODEL} AND number = %s"
        return [row[0] for row in self._ask((query, (*self._key, number)))]

    def _ask(self, *statements: tuple[str, tuple[object, ...]]) -> list[tuple[Any, ...]]:
        if self._closed:
            raise JournalClosed
        try:
            connection = self._connector.connect()
        except psycopg.Error as error:
            raise StateStoreUnavailable("the database cannot be reached") from error
        try:
            with cut_after(connection, _SECONDS):
                for query, values in statements:
                    cursor = connection.execute(query, values)
                return cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            raise StateStoreUnavailable("the database cannot be asked") from error
        finally:
            connection.close()

    def close(self) -> None:
        """Ask no more."""
        self._closed = True
