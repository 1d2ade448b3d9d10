"""Connections to the database: their settings, and what their failures mean."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from varserve_service.core.errors import RequestError, StateStoreFull, StateStoreUnavailable
from varserve_service.journal.disk import log

from .guard import cut
from .schema import Connection

_CLIENT: dict[str, Any] = {
    "connect_timeout": 2,
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 5000,
    "client_encoding": "utf8",
    "application_name": "varserve",
    "target_session_attrs": "read-write",
}
# What frees the lock of a replica that was stopped, or whose machine is gone, within seconds.
_SESSION = {
    "idle_in_transaction_session_timeout": "1500",
    "tcp_user_timeout": "3000",
    "tcp_keepalives_idle": "2",
    "tcp_keepalives_interval": "1",
    "tcp_keepalives_count": "3",
    "client_connection_check_interval": "1000",
    "lock_timeout": "10000",
    "statement_timeout": "15000",
    "synchronous_commit": "on",
}


class Connector:
    """Makes connections of one kind, and says where to without a password."""

    def __init__(self, address: str) -> None:
        """`address`: a URL or a connection string of libpq. Raises psycopg.ProgrammingError."""
        given = conninfo_to_dict(address)
        self._conninfo = make_conninfo(
            address, **{k: v for k, v in _CLIENT.items() if k not in given}
        )
        host, port = given.get("host", "its socket"), given.get("port", 5432)
        self.name = f"PostgreSQL at {host}:{port}, database {given.get('dbname', 'of the user')}"

    def connect(self) -> Connection:
        """A connection in autocommit mode. Raises psycopg.Error."""
        connection = psycopg.connect(self._conninfo, autocommit=True, prepare_threshold=5)
        try:
            settings = "; ".join(f"SET {name} = {value}" for name, value in _SESSION.items())
            connection.execute(settings)
        except BaseException:
            connection.close()
            raise
        return connection


@contextmanager
def cut_after(connection: Connection, seconds: float) -> Iterator[None]:
    """As `Guard.cut_after`, for what is not done often."""

    def act() -> None:
        log.error("the database did not answer in time; the connection is cut", seconds=seconds)
        cut(connection)

    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def refusal(name: str, error: Exception) -> RequestError:
    """The error of a write that was not kept; the log has what the caller may not read."""
    if isinstance(error, psycopg.errors.DiskFull):
        return StateStoreFull(
            "the disk of the database that keeps the state is full; nothing was changed; retry "
            "when it has room"
        )
    log.error("a write was refused: the database failed", database=name, error=str(error).strip())
    return StateStoreUnavailable(
        "the database that keeps the state cannot be reached or written; nothing was changed; retry"
    )
