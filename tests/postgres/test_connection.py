"""Which of several servers is taken, what becomes of the others, and what is said of failures."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.waiting import until
from varserve_service.core.errors import StateStoreFull, StateStoreUnavailable
from varserve_service.journal.postgres import connection as module
from varserve_service.journal.postgres.connection import (
    Connector,
    OldPrimary,
    cut_after,
    log_durability,
    refusal,
)


class Server:
    """What a server answers, by its port; `None`: it is away."""

    def __init__(self, timeline: str | Exception) -> None:
        self.timeline = timeline
        self.refuses: Exception | None = None
        self.asked: Callable[[], object] = lambda: None
        self.opened: list[Connection] = []


class Connection:
    def __init__(self, server: Server) -> None:
        self._server = server
        self.closed = False
        self.statements: list[str] = []

    def execute(self, query: str, *_: object) -> Any:
        self.statements.append(query)
        if query.startswith("SET"):
            if self._server.refuses is not None:
                raise self._server.refuses
            return None
        self._server.asked()
        if isinstance(self._server.timeline, Exception):
            raise self._server.timeline
        return self

    def fetchone(self) -> tuple[str]:
        assert isinstance(self._server.timeline, str)
        return (self._server.timeline,)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Server]]:
    """Servers by port. What is not among them is away."""
    by_port: dict[str, Server] = {}

    def connect(address: str, **options: object) -> Connection:
        assert options["autocommit"] is True
        server = by_port.get(str(conninfo_to_dict(address)["port"]))
        if server is None:
            raise psycopg.OperationalError(f"away: {address}")
        server.opened.append(Connection(server))
        return server.opened[-1]

    monkeypatch.setattr(module.psycopg, "connect", connect)
    yield by_port
    for server in by_port.values():
        assert sum(not each.closed for each in server.opened) <= 1, "a connection is left over"


def connector(*ports: str) -> Connector:
    hosts, listed = ",".join(f"h{port}" for port in ports), ",".join(ports)
    return Connector(f"postgresql://varserve@{hosts}/db?port={listed}")


def opened(server: Server) -> list[Connection]:
    return [each for each in server.opened if not each.closed]


def test_the_server_with_the_newest_timeline_is_taken(servers: dict[str, Server]) -> None:
    """Wherever it is in the list; the connections to the others are closed."""
    servers |= {"1": Server("00000001"), "2": Server("0000000A"), "3": Server("00000009")}
    daemons: list[bool] = []
    servers["1"].asked = lambda: daemons.append(threading.current_thread().daemon)
    assert connector("1", "2", "3", "4").connect() is servers["2"].opened[0]
    assert daemons == [True]  # the process may end while one says nothing
    assert [len(opened(servers[port])) for port in "123"] == [0, 1, 0]


def test_a_server_that_was_replaced_is_refused_from_then_on(servers: dict[str, Server]) -> None:
    """Also while it is the only one; a connection that was made before is found out."""
    servers["1"] = Server("00000001")
    made = connector("1", "2")
    old = made.connect()
    made.check(old)
    servers["2"] = Server("00000002")
    newer = made.connect()
    del servers["2"]
    made.check(newer)
    with pytest.raises(OldPrimary, match="timeline 1, and timeline 2"):
        made.check(old)
    with pytest.raises(OldPrimary):
        made.connect()
    assert servers["1"].opened[-1].closed
    old.close()
    servers["3"] = Server("00000002")
    made = connector("3")
    made.check(made.connect())


def test_a_server_that_says_nothing_does_not_hold_up_a_failover(
    servers: dict[str, Server],
) -> None:
    """It is waited for at the start, and not when another has a newer timeline than was seen."""
    silent, heard = threading.Event(), threading.Event()
    servers |= {"1": Server("00000001"), "2": Server("00000001")}
    servers["1"].asked = lambda: (heard.set(), silent.wait(20))
    silent.set()
    made = connector("1", "2")
    made.connect().close()
    silent.clear()
    servers["2"].timeline = "00000002"
    heard.clear()
    assert made.connect() is opened(servers["2"])[0]
    assert heard.wait(20)
    opened(servers["2"])[0].close()
    # Nor later, while the new one is the newest that was seen.
    assert made.connect() is opened(servers["2"])[0]
    silent.set()
    until(lambda: len(servers["1"].opened) == 3 and not opened(servers["1"]))


def test_at_the_start_all_servers_are_waited_for(
    servers: dict[str, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the last of them takes: it may be the one that replaced the others."""
    monkeypatch.setattr(module, "_MORE_SECONDS", 0.0)
    servers |= {"1": Server("00000002"), "2": Server("00000001")}
    servers["1"].asked = lambda: until(lambda: opened(servers["2"]))
    assert connector("1", "2").connect() is servers["1"].opened[0]
    assert not opened(servers["2"])


