"""How values are staged: a few at a time, within a bound, by connections that are used again."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg
import pytest

from tests.core.test_live_model import refusal
from tests.locks import times_taken
from tests.postgres.conftest import Start
from tests.postgres.test_journal import make
from tests.waiting import join, until
from varserve_service.core.errors import Reason
from varserve_service.core.values.host_value import HostValue
from varserve_service.journal.postgres import staging as module
from varserve_service.journal.postgres.blobs import BlobWriter
from varserve_service.journal.postgres.connection import Connector
from varserve_service.journal.postgres.staging import StagedBlobs, Stager

KEY = ("fake", 1)
CHUNK = HostValue(np.ones(2**20, np.uint8))


@pytest.fixture
def stager(database: str, replica: Start) -> Iterator[Stager]:
    replica(database, make)[0].close()
    stager = Stager(Connector(database), KEY, lambda names: None)
    yield stager
    stager.close()


def asked(database: str, query: str) -> Any:
    with psycopg.connect(database) as connection:
        return connection.execute(query).fetchall()  # type: ignore[arg-type]


def test_a_few_values_are_staged_at_once(stager: Stager, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more waits for its turn until its deadline; then it has staged nothing."""
    write, go_on = BlobWriter.write, threading.Event()
    writing: list[int] = []

    def waiting(writer: BlobWriter, values: Any, revision: Any) -> Any:
        writing.append(1)
        assert go_on.wait(60)
        return write(writer, values, revision)

    monkeypatch.setattr(BlobWriter, "write", waiting)
    done: list[StagedBlobs] = []
    threads = [
        threading.Thread(target=lambda: done.append(stager.stage({"v": CHUNK}, None)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    until(lambda: len(writing) == 2)
    error = refusal(stager.stage, {"v": CHUNK}, time.monotonic() + 0.05)
    assert error.reason is Reason.DEADLINE_EXCEEDED
    assert len(writing) == 2
    go_on.set()
    join(threads)
    # Who came too late gave back no turn that it did not have.
    assert stager._turns._value == 2  # type: ignore[attr-defined]
    assert len(stager.stage({"v": CHUNK}, time.monotonic() + 60)._places) == 1
    assert len(done) == 2


def test_a_connection_is_used_again(stager: Stager) -> None:
    """Where nothing failed, until the close; one that failed is closed."""
    stager.stage({"v": CHUNK}, None)
    (connection,) = stager._idle
    stager.stage({"v": CHUNK}, None)
    assert stager._idle == [connection]
    assert refusal(stager.stage, {"v": CHUNK}, 0.0).reason is Reason.DEADLINE_EXCEEDED
    assert (stager._idle, connection.closed) == ([], True)
    stager.stage({"v": CHUNK}, None)
    (connection,) = stager._idle
    stager.close()
    assert (stager._idle, connection.closed) == ([], True)
    assert "being closed" in refusal(stager.stage, {"v": CHUNK}, None).message


def test_a_close_while_values_travel(stager: Stager, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are staged, and their connection is closed then."""
    write, used = BlobWriter.write, []

    def closing(writer: BlobWriter, values: Any, revision: Any) -> Any:
        used.append(writer._connection)
        stager.close()
        return write(writer, values, revision)

    monkeypatch.setattr(BlobWriter, "write", closing)
    stager.stage({"v": CHUNK}, None)
    assert (stager._idle, [each.closed for each in used]) == ([], [True])


def test_a_database_that_is_away(stager: Stager, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller is told at once, whether there was a connection or not."""
    stager.stage({"v": CHUNK}, None)
    stager._idle[0].close()
    tries: list[int] = []

    def away() -> Any:
        tries.append(1)
        # A bound: a stager that does not give up tries for ever.
        raise psycopg.OperationalError("away") if len(tries) < 9 else AssertionError("it goes on")

    monkeypatch.setattr(stager._connector, "connect", away)
    for _ in range(2):
        error = refusal(stager.stage, {"v": CHUNK}, None)
        assert error.reason is Reason.STATE_STORE_UNAVAILABLE
    assert len(tries) == 2


def test_a_server_that_was_replaced_is_not_staged_at(stager: Stager, database: str) -> None:
    """By a connection that is there already: it is closed."""
    stager.stage({"v": CHUNK}, None)
    (connection,) = stager._idle
    stager._connector._newest += 1
    error = refusal(stager.stage, {"v": CHUNK}, None)
    assert (error.reason, connection.closed) == (Reason.STATE_STORE_UNAVAILABLE, True)
    assert asked(database, "SELECT count(*) FROM varserve_blob") == [(1,)]


def test_the_bound_grows_with_the_values(stager: Stager, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their bytes; the transaction itself begins at once, or not at all."""
    given: list[float] = []
    bound = module.cut_after

    def noted(connection: Any, seconds: float) -> Any:
        given.append(seconds)
        return bound(connection, seconds)

    monkeypatch.setattr(module, "cut_after", noted)
    stager.stage({"v": CHUNK, "w": CHUNK}, None)
    more = 2 * 2**20 / module._BYTES_PER_SECOND
    assert given == [module._SECONDS, pytest.approx(module._SECONDS + more)]


def test_the_connections_are_taken_under_the_lock(stager: Stager) -> None:
    """By whoever stages, when it begins and when it is done, and by the close."""
    assert times_taken(stager, "_lock", lambda: stager.stage({"v": CHUNK}, None)) == 2
    assert times_taken(stager, "_lock", stager.close) == 1


def test_what_no_commit_keeps_is_forgotten() -> None:
    """All of it before a commit keeps what it took; then the rest; of another value nothing."""
    forgotten: list[list[str]] = []
    places = {"a": {"blob": "one"}, "b": {"blob": "two"}, "c": {"blob": "one"}}
    values = {name: HostValue(np.zeros(1)) for name in places}
    staged = StagedBlobs(values, places, lambda names: forgotten.append(list(names)))
    assert staged.take("a", values["b"]) is None
    assert staged.take("absent", values["a"]) is None
    assert staged.take("a", values["a"]) == places["a"]
    assert staged.taken == {"one"}
    staged.discard()
    staged.keep()
    staged.discard()
    assert staged.take("b", values["b"]) == places["b"]
    staged.discard()
    assert forgotten == [["one", "two"], ["two"]]
