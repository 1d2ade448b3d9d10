"""The connection of a commit is cut all along, both ways, and what was sent may come late.

The answer is what the log says: what was acknowledged is there, what "did not happen" is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres.cutting import Cut, CuttingProxy
from tests.postgres.fleet import Replica, Write, ask, check, log_of, replicas
from tests.postgres.replica_process import BUG, BUGS
from tests.postgres.server import Server
from tests.waiting import until

LATE_SECONDS = 0.3
STEP, ALL_STEP = 199, 7
WHOLE = 3
"""Commits of which everything arrives, and no answer comes back."""


@pytest.fixture
def proxy(server: Server) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(server.port)
    yield proxy
    proxy.close()


def cuts(proxy: CuttingProxy, step: int) -> Iterator[Cut]:
    """Every so many bytes of a commit as long as the last one, in both directions, and late."""
    for up, late in ((True, 0.0), (False, 0.0), (True, LATE_SECONDS)):
        for nbytes in range(0, proxy.passed[up] + 1, step):
            yield Cut(nbytes, up, late)
        if up:
            yield from [Cut(None, up, late)] * WHOLE


def wrong_answers(
    database: str, proxy: CuttingProxy, folder: Path, step: int, bug: str = ""
) -> list[str]:
    """Ids of writes that are in the log and were told not to have happened, or the other way."""
    told: dict[str, bool | None] = {}
    outcomes: Counter[str] = Counter()
    one = Replica(proxy.address(database), folder, "cut", {BUG: bug})
    try:
        one.wait_ready()
        with one.client() as client, replicas(database, folder, 1) as (other,):
            for number in range(3):
                write = Write(f"whole-{number}")
                assert ask(client, write)
                told[write.id] = True
            armed = list(cuts(proxy, step))
            for number, cut in enumerate(armed):
                proxy.arm(cut)
                write = Write(f"cut-{number}")
                if ask(client, write, 60):
                    told[write.id] = True
                else:
                    unknown = write.refused[-1].metadata.get("done") == "unknown"
                    told[write.id] = None if unknown else False
                way = "up" if cut.up else "down"
                missed = proxy.disarm()
                outcomes[f"{way} {cut.late} {told[write.id]}{' not cut' * missed}"] += 1
            log = log_of(database)
            wrong = [i for i, done in told.items() if done is not None and done != (i in log)]
            print({"cuts": proxy.cuts, "passed": proxy.passed, **outcomes})
            assert proxy.cuts > len(armed) * 0.8
            if not bug:
                until(lambda: one.state() == other.state(), 30, 0.05)
                check(database, {}, [one, other])
                assert not one.endings
            return wrong
    finally:
        one.close()


@pytest.mark.slow
def test_a_commit_is_cut_at_bytes_of_it(database: str, proxy: CuttingProxy, tmp_path: Path) -> None:
    """At some of them."""
    assert wrong_answers(database, proxy, tmp_path, STEP) == []


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_a_commit_is_cut_all_along(database: str, proxy: CuttingProxy, tmp_path: Path) -> None:
    """Every few bytes."""
    assert wrong_answers(database, proxy, tmp_path, ALL_STEP) == []


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_a_plain_look_at_the_log_is_found(
    database: str, proxy: CuttingProxy, tmp_path: Path
) -> None:
    """A replica that asks the log without the lock says that late commits did not happen."""
    (bug,) = BUGS
    assert wrong_answers(database, proxy, tmp_path, 29, bug) != []
