"""Connections to the database: their settings, and what their failures mean."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

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


_ANSWER_SECONDS = 2.0
"""For an answer of a server that has let somebody connect."""
_MORE_SECONDS = 0.5
"""For a server that may be newer than the newest that was seen, where that one has answered."""

_UNTOLD = (
    psycopg.errors.FeatureNotSupported,
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.UndefinedFunction,
)


Opened = tuple[int, Connection]
"""A connection, after the timeline of its server."""


class OldPrimary(psycopg.OperationalError):
    """The server was replaced by another one, and takes writes nevertheless."""


class Connector:
    """Makes connections of one kind, and names their target without a password. Thread-safe.

    A primary that comes back after it was replaced takes writes that nobody else has. Its timeline
    is older than that of the server which was promoted. So of several hosts the one with the
    newest timeline is taken, and none that is older than the newest seen.
    """

    def __init__(self, address: str) -> None:
        """`address`: a URL or a connection string of libpq. Raises psycopg.ProgrammingError."""
        given = conninfo_to_dict(address)
        more = {name: value for name, value in _CLIENT.items() if name not in given}
        self._hosts = [make_conninfo(address, **more, **host) for host in _hosts(given)]
        host, port = given.get("host", "its socket"), str(given.get("port", ""))
        port = port if port.strip(",") else "5432"
        self.name = f"PostgreSQL at {host}:{port}, database {given.get('dbname', 'of the user')}"
        self._newest = 0
        self._timelines: WeakKeyDictionary[Connection, int] = WeakKeyDictionary()

    def connect(self) -> Connection:
        """A connection in autocommit mode. Raises psycopg.Error."""
        timeline, connection = self._newest_of_all()
        try:
            self.check(connection, timeline)
            settings = "; ".join(f"SET {name} = {value}" for name, value in _SESSION.items())
            with cut_after(connection, _ANSWER_SECONDS):
                connection.execute(settings)
            self._timelines[connection] = timeline
            self._newest = max(self._newest, timeline)
        except BaseException:
            connection.close()
            raise
        return connection

    def _newest_of_all(self) -> Opened:
        """A connection to the server with the newest timeline. Raises psycopg.Error.

        All are asked at once, and one of them may say nothing. It is not waited for when another
        has come in place of the newest that was seen, and not for long when that is there itself.
        """
        if len(self._hosts) == 1:
            return _open(self._hosts[0])
        race = _Race(self._newest)
        for number, host in enumerate(self._hosts):
            threading.Thread(target=race.run, args=(number, host), daemon=True).start()
        return race.best(len(self._hosts))

    def check(self, connection: Connection, timeline: int | None = None) -> None:
        """Raises OldPrimary when a newer server than this connection's has been seen."""
        if timeline is None:
            timeline = self._timelines.get(connection, 0)
        if timeline < self._newest:
            raise OldPrimary(
                f"the server is on timeline {timeline}, and timeline {self._newest} was seen "
                "before: it was replaced by another server"
            )


class _Race:
    """Servers that are asked at once, each on a thread."""

    def __init__(self, newest: int) -> None:
        """`newest`: the newest timeline that was seen; 0: none."""
        self._seen = newest
        self._changed = threading.Condition()
        self._opened: list[Opened] = []
        self._failures: dict[int, psycopg.Error] = {}
        self._is_over = False

    def run(self, number: int, host: str) -> None:
        """Ask one of them; `number`: its place in the address."""
        found: Opened | psycopg.Error
        try:
            found = _open(host)
        except psycopg.Error as error:
            found = error
        except Exception as error:  # or whoever waits would wait without end
            found = psycopg.OperationalError(str(error))
        with self._changed:
            if isinstance(found, psycopg.Error):
                self._failures[number] = found
            elif self._is_over:
                found[1].close()
            else:
                self._opened.append(found)
            self._changed.notify()

    def best(self, count: int) -> Opened:
        """Of so many the one with the newest timeline. Raises psycopg.Error where none answers."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._is_decided(count), _MORE_SECONDS):
                self._changed.wait_for(lambda: self._is_decided(count) or self._has(self._seen))
            self._is_over = True
        if not self._opened:
            raise self._failures[max(self._failures)]
        *older, newest = sorted(self._opened, key=lambda opened: opened[0])
        for _, connection in older:
            connection.close()
        return newest

    def _is_decided(self, count: int) -> bool:
        return self._has(self._seen + 1) or len(self._opened) + len(self._failures) == count

    def _has(self, least: int) -> bool:
        """Whether one of them has come, of those that were seen before or newer."""
        return self._seen > 0 and any(timeline >= least for timeline, _ in self._opened)


def _open(host: str) -> Opened:
    """A connection, and the timeline of its server. Raises psycopg.Error."""
    connection = psycopg.connect(host, autocommit=True, prepare_threshold=5)
    try:
        with cut_after(connection, _ANSWER_SECONDS):
            return _timeline(connection), connection
    except BaseException:
        connection.close()
        raise


def _hosts(given: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """The host and port of each server of an address; of one without a list what it has itself."""
    hosts, ports = str(given.get("host", "")).split(","), str(given.get("port", "")).split(",")
    if len(hosts) == 1:
        yield {}
        return
    for number, host in enumerate(hosts):
        port = ports[number] if len(ports) == len(hosts) else ports[0]
        # Also an empty one: the address itself may have a port, or a comma, for each of its hosts.
        yield {"host": host, "port": port}


def _timeline(connection: Connection) -> int:
    """The timeline of a server; 0 where it does not tell, as some that are like PostgreSQL."""
    try:
        query = "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)"
        row = connection.execute(query).fetchone()
    except _UNTOLD:
        return 0
    assert row is not None
    return int(row[0], 16)


def log_durability(name: str, connection: Connection) -> None:
    """Say in the log what an acknowledged commit survives. Raises psycopg.Error."""
    query = "SELECT current_setting('server_version'), current_setting('synchronous_standby_names')"
    version, standbys = connection.execute(query).fetchone() or ("", "")
    log.info(
        "the state is kept by PostgreSQL",
        database=name,
        version=version,
        acknowledged_when=f"on this server and on {standbys}"
        if standbys
        else "on this server alone",
    )
    for setting in ("fsync", "full_page_writes"):
        row = connection.execute("SELECT current_setting(%s)", (setting,)).fetchone()
        if row is not None and row[0] == "off":
            log.warning(
                "a crash of the database's machine may lose acknowledged writes",
                database=name,
                setting=setting,
                value="off",
            )


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
