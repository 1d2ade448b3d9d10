"""Replicas are restarted one by one under clients: nothing is lost, and errors can be retried."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.postgres.fleet import check, replicas, writers

CLIENTS, ALL_CLIENTS = 12, 50
ROUNDS = 3


def restart_all(database: str, folder: Path, clients: int, rounds: int) -> None:
    with replicas(database, folder) as targets:
        with writers(targets, clients, pause=0.1, timeout=30) as load:
            for _ in range(rounds):
                for replica in targets:
                    load.more(clients)
                    assert replica.terminate() == 0
                    replica.start()
                    replica.wait_ready()
            load.more(clients)
        commits = check(database, load.acknowledged, targets)
        print({"commits": commits, **load.reasons})
        assert not any(replica.endings for replica in targets)
    # Of what a client is told, each can be asked for again: Writers raises what cannot.
    assert set(load.reasons) <= {"Unavailable", "ShuttingDown", "ModelNotReady", "TooManyRequests"}


@pytest.mark.slow
def test_a_rolling_restart_loses_nothing(database: str, tmp_path: Path) -> None:
    """Each of three replicas, by SIGTERM, under a dozen clients."""
    restart_all(database, tmp_path, CLIENTS, 1)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_rolling_restarts_under_50_clients(database: str, tmp_path: Path) -> None:
    """Three times."""
    restart_all(database, tmp_path, ALL_CLIENTS, ROUNDS)
