"""What looks after a connection while others wait for it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.waiting import join, until
from varserve_service.journal.postgres import guard as module
from varserve_service.journal.postgres.guard import Guard


class Connection:
    """Answers when its socket is shut, or when it is told to."""

    def __init__(self) -> None:
        self.socket, self._other = socket.socketpair()
        self.asked = threading.Event()
        self.pings = 0

    def fileno(self) -> int:
        return self.socket.fileno()

    def execute(self, query: str) -> None:
        self.asked.set()
        if not self.socket.recv(1):
            raise psycopg.OperationalError("the connection was cut")
        self.pings += 1

    def answer(self) -> None:
        self._other.send(b"x")

    @property
    def is_cut(self) -> bool:
        self._other.settimeout(0)
        try:
            return self._other.recv(1) == b""
        except BlockingIOError:
            return False

    def close(self) -> None:
        self.socket.close()
        self._other.close()


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Guard, Any]]:
    monkeypatch.setattr(module, "_AWAKE_SECONDS", 0.02)
    monkeypatch.setattr(module, "_PING_SECONDS", 0.2)
    guard, connection = Guard(), Connection()
    yield guard, connection
    guard.close()
    join([guard._thread])
    connection.close()


def in_a_thread(action: Any) -> None:
    """Within a bound, whatever holds it up."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    join([thread], 20)


def test_a_transaction_is_kept_awake_until_it_rests(guarded: tuple[Guard, Any]) -> None:
    """A ping that is answered is followed by another; after the rest there are no more."""
    guard, connection = guarded
    guard.keep_awake(connection)
    for number in (1, 2):
        connection.answer()
        until(lambda number=number: connection.pings == number)
    assert connection.asked.wait(20)
    connection.answer()
    in_a_thread(guard.rest)
    assert guard._ping_at == float("inf")
    assert not connection.is_cut


def test_a_ping_that_is_not_answered_is_cut(guarded: tuple[Guard, Any]) -> None:
    """Whoever rests waits for it for a while, and no longer."""
    guard, connection = guarded
    guard.keep_awake(connection)
    assert connection.asked.wait(20)
    in_a_thread(guard.rest)
    assert connection.is_cut
    until(lambda: not guard._pinging)


def test_who_rests_waits_no_longer_than_the_ping(
    guarded: tuple[Guard, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer ends the wait at once."""
    monkeypatch.setattr(module, "_PING_SECONDS", 60.0)
    guard, connection = guarded
    guard.keep_awake(connection)
    assert connection.asked.wait(20)
    resting = threading.Thread(target=guard.rest, daemon=True)
    resting.start()
    until(lambda: guard._ping_at == float("inf"))
    connection.answer()
    join([resting], 20)
    assert not connection.is_cut


def test_a_block_that_takes_too_long_is_cut(
    guarded: tuple[Guard, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for the server in it fails then; one that ends in time is left alone."""
    guard, connection = guarded
    cuts: list[Any] = []
    cut = module.cut
    monkeypatch.setattr(module, "cut", lambda connection: cuts.append(cut(connection)))
    with guard.cut_after(connection, 60):
        pass
    assert not connection.is_cut
    with guard.cut_after(connection, 0.05):
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
        time.sleep(0.05)
    assert connection.is_cut
    assert len(cuts) == 1


def test_blocks_that_end_in_time_do_not_wake_the_thread(guarded: tuple[Guard, Any]) -> None:
    """It sleeps through many of them; one that ends sooner than it would look is not missed."""
    guard, connection = guarded
    looks: list[float | None] = []
    wait = guard._changed.wait

    def counted(seconds: float | None = None) -> bool:
        looks.append(seconds)
        return wait(seconds)

    guard._changed.wait = counted  # type: ignore[method-assign]
    with guard.cut_after(connection, 60):
        until(lambda: looks)
    before = len(looks)
    for _ in range(100):
        with guard.cut_after(connection, 70):
            pass
    assert len(looks) == before
    with guard.cut_after(connection, 0.05), pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    assert connection.is_cut


def test_a_connection_that_is_closed_has_nothing_to_cut(guarded: tuple[Guard, Any]) -> None:
    """It may have ended at the same moment."""
    _, connection = guarded
    connection.close()
    module.cut(connection)
