"""The thread that looks after one connection while others wait for it.

It shuts the socket of a connection that takes too long, and keeps a transaction awake while this
process works on it. A statement is never cancelled: a cancelled commit is kept by the primary and
may be on no standby; a connection that is cut leaves a commit that can be found out.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg

from varserve_service.journal.disk import log

from .schema import Connection

_AWAKE_SECONDS = 0.5
_PING_SECONDS = 3.0


class Guard:
    """One thread for the connection that a journal appends by. Its methods are for one thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._connection: Connection | None = None
        self._cut_at = float("inf")
        self._ping_at = float("inf")
        self._wakes_at = float("inf")
        """When the thread looks again, if nobody wakes it."""
        self._closed = False
        self._pinging = False
        self._thread = threading.Thread(target=self._run, name="varserve-guard", daemon=True)
        self._thread.start()

    @contextmanager
    def cut_after(self, connection: Connection, seconds: float) -> Iterator[None]:
        """Shut the socket when the block takes longer: what waits for the server fails then."""
        self._set(connection, cut_at=time.monotonic() + seconds)
        try:
            yield
        finally:
            self._set(None)

    def keep_awake(self, connection: Connection) -> None:
        """From now on, do not let the server end the transaction as idle."""
        self._set(connection, ping_at=time.monotonic() + _AWAKE_SECONDS)

    def rest(self) -> None:
        """No more of it. A ping that is on its way has ended, or its connection is cut."""
        connection = self._connection
        self._set(None)
        with self._changed:
            if self._changed.wait_for(lambda: not self._pinging, _PING_SECONDS):
                return
        if connection is not None:
            cut(connection)

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _set(
        self,
        connection: Connection | None,
        cut_at: float = float("inf"),
        ping_at: float = float("inf"),
    ) -> None:
        with self._changed:
            self._connection, self._cut_at, self._ping_at = connection, cut_at, ping_at
            if min(cut_at, ping_at) < self._wakes_at:
                self._changed.notify_all()

    def _run(self) -> None:
        with self._changed:
            while not self._closed:
                self._wakes_at = min(self._cut_at, self._ping_at)
                until = self._wakes_at - time.monotonic()
                if until > 0:
                    # Woken for what ends sooner alone: that would cost each statement a switch of
                    # threads. At other times it finds what was set meanwhile, and sleeps again.
                    self._changed.wait(None if until == float("inf") else until)
                    continue
                assert self._connection is not None
                if self._ping_at < self._cut_at:
                    self._ping(self._connection)
                else:
                    log.error("the database did not answer in time; the connection is cut")
                    cut(self._connection)
                    self._cut_at = float("inf")

    def _ping(self, connection: Connection) -> None:
        self._pinging = True
        self._changed.release()  # the server may take its time
        try:
            with suppress(psycopg.Error):
                connection.execute("SELECT 1")
        finally:
            self._changed.acquire()
            self._pinging = False
            if self._connection is connection:
                self._ping_at = time.monotonic() + _AWAKE_SECONDS
            self._changed.notify_all()


def cut(connection: Connection) -> None:
    """Shut the socket of a connection. Whoever waits for the server fails."""
    with suppress(OSError, psycopg.Error):
        duplicate = socket.socket(fileno=os.dup(connection.fileno()))
        with duplicate:
            duplicate.shutdown(socket.SHUT_RDWR)
