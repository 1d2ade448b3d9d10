"""Who gets the lock when."""

from __future__ import annotations

import threading
import time

import pytest

from tests.waiting import until
from varserve_service.core.commit.lock import ReadersWriterLock
from varserve_service.core.errors import Reason, RequestError


class Holder(threading.Thread):
    """Takes the lock, says so in `order`, and holds it until it is let go."""

    def __init__(self, lock: ReadersWriterLock, kind: str, name: str, order: list[str]) -> None:
        super().__init__(daemon=True)
        self.let_go = threading.Event()
        self._take = getattr(lock, kind)
        self._said = name
        self._order = order
        self.start()

    def run(self) -> None:
        with self._take(time.monotonic() + 10):
            self._order.append(self._said)
            assert self.let_go.wait(60)

    def end(self) -> None:
        self.let_go.set()
        self.join(60)


def test_readers_that_waited_go_before_the_next_writer() -> None:
    """While writers queue up, the readers that waited through one write all have their turn."""
    lock, order = ReadersWriterLock(), list[str]()
    first = Holder(lock, "exclusive", "write 1", order)
    until(lambda: order == ["write 1"])
    readers = [Holder(lock, "shared", "read", order) for _ in range(3)]
    until(lambda: lock._readers_waiting == 3)
    second = Holder(lock, "exclusive", "write 2", order)
    until(lambda: lock._writers_waiting == 1)
    first.end()
    until(lambda: len(order) == 4)
    late = Holder(lock, "shared", "late read", order)
    until(lambda: lock._readers_waiting == 1)
    for holder in (*readers, second, late):
        holder.end()
    assert order == ["write 1", "read", "read", "read", "write 2", "late read"]


def test_a_writer_that_gives_up_lets_the_readers_in() -> None:
    """Readers kept out by a waiting writer go on as soon as that writer's deadline passes."""
    lock, order = ReadersWriterLock(), list[str]()
    reader = Holder(lock, "shared", "read", order)
    until(lambda: order == ["read"])
    refused: list[RequestError] = []

    def give_up() -> None:
        with pytest.raises(RequestError) as caught, lock.exclusive(time.monotonic() + 0.2):
            pass
        refused.append(caught.value)

    writer = threading.Thread(target=give_up)
    writer.start()
    until(lambda: lock._writers_waiting == 1)
    second = Holder(lock, "shared", "second read", order)
    until(lambda: order == ["read", "second read"])
    writer.join(60)
    assert [error.reason for error in refused] == [Reason.DEADLINE_EXCEEDED]
    reader.end()
    second.end()


def test_readers_that_give_up_do_not_hold_up_a_writer() -> None:
    """A reader whose deadline passes is counted out, before or after its turn has come."""
    lock, order = ReadersWriterLock(), list[str]()
    first = Holder(lock, "exclusive", "write 1", order)
    until(lambda: order == ["write 1"])
    with pytest.raises(RequestError), lock.shared(time.monotonic() + 0.01):
        pass
    first.end()
    with lock.exclusive(time.monotonic() + 1):
        order.append("write 2")
    assert order == ["write 1", "write 2"]
    assert (lock._readers_waiting, lock._readers_admitted, lock._readers) == (0, 0, 0)
