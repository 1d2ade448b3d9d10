"""A watch goes on at another replica when its own is killed, and hears of every commit once."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

import varserve
from tests.postgres.fleet import Replica, check, replicas, writers
from tests.postgres.replica_process import MODEL
from tests.waiting import join, until

KILLS, ALL_KILLS = 3, 40
WATCHES = 3


class Watcher:
    """Follows the counter through all replicas, wherever gRPC finds one."""

    def __init__(self, targets: list[Replica]) -> None:
        self.heard: list[tuple[int, int]] = []
        """The revision and the counter of each event."""
        self.resumed = 0
        self.failed: BaseException | None = None
        self._last = threading.Event()
        self._until = -1
        addresses = ",".join(target.address for target in targets)
        self._client = varserve.connect(f"ipv4:{addresses}", round_robin=True)
        self._watch = self._client.model(MODEL).watch("count", after_revision=0, patience=60)
        self._watch.on_connection = self._told
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _told(self, what: str, detail: str) -> None:
        self.resumed += what == "resumed"

    def _run(self) -> None:
        try:
            for event in self._watch:
                (change,) = event.changes
                self.heard.append((event.revision, int(change.value)))
        except BaseException as error:
            self.failed = error

    def reached(self, revision: int) -> bool:
        return self.failed is not None or bool(self.heard and self.heard[-1][0] >= revision)

    def close(self) -> None:
        self._watch.close()
        join([self._thread])
        self._client.close()


def move(database: str, folder: Path, kills: int) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    with replicas(database, folder) as targets:
        turns = list(targets)
        with writers(targets, 6) as load:
            load.more(1)
            watchers = [Watcher(targets) for _ in range(WATCHES)]
            for kill in range(kills):
                load.more(20 + chance.randrange(20))
                if kill % len(turns) == 0:
                    chance.shuffle(turns)
                victim = turns[kill % len(turns)]
                victim.kill()
                victim.start()
                victim.wait_ready()
            load.more(20)
        commits = check(database, load.acknowledged, targets)
        for watcher in watchers:
            until(lambda watcher=watcher: watcher.reached(commits), 300)  # type: ignore[misc]
            watcher.close()
    resumed = [watcher.resumed for watcher in watchers]
    print({"commits": commits, "kills": kills, "resumed": resumed})
    for watcher in watchers:
        assert watcher.heard == [(revision, revision) for revision in range(1, commits + 1)]
    # Each replica has its turn to be killed: every watch loses its own in every round.
    assert min(resumed) >= kills // len(turns)


@pytest.mark.slow
def test_watches_move_when_replicas_are_killed(database: str, tmp_path: Path) -> None:
    """No commit is missed and none is told twice, with its value."""
    move(database, tmp_path, KILLS)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_watches_move_40_times(database: str, tmp_path: Path) -> None:
    """The same, 40 times."""
    move(database, tmp_path, ALL_KILLS)
