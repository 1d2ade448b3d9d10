"""One model's commits in the database: implements the core's SharedJournal.

Gives back what was kept, from one snapshot; appending, following and housekeeping have modules of
their own.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from psycopg.types.json import Jsonb

from varserve_service.core.ports.commits import CommitRecord
from varserve_service.core.ports.journal import (
    KeptAnswer,
    KeptBase,
    KeptCommit,
    Position,
    StagedValues,
)
from varserve_service.core.ports.loaded_model import Value
from varserve_service.core.ports.shared_journal import Standing
from varserve_service.journal import records
from varserve_service.journal.compatibility import check_compatible
from varserve_service.journal.disk import end_process, log
from varserve_service.journal.options import JournalOptions
from varserve_service.journal.records import Record
from varserve_service.journal.rows import base_key, history_key, read_change

from .appending import Appender
from .blobs import INLINE_BYTES, BlobReader
from .checks import Checks
from .connection import Connector
from .following import Listener
from .head import HEAD, OF_MODEL
from .housekeeping import Housekeeper
from .leases import LeaseRows
from .probing import Prober
from .rows import LOG_COLUMNS, decoded, read_log_row
from .schema import Connection
from .staging import Stager
from .telling import Sender, Teller
from .turns import OptimisticTurn, Turn

_SILENT_SECONDS = 0.3
"""The listener asks three times as often."""
_ROWS_AT_ONCE = 20
"""Of up to a few MiB each."""


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
        self._nbytes = 0
        self._max_commit_bytes = options.commit_bytes
        self._snapshot: Connection | None = connector.connect()
        try:
            self._begin(self._snapshot, description)
            self._epoch, self._horizon, self._position = self._begin_snapshot(self._snapshot)
        except BaseException:
            self._end_snapshot()
            raise
        self._closed = False
        self._house = Housekeeper(connector, self._key, options)
        self._checks = Checks(connector, self._key, options.check_seconds)
        self._leases = LeaseRows(connector, self._key)
        self._prober = Prober(connector, self._key, self._epoch)
        self._stager = Stager(connector, self._key, self._house.forget)
        sender = Sender(self._key)
        self._appender = Appender(
            connector, self._key, self._epoch, options, Teller(sender.message), self._is_alive
        )
        self._listener = Listener(connector, self._key, sender, self._appender)

    def _begin(self, connection: Connection, description: Record) -> None:
        row = connection.execute(
            "INSERT INTO varserve_head VALUES (%s, %s, %s, 0, '', 0, '', %s) "
            "ON CONFLICT DO NOTHING RETURNING epoch",
            (*self._key, secrets.token_hex(8), Jsonb(description)),
        ).fetchone()
        if row is not None:
            log.info("a new state begins", database=self._connector.name, epoch=row[0])
        (kept,) = connection.execute(
            f"SELECT description FROM varserve_head WHERE {OF_MODEL}", self._key
        ).fetchone() or ({},)
        check_compatible(kept, description)

    def _begin_snapshot(self, connection: Connection) -> tuple[str, int, Position]:
        """What is given back is of one moment, whoever commits meanwhile."""
        connection.execute("SET idle_in_transaction_session_timeout = 0")
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        row = connection.execute(HEAD, self._key).fetchone()
        assert row is not None
        epoch, _, _, horizon, append = row
        return epoch, horizon, Position(horizon, append)

    def _is_alive(self) -> bool:
        """Whether the database answered just now."""
        return self._listener.standing.silent_seconds < _SILENT_SECONDS

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
    def standing(self) -> Standing:
        return self._listener.standing

    @property
    def leases(self) -> LeaseRows:
        return self._leases

    @property
    def max_commit_bytes(self) -> int:
        return self._max_commit_bytes

    @property
    def inline_bytes(self) -> int:
        return INLINE_BYTES

    @property
    def nbytes(self) -> int:
        return self._nbytes + self._appender.nbytes

    # Giving back.

    def base(self) -> Iterator[KeptBase]:
        for path, record, payload, crc in self._rows("base", "path, record, payload, crc", "path"):
            row = decoded(base_key(path), record, payload, crc)
            change = read_change(row.record["change"], payload, self._payloads)
            yield KeptBase(row.record["revision"], change)

    def records(self) -> Iterator[CommitRecord]:
        columns = "revision, record, payload, crc"
        for revision, record, payload, crc in self._rows("history", columns, "revision"):
            row = decoded(history_key(revision), record, payload, crc)
            yield records.read_history(revision, row.record)

    def commits(self) -> Iterator[KeptCommit]:
        for columns in self._rows("log", LOG_COLUMNS, "revision"):
            row = read_log_row(*columns)
            self._position = Position(row.revision, row.append)
            self._nbytes += len(columns[2]) + row.nbytes
            yield row.commit(self._payloads)

    def answers(self) -> Iterator[KeptAnswer]:
        for columns in self._rows("log", LOG_COLUMNS, "revision"):
            answer = read_log_row(*columns).answer(self._payloads)
            if answer is not None:
                yield answer

    @property
    def _payloads(self) -> BlobReader:
        assert self._snapshot is not None
        return BlobReader(self._snapshot, self._key)

    def start(self) -> None:
        self._end_snapshot()
        self._house.start()

    def _end_snapshot(self) -> None:
        if self._snapshot is not None:
            self._snapshot.close()
            self._snapshot = None

    def _rows(self, table: str, columns: str, order: str) -> Iterator[tuple[Any, ...]]:
        assert self._snapshot is not None
        # A cursor of the server, or all of the rows would be in memory at once.
        name = f"varserve_{table}_{secrets.token_hex(4)}"
        with self._snapshot.cursor(name, binary=True) as cursor:
            cursor.itersize = _ROWS_AT_ONCE
            query = f"SELECT {columns} FROM varserve_{table} WHERE {OF_MODEL} ORDER BY {order}"
            yield from cursor.execute(query, self._key)

    # Keeping.

    def stage(self, values: Mapping[str, Value], deadline: float | None) -> StagedValues:
        return self._stager.stage(values, deadline)

    def turn(
        self, known: Position, deadline: float | None, *, sure: bool
    ) -> AbstractContextManager[Turn | OptimisticTurn]:
        return self._appender.turn(known, deadline, sure=sure)

    def news(self, known: Position) -> Sequence[KeptCommit]:
        return self._listener.news(known)

    def newest(self, known: Position) -> Position:
        return self._prober.newest(known)

    @property
    def check_seconds(self) -> float:
        return self._checks.seconds

    def check_round(self) -> tuple[int, int] | None:
        return self._checks.round()

    def report(self, number: int, hashes: Mapping[str, str]) -> None:
        self._checks.report(number, hashes)

    def reports(self, number: int) -> Sequence[Mapping[str, str]]:
        return self._checks.reports(number)

    def resolve(self, known: Position) -> tuple[bool, Sequence[KeptCommit]]:
        return self._appender.resolve(known)

    def give_up(self, error: Exception) -> None:
        """End the process: the next one builds its state from the database."""
        if not self._closed:
            end_process(self._connector.name, error, "this replica cannot go on from its state")

    def sweep(self, seconds: float) -> int:
        """Remove large values that no commit kept and that are so old; how many there were.

        Raises psycopg.Error.
        """
        return self._house.sweep(seconds)

    def compact(self) -> None:
        """Bring the log within its bounds. Raises JournalError, psycopg.Error."""
        self._house.compact()

    def close(self) -> None:
        """Close the connections. What was appended is durable already."""
        self._closed = True
        self._end_snapshot()
        self._house.close()
        self._stager.close()
        self._appender.close()
        self._listener.close()
        self._prober.close()
        self._leases.close()
        self._checks.close()
