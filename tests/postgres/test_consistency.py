"""Clients of several replicas at once: one order explains what all of them were told.

The same clients, checks and search as of one service; each call goes to the next replica, and reads
are linearizable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.faults.histories import Inconsistent
from tests.faults.test_consistency import record_and_check
from tests.faults.traffic import MODEL, Service
from tests.postgres import seeded_replica
from tests.postgres.server import Server
from tests.serving import ServiceProcess

REPLICAS = 3
HISTORIES_TO_CATCH = 4


class Replicas(Service):
    """Several replicas behind one address."""

    def __init__(self, addresses: list[str]) -> None:
        self.connecting = {"round_robin": True}
        self.reading = {"linearizable": True}
        self.kills = 0
        self.address = "ipv4:" + ",".join(addresses)

    def wait_elsewhere(self, than: str) -> None:
        """None comes back: a replica ends by itself where its last commit is not the log's."""
        raise Inconsistent("a replica ended: its last commit is not in the log")


@contextmanager
def replicas(model: Path, database: str, folder: Path, bug: str = "") -> Iterator[Replicas]:
    """Processes over one database, all with one bug."""
    options = {"module": seeded_replica.__name__, "environment": {seeded_replica.VARIABLE: bug}}
    with ExitStack() as started:
        addresses = []
        for number in range(REPLICAS):
            process = ServiceProcess(
                f"--model={MODEL}={model}",
                f"--state={database}",
                log=folder / f"replica-{number}.log",
                **(options if bug else {}),  # type: ignore[arg-type]
            )
            started.callback(process.close)
            addresses.append(process.address)
        yield Replicas(addresses)


@pytest.mark.slow
def test_a_history_of_three_replicas_is_linearizable(
    model_folder: Callable[[str], Path], database: str, tmp_path: Path
) -> None:
    """Reads, snapshots, assigns, conditions, transactions and runs of 8 clients, and 3 watchers."""
    with replicas(model_folder("ledger"), database, tmp_path) as running:
        record_and_check(running, 500, tmp_path / "history.json")


@pytest.mark.full
@pytest.mark.timeout(7200)
def test_fifty_histories_of_three_replicas_are_linearizable(
    model_folder: Callable[[str], Path], database: str, tmp_path: Path
) -> None:
    """The same, 50 times."""
    done: Counter[str] = Counter()
    with replicas(model_folder("ledger"), database, tmp_path) as running:
        for number in range(50):
            done += record_and_check(running, 2_000, tmp_path / f"history-{number}.json")
    print(done)


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("bug", [*seeded_replica.BUGS, seeded_replica.NO_BUG])
def test_seeded_bugs_of_replicas_are_caught(
    model_folder: Callable[[str], Path], server: Server, tmp_path: Path, bug: str
) -> None:
    """Replicas with one bug are caught by the same checks; without it, they are not."""
    caught = None
    for number in range(HISTORIES_TO_CATCH):
        database = server.fresh(f"{bug}-{number}")
        folder = tmp_path / str(number)
        folder.mkdir()
        with replicas(model_folder("ledger"), database, folder, bug) as running:
            try:
                record_and_check(running, 1_000, folder / "history.json")
            except Inconsistent as error:
                caught = error
                break
    print({"histories": number + 1, "caught": str(caught)[:300]})
    assert (caught is None) == (bug == seeded_replica.NO_BUG)
