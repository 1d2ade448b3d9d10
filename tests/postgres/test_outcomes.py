"""A commit whose connection goes is done or not, and its caller is told which; nothing is half."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import numpy as np
import psycopg
import pytest

from tests.core.test_live_model import refusal
from tests.fakes import Gate
from tests.postgres.conftest import Replica
from tests.postgres.server import Server, running
from tests.postgres.test_journal import add, count, make
from tests.waiting import join, until
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.commits import WriteRequest
from varserve_service.core.ports.messages import Read
from varserve_service.journal.postgres import committing

Start = Callable[..., Replica]


class Proxy:
    """Passes bytes between a replica and the server; may cut at a COMMIT, or keep its answer."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.cut_commit = ""  # `before` it reaches the server, `after`, or `hang`
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def address(self, address: str) -> str:
        return address.replace(f":{self._target}/", f":{self.port}/")

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                for source, sink, up in ((client, server, True), (server, client, False)):
                    threading.Thread(
                        target=self._pass, args=(source, sink, up), daemon=True
                    ).start()

    def _pass(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        try:
            while data := source.recv(65536):
                how = self.cut_commit if up and b"COMMIT\0" in data else ""
                if how:
                    self.cut_commit = ""
                    self.cuts += 1
                    if how == "hang":
                        time.sleep(3600)
                    if how == "after":
                        sink.sendall(data)
                        time.sleep(0.05)
                    break
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    proxy = Proxy(server.port)
    yield proxy
    proxy.close()


@pytest.mark.parametrize("request_id", [True, False])
def test_a_commit_that_is_cut_after_it_was_sent_is_done_once(
    database: str, replica: Start, proxy: Proxy, request_id: bool
) -> None:
    """The caller gets its answer, from the log; the other replica has it once."""
    one, _ = replica(proxy.address(database), make)
    two, _ = replica(database, make)
    for number in range(1, 6):
        proxy.cut_commit = "after"
        request = WriteRequest(f"r{number}", b"") if request_id else None
        answer = add(one, request=request, read_back=Read("count"))
        assert (answer.header.revision, int(answer.values["count"].numpy())) == (number, number)
    assert proxy.cuts == 5
    until(lambda: count(two) == 5)
    assert count(one) == 5


def test_a_commit_that_is_cut_before_it_was_sent_is_refused(
    database: str, replica: Start, proxy: Proxy
) -> None:
    """Nothing was changed at any replica, and the next write goes through."""
    one, _ = replica(proxy.address(database), make)
    two, _ = replica(database, make)
    add(one)
    proxy.cut_commit = "before"
    error = refusal(add, one)
    assert error.reason is Reason.STATE_STORE_UNAVAILABLE
    assert "did not happen" in error.message
    assert (count(one), one.header.revision) == (1, 1)
    assert add(one).header.revision == 2
    until(lambda: count(two) == 2)


def test_readers_go_on_when_a_commit_hangs(
    database: str, replica: Start, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watchdog ends the wait; reads are of the revision before until it is resolved."""
    monkeypatch.setattr(committing, "COMMIT_SECONDS", 6.0)
    one, _ = replica(proxy.address(database), make)
    two, _ = replica(database, make)
    add(one)
    proxy.cut_commit = "hang"
    failed: list[RequestError] = []

    def write() -> None:
        failed.append(refusal(add, one))

    writer = threading.Thread(target=write)
    writer.start()
    until(lambda: proxy.cuts == 1)
    began = time.monotonic()
    assert count(one) == 1
    # A read that waited would end with the watchdog.
    assert time.monotonic() - began < 5
    assert not failed
    join([writer])
    assert failed[0].reason is Reason.STATE_STORE_UNAVAILABLE
    # The server frees the lock of the connection that hangs.
    assert add(two).header.revision == 2
    until(lambda: count(one) == 2)


@contextmanager
def own_server(replica: Start) -> Iterator[tuple[Server, LiveModel, LiveModel]]:
    with running() as server:
        one, _ = replica(server.address, make)
        two, _ = replica(server.address, make)
        yield server, one, two


def test_reads_go_on_while_the_database_is_away(replica: Start) -> None:
    """Writes are refused with the reason; when it is back they go through, and none was lost."""
    with own_server(replica) as (server, one, two):
        for _ in range(5):
            add(one)
        until(lambda: count(two) == 5)
        server.stop()
        for live in (one, two):
            error = refusal(add, live)
            assert error.reason is Reason.STATE_STORE_UNAVAILABLE
            assert "127.0.0.1" not in error.message
            assert count(live) == 5
        server.start()
        assert add(two).header.revision == 6
        until(lambda: count(one) == 6, 30)


def test_nothing_acknowledged_is_lost_when_the_database_is_killed(replica: Start) -> None:
    """Writers at both replicas, with request ids, over crashes of the server: each is done once."""
    kills = 3
    with own_server(replica) as (server, one, two):
        acknowledged: list[str] = []
        reasons: set[Reason] = set()
        done = threading.Event()

        def write(live: LiveModel, name: str) -> None:
            number = 0
            while not done.is_set():
                request = WriteRequest(f"{name}-{number}", b"")
                try:
                    add(live, request=request)
                except RequestError as error:
                    reasons.add(error.reason)
                    done.wait(0.05)
                else:
                    acknowledged.append(request.id)
                    number += 1

        threads = [
            threading.Thread(target=write, args=(live, f"{name}{number}"))
            for live, name in ((one, "one"), (two, "two"))
            for number in range(2)
        ]
        for thread in threads:
            thread.start()
        for _ in range(kills):
            before = len(acknowledged)
            until(lambda before=before: len(acknowledged) > before + 20)
            server.stop()
            server.start()
        before = len(acknowledged)
        until(lambda: len(acknowledged) > before + 20)
        done.set()
        join(threads)
        late, _ = replica(server.address, make)
        until(lambda: one.header == two.header == late.header)
        with psycopg.connect(server.address) as connection:
            rows = connection.execute("SELECT record FROM varserve_log").fetchall()
        ids = [row[0].decode().split('"request":{', 1)[1].split('"id":"', 1)[1] for row in rows]
        found = [text.split('"', 1)[0] for text in ids]
        assert len(found) == len(set(found)) == late.header.revision == count(late)
        assert set(acknowledged) <= set(found)
        assert reasons <= {Reason.STATE_STORE_UNAVAILABLE}
        assert len(acknowledged) == len(set(acknowledged))


def test_a_holder_that_stops_does_not_keep_the_others_waiting(
    database: str, replica: Start
) -> None:
    """Its transaction is ended by the server after a second and a half; its commit is refused."""
    one, _ = replica(database, make)
    with psycopg.connect(database) as stopped:
        stopped.execute("SET idle_in_transaction_session_timeout = 1500")
        stopped.execute("SELECT 1 FROM varserve_head FOR NO KEY UPDATE")
        began = time.monotonic()
        assert add(one).header.revision == 1
        assert time.monotonic() - began > 1
        with pytest.raises(psycopg.Error):
            stopped.execute("SELECT 1")


def test_a_replica_that_stops_in_its_turn_does_not_keep_the_others_waiting(
    database: str, replica: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all of its threads, as a process does that is stopped: its commit is refused."""
    one, journal = replica(database, make)
    two, _ = replica(database, make)
    gate, variable = Gate(), one._parts.by_path["count"]
    write = variable.write

    def stopped(*args: object) -> None:
        gate()
        write(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(variable, "write", stopped)
    monkeypatch.setattr(journal._appender._guard, "keep_awake", lambda connection: None)
    errors: list[RequestError] = []
    thread = threading.Thread(target=lambda: errors.append(refusal(add, one)))
    thread.start()
    assert gate.reached.wait(30)
    assert add(two).header.revision == 1
    gate.opened.set()
    join([thread])
    assert errors[0].reason is Reason.STATE_STORE_UNAVAILABLE
    monkeypatch.undo()
    until(lambda: one.header == two.header)
    assert count(one) == count(two) == 1


def test_a_write_gives_up_at_its_deadline_while_others_commit(
    database: str, replica: Start
) -> None:
    """Nothing was changed, and reads go on meanwhile."""
    one, _ = replica(database, make)
    with psycopg.connect(database) as other:
        other.execute("SELECT 1 FROM varserve_head FOR NO KEY UPDATE")
        error = refusal(add, one, deadline=time.monotonic() + 0.3)
        assert error.reason is Reason.DEADLINE_EXCEEDED
        assert count(one) == 0
    assert add(one).header.revision == 1


def test_a_slow_change_keeps_its_turn(
    database: str, replica: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function that runs for longer than the server lets a transaction idle is committed."""
    one, _ = replica(database, make)
    two, _ = replica(database, make)
    count_variable = one._parts.by_path["count"]
    write = count_variable.write

    def slow(*args: object) -> None:
        time.sleep(2.5)  # longer than idle_in_transaction_session_timeout
        write(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(count_variable, "write", slow)
    assert add(one).header.revision == 1
    monkeypatch.undo()
    assert add(two).header.revision == 2


def test_a_replica_whose_commit_is_not_in_the_log_ends(
    database: str, replica: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failover that lost commits: it does not go on from what nobody else has."""
    one, _ = replica(database, make)
    add(one)
    ended: list[object] = []
    monkeypatch.setattr(
        "varserve_service.journal.postgres.journal.end_process",
        lambda what, error, why: ended.append(error),
    )
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("UPDATE varserve_log SET append = 'other' WHERE revision = 1")
        connection.execute("UPDATE varserve_head SET append = 'other'")
    until(lambda: ended)
    assert "builds its state anew" in str(ended[0])
    assert refusal(add, one).reason is Reason.STATE_STORE_UNAVAILABLE


def test_the_server_may_end_in_good_order(replica: Start) -> None:
    """Connections that the server ends itself are made again."""
    with own_server(replica) as (server, one, two):
        add(one)
        server.stop(signal.SIGINT)
        server.start()
        assert add(one).header.revision == 2
        until(lambda: np.all(count(two) == 2))
