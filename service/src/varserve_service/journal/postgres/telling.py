"""Telling other replicas of a commit, by the connection that made it.

What is told is that there is something in the log, and by whom; the log is looked at for what it
is. Nobody waits for the answer of the server: it is read when the connection is used next.
"""

from __future__ import annotations

import secrets
import select

import psycopg
from psycopg import pq

from varserve_service.journal.disk import log

from .head import Key
from .schema import CHANNEL, Connection

_QUERY = "SET LOCAL synchronous_commit = off; SELECT pg_notify(%s, %s || ' ' || "
# A notification holds a lock of the whole cluster until it is committed. So it is not part of a
# commit, and waits for no standby and no disk.


class Sender:
    """One replica, as the others know it from what it tells."""

    def __init__(self, key: Key) -> None:
        model, version = key
        self._about = f"{version} {model}"
        self._name = secrets.token_hex(4)

    @property
    def message(self) -> str:
        """That this replica has appended; the revision of the last commit follows it."""
        return f"{self._name} {self._about}"

    def news(self, message: str) -> int:
        """The revision that another replica has appended; 0: it says nothing of that."""
        name, _, rest = message.partition(" ")
        about, _, revision = rest.rpartition(" ")
        if about == self._about and name != self._name and revision.isdecimal():
            return int(revision)
        return 0


class Teller:
    """Tells by one connection at a time. Its methods are for one thread."""

    def __init__(self, message: str) -> None:
        self._message = message
        self._query = b""
        self.waits = False
        """Whether the server has not answered yet, as far as is known."""

    def tell(self, connection: Connection, revision: int) -> None:
        """Send a message, which is lost if the connection goes. Raises psycopg.Error."""
        if not self._query:
            composed = psycopg.ClientCursor(connection).mogrify(_QUERY, (CHANNEL, self._message))
            self._query = composed.encode()
        connection.pgconn.send_query(b"%b%d)" % (self._query, revision))
        self.waits = True
        connection.pgconn.flush()

    def settle(self, connection: Connection) -> None:
        """Make a connection ready for use: read what the server said meanwhile, wait for the rest.

        Raises psycopg.Error when the server ended it.
        """
        pgconn = connection.pgconn
        while self.waits:
            while pgconn.is_busy():
                _wait(connection, writes=bool(pgconn.flush()))
                pgconn.consume_input()
            result = pgconn.get_result()
            if result is None:
                self.waits = False
            elif result.status == pq.ExecStatus.FATAL_ERROR:
                error = result.error_message.decode(errors="replace").strip()
                log.warning("other replicas are not told of commits", error=error)
        # The end of a connection can be read, too.
        while _wait(connection, seconds=0):
            pgconn.consume_input()

    def forget(self) -> None:
        """The connection is closed."""
        self.waits = False


def _wait(connection: Connection, *, writes: bool = False, seconds: float = 1.0) -> bool:
    """Wait until the server said something, or more can be sent; whether that is so."""
    poll = select.poll()
    poll.register(connection.pgconn.socket, select.POLLIN | (select.POLLOUT if writes else 0))
    return bool(poll.poll(1000 * seconds))
