"""The connection of a commit is cut all along, both ways, and what was sent may come late.

The answer is what the log says: what was acknowledged is there, what "did not happen" is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.postgres.cutting import IN_TURN, PARSED, PREPARED, Cut, CuttingProxy
from tests.postgres.fleet import Replica, Write, ask, check, log_of, replicas
from tests.postgres.replica_process import BUG, BUGS
from tests.postgres.server import Server
from tests.waiting import until

LATE_SECONDS = 0.3
STEP, ALL_STEP = 199, 7
WHOLE = 3
"""Commits of which everything arrives, and no answer comes back."""
WRITES = 30
"""More than come before a commit of each kind, on a new connection too."""


@pytest.fixture
def proxy(server: Server) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(server.port)
    yield proxy
    proxy.close()


@dataclass
class Steps:
    """How many bytes apart the cuts are, at once and late."""

    at_once: int
    late: int


def cuts(proxy: CuttingProxy, kind: str, steps: Steps) -> Iterator[Cut]:
    """All along a commit as long as the last of its kind, in both directions, and late."""
    passed = proxy.passed[kind]
    for up, late in ((True, 0.0), (False, 0.0), (True, LATE_SECONDS)):
        for nbytes in range(0, passed[up] + 1, steps.late if late else steps.at_once):
            yield Cut(nbytes, up, late, kind=kind)
        if up:
            yield from [Cut(None, up, late, kind=kind)] * WHOLE


class Client:
    """Writes through the proxy, and what it was told: done, or not, or None: unknown."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.told: dict[str, bool | None] = {}

    def write(self) -> bool | None:
        write = Write(f"w-{len(self.told)}")
        if ask(self._client, write, 60):
            done: bool | None = True
        else:
            done = None if write.refused[-1].metadata.get("done") == "unknown" else False
        self.told[write.id] = done
        return done

    def write_cut(self, proxy: CuttingProxy, cut: Cut) -> bool | None:
        """Until a commit of the kind is cut; what its caller was told."""
        before = proxy.cuts.total()
        proxy.drop()  # on a new connection commits of each kind come, one after the other
        proxy.arm(cut)
        for _ in range(WRITES):
            done = self.write()
            if proxy.cuts.total() > before:
                break
        proxy.disarm()
        return done

    def ask_again(self) -> None:
        """For what is unknown. Each is done then, once."""
        for identifier, done in self.told.items():
            if done is None:
                assert ask(self._client, Write(identifier), 60)
                self.told[identifier] = True


def wrong_answers(
    database: str, proxy: CuttingProxy, folder: Path, kind: str, steps: Steps, bug: str = ""
) -> list[str]:
    """Ids of writes that are in the log and were told not to have happened, or the other way."""
    outcomes: Counter[str] = Counter()
    one = Replica(proxy.address(database), folder, "cut", {BUG: bug})
    try:
        one.wait_ready()
        with one.client() as called, replicas(database, folder, 1) as (other,):
            client = Client(called)
            for _ in range(WRITES):
                assert client.write()
            armed = list(cuts(proxy, kind, steps))
            for cut in armed:
                done = client.write_cut(proxy, cut)
                outcomes[f"{'up' if cut.up else 'down'} {cut.late} {done}"] += 1
            client.ask_again()
            log = log_of(database)
            wrong = [i for i, done in client.told.items() if done != (i in log)]
            print({"cuts": proxy.cuts, "passed": proxy.passed, **outcomes})
            assert proxy.cuts[kind] > len(armed) * 0.8
            assert len(outcomes) > 3, "some were done and some were not, in each direction"
            if not bug:
                until(lambda: one.state() == other.state(), 30, 0.05)
                check(database, {}, [one, other])
                assert not one.endings
            return wrong
    finally:
        one.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [IN_TURN, pytest.param(PARSED, marks=pytest.mark.full), PREPARED])
def test_a_commit_is_cut_at_bytes_of_it(
    database: str, proxy: CuttingProxy, tmp_path: Path, kind: str
) -> None:
    """At some of them."""
    assert wrong_answers(database, proxy, tmp_path, kind, Steps(STEP, STEP)) == []


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", [IN_TURN, PARSED, PREPARED])
def test_a_commit_is_cut_all_along(
    database: str, proxy: CuttingProxy, tmp_path: Path, kind: str
) -> None:
    """Every few bytes; that of one statement at each, where nothing comes late."""
    steps = Steps(1 if kind == PREPARED else ALL_STEP, ALL_STEP)
    assert wrong_answers(database, proxy, tmp_path, kind, steps) == []


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", [IN_TURN, PREPARED])
def test_a_plain_look_at_the_log_is_found(
    database: str, proxy: CuttingProxy, tmp_path: Path, kind: str
) -> None:
    """A replica that asks the log without the lock says that late commits did not happen."""
    (bug,) = BUGS
    assert wrong_answers(database, proxy, tmp_path, kind, Steps(29, 29), bug) != []
