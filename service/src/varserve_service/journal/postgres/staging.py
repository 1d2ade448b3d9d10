"""Staging: the values of a commit go to the database before it has the lock of the head row."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import psycopg

from varserve_service.core.errors import Reason, RequestError, StateStoreUnavailable
from varserve_service.core.ports.loaded_model import Value
from varserve_service.core.ports.messages import sent_bytes
from varserve_service.journal.records import TensorRecord

from .blobs import BlobWriter
from .connection import Connector, cut_after, refusal
from .head import Key
from .schema import Connection

_AT_ONCE = 2
_SECONDS = 15.0
_BYTES_PER_SECOND = 10e6
# Values may come from a device. The transaction holds nothing that others wait for.
_BEGIN = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = 60000"


class StagedBlobs:
    """Values of one commit in blobs that no commit keeps yet."""

    def __init__(
        self,
        values: Mapping[str, Value],
        places: Mapping[str, TensorRecord],
        forget: Callable[[Sequence[str]], None],
    ) -> None:
        """`forget` is told of blobs that no commit keeps."""
        self._values = values
        self._places = places
        self._forget = forget
        self.taken: set[str] = set()
        """The blobs of the values that were taken."""
        self._kept = False

    def take(self, path: str, value: Value) -> TensorRecord | None:
        """The place of exactly this value; None when another one was staged."""
        if self._values.get(path) is not value:
            return None
        self.taken.add(self._places[path]["blob"])
        return self._places[path]

    def keep(self) -> None:
        """A commit keeps what was taken."""
        self._kept = True

    def discard(self) -> None:
        kept = self.taken if self._kept else set()
        left = {place["blob"] for place in self._places.values()} - kept
        if left:
            self._forget(sorted(left))


class Stager:
    """Stages values by connections of its own, a few at a time. From any thread."""

    def __init__(
        self, connector: Connector, key: Key, forget: Callable[[Sequence[str]], None]
    ) -> None:
        self._connector = connector
        self._key = key
        self._forget = forget
        self._turns = threading.Semaphore(_AT_ONCE)
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._closed = False

    def stage(self, values: Mapping[str, Value], deadline: float | None) -> StagedBlobs:
        """As `SharedJournal.stage`."""
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not self._turns.acquire(timeout=left):
            raise _too_late()
        try:
            with self._transaction() as connection:
                seconds = _SECONDS + sum(map(sent_bytes, values.values())) / _BYTES_PER_SECOND
                with cut_after(connection, seconds):
                    writer = BlobWriter(connection, self._key, lambda: _check(deadline))
                    places = writer.write(values, None)
                    connection.execute("COMMIT")
        except psycopg.Error as error:
            raise refusal(self._connector.name, error) from error
        finally:
            self._turns.release()
        return StagedBlobs(values, places, self._forget)

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """A connection on which a transaction has begun. It is used again where nothing failed."""
        connection = self._begun()
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def _begun(self) -> Connection:
        while True:
            with self._lock:
                if self._closed:
                    raise StateStoreUnavailable("the model is being closed; nothing was changed")
                connection = self._idle.pop() if self._idle else None
            reused = connection is not None
            try:
                connection = connection or self._connector.connect()
                self._connector.check(connection)
                with cut_after(connection, _SECONDS):
                    connection.execute(_BEGIN)
            except BaseException as error:
                if connection is not None:
                    connection.close()
                if reused and isinstance(error, psycopg.OperationalError):
                    continue  # it ended while nobody used it
                raise
            return connection

    def close(self) -> None:
        """Close the connections that nobody uses."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


def _check(deadline: float | None) -> None:
    if deadline is not None and time.monotonic() >= deadline:
        raise _too_late()


def _too_late() -> RequestError:
    return RequestError(
        Reason.DEADLINE_EXCEEDED,
        "the deadline passed while large values went to the database; nothing was changed",
    )