def test_a_server_that_cannot_be_asked_is_passed_over(servers: dict[str, Server]) -> None:
    """Its connection is closed; where there is no other, its failure is the one that is told."""
    servers |= {"1": Server(psycopg.OperationalError("ends")), "2": Server("00000001")}
    assert connector("1", "2").connect() is servers["2"].opened[0]
    with pytest.raises(psycopg.OperationalError, match="ends"):
        connector("9", "1").connect()
    with pytest.raises(psycopg.OperationalError, match=r"away.*h9"):
        connector("1", "9").connect()
    assert not opened(servers["1"])


def test_a_server_that_tells_no_timeline_is_taken(servers: dict[str, Server]) -> None:
    """Some that are like PostgreSQL do not know the question."""
    servers["1"] = Server(psycopg.errors.UndefinedFunction("no such function"))
    made = connector("1")
    made.check(made.connect())


def test_a_connection_that_cannot_be_set_up_is_closed(servers: dict[str, Server]) -> None:
    """Its settings are what frees the lock of a replica that stops."""
    servers["1"] = Server("00000001")
    settings = connector("1").connect().statements[-1]
    assert "SET idle_in_transaction_session_timeout = 1500; SET" in settings
    servers["1"].opened.clear()
    servers["1"].refuses = psycopg.errors.InsufficientPrivilege("no")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        connector("1").connect()
    assert not opened(servers["1"])


@pytest.mark.parametrize(
    ("address", "hosts", "name"),
    [
        ("postgresql://h/db", [("h", None)], "PostgreSQL at h:5432, database db"),
        ("postgresql://h:1/", [("h", "1")], "PostgreSQL at h:1, database of the user"),
        ("dbname=db", [(None, None)], "PostgreSQL at its socket:5432, database db"),
        ("postgresql://a,b/db", [("a", None), ("b", None)], "PostgreSQL at a,b:5432, database db"),
        ("host=a,b port=7 dbname=x", [("a", "7"), ("b", "7")], "PostgreSQL at a,b:7, database x"),
        ("postgresql://a:1,b:2/x", [("a", "1"), ("b", "2")], "PostgreSQL at a,b:1,2, database x"),
    ],
)
def test_the_servers_of_an_address(
    address: str, hosts: list[tuple[str | None, str | None]], name: str
) -> None:
    """Each with its port, or the one of all; the name is without a user."""
    made = Connector(address)
    each = [conninfo_to_dict(host) for host in made._hosts]
    assert [(h.get("host"), h.get("port") or None) for h in each] == hosts
    assert made.name == name


def test_what_an_address_says_itself_stays() -> None:
    """Settings of the client are what it does not say."""
    (given,) = (conninfo_to_dict(h) for h in Connector("host=h connect_timeout=9")._hosts)
    assert (given["connect_timeout"], given["target_session_attrs"]) == ("9", "read-write")


def test_a_server_that_may_lose_what_it_acknowledged_is_told(
    log_lines: Callable[[], str],
) -> None:
    """The settings that are off, and what a commit waits for."""

    class Told:
        def execute(self, query: str, values: tuple[str, ...] = ("",)) -> Any:
            self._row = {"fsync": ("off",), "full_page_writes": ("on",)}.get(
                values[0], ("17.1", "one, two")
            )
            return self

        def fetchone(self) -> Any:
            return self._row

    log_durability("PostgreSQL at h", Told())  # type: ignore[arg-type]
    said = log_lines()
    assert '"setting": "fsync"' in said
    assert "full_page_writes" not in said


def test_a_block_that_takes_too_long_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that ends in time is not, later either."""
    cut: list[object] = []
    monkeypatch.setattr(module, "cut", cut.append)
    with cut_after("quick", 0.05):  # type: ignore[arg-type]
        pass
    with cut_after("slow", 0.05):  # type: ignore[arg-type]
        timers = [each for each in threading.enumerate() if isinstance(each, threading.Timer)]
        assert all(timer.daemon for timer in timers)
        until(lambda: cut)
    assert cut == ["slow"]


def test_what_a_caller_is_told_of_a_failure() -> None:
    """A full disk as such, and nothing else of the database."""
    full = refusal("name", psycopg.errors.DiskFull("no space on /secret"))
    assert (type(full), "secret" in full.message) == (StateStoreFull, False)
    away = refusal("name", psycopg.OperationalError("no password for zoe"))
    assert (type(away), "zoe" in away.message) == (StateStoreUnavailable, False)
