"""A primary and two standbys, of which every commit waits for one, and how an operator fails over.

Knows PostgreSQL; knows nothing of the service.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.postgres.server import Server, running
from tests.waiting import until

NAMES = ("one", "two", "three")
_SYNCHRONOUS = f"ANY 1 ({', '.join(NAMES)})"
_SECONDS = 60.0
_REPLAY_SECONDS = 0.2


class Cluster:
    """Three servers. The one that takes writes changes; their order in the address does not."""

    def __init__(self, servers: list[Server]) -> None:
        self.servers = servers
        self.primary = servers[0]

    @property
    def standbys(self) -> list[Server]:
        return [server for server in self.servers if server is not self.primary]

    def name(self, server: Server) -> str:
        """As the others know it."""
        return NAMES[self.servers.index(server)]

    def address(self, database: str, first: Server | None = None) -> str:
        """Of a database at whichever server takes writes; `first` is listed first."""
        order = sorted(self.servers, key=lambda server: server is not first)
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in order)
        return f"postgresql://varserve@{hosts}/{database}"

    def fresh(self, name: str) -> str:
        """The address of a new, empty database."""
        self.primary.fresh(name)
        return self.address(name)

    def waiting(self) -> list[int]:
        """The processes of the primary whose commit waits for a standby."""
        query = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        return [int(str(pid)) for (pid,) in self.primary.execute(query)]

    def connected(self) -> int:
        """How many standbys receive from the primary."""
        query = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
        return int(str(self.primary.execute(query)[0][0]))

    def fail_over(self) -> Server:
        """Promote the standby that has received most, and let the other follow it.

        First both are taken from the old primary, which may only be paused: it can acknowledge
        nothing from then on, so what it has acknowledged is on one of them.
        """
        standbys = [server for server in self.standbys if server.runs]
        for server in standbys:
            _configure(server, "primary_conninfo", "")
            _until_nothing(server, "SELECT 1 FROM pg_stat_wal_receiver")
        best = max(standbys, key=received)
        best.promote()
        self.primary = best
        for server in standbys:
            if server is not best:
                _configure(server, "primary_conninfo", best.source(self.name(server)))
        return best

    def mend(self) -> None:
        """One primary, and two standbys that follow it; a server that is neither is made anew."""
        if not self.primary.runs:
            self.primary.start()
        for server in self.standbys:
            if not server.runs and self._is_standby(server):
                server.start()
        for server in self.standbys:
            if not self._follows(server):
                server.stop()
                server.copy(self.primary, self.name(server))
                server.start()
        until(lambda: self.connected() == len(self.standbys), _SECONDS, 0.02)

    def _is_standby(self, server: Server) -> bool:
        return (server.data / "standby.signal").exists() and (
            f"port={self.primary.port} " in (server.data / "postgresql.auto.conf").read_text()
        )

    def _follows(self, server: Server) -> bool:
        query = f"SELECT 1 FROM pg_stat_replication WHERE application_name = '{self.name(server)}'"
        if not server.runs or server.execute("SELECT 1 WHERE pg_is_in_recovery()") == []:
            return False
        try:
            until(lambda: self.primary.execute(query), 5, 0.02)
        except AssertionError:
            return False
        return True


def _until_nothing(server: Server, query: str) -> None:
    until(lambda: not server.execute(query), _SECONDS, 0.01)


def received(server: Server) -> int:
    """How far in the log of the primary a standby has come, which is not connected to it any more.

    What it has not replayed yet counts. One that was restarted knows only what it has replayed.
    """
    query = (
        "SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0', "
        "pg_last_wal_receive_lsn() IS NULL"
    )
    while True:
        position, restarted = server.execute(query)[0]
        if not restarted:
            return int(str(position))
        time.sleep(_REPLAY_SECONDS)
        if server.execute(query)[0][0] == position:
            return int(str(position))


def acknowledge_alone(server: Server) -> None:
    """A server that is stopped will wait for no standby: the worst that an old primary can do."""
    with (server.data / "postgresql.auto.conf").open("a") as file:
        file.write("synchronous_standby_names = ''\n")


def _configure(server: Server, setting: str, value: str) -> None:
    server.execute(f"ALTER SYSTEM SET {setting} = '{value}'")
    server.execute("SELECT pg_reload_conf()")


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Three servers, ended with the block."""
    with ExitStack() as stack:
        primary = stack.enter_context(running())
        # Before the copies, which take it over: each of them may be the primary one day.
        _configure(primary, "synchronous_standby_names", "")
        standbys = [stack.enter_context(running(primary, name)) for name in NAMES[1:]]
        found = Cluster([primary, *standbys])
        for server in found.servers:
            _configure(server, "synchronous_standby_names", _SYNCHRONOUS)
        until(lambda: found.connected() == 2, _SECONDS, 0.02)
        yield found
