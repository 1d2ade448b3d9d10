"""One server for all tests of this folder, and a database of its own for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from typing import Any

import pytest

from tests.fakes import FakeModel
from tests.postgres.cluster import Cluster
from tests.postgres.cluster import cluster as running_cluster
from tests.postgres.server import Server, running
from varserve_service.core.model.live_model import LiveModel
from varserve_service.journal import JournalOptions
from varserve_service.journal.postgres import PostgresState
from varserve_service.journal.postgres.journal import PostgresJournal

_numbers = count(1)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with running() as server:
        yield server


@pytest.fixture(scope="session")
def _cluster() -> Iterator[Cluster]:
    with running_cluster() as found:
        yield found


@pytest.fixture
def cluster(_cluster: Cluster) -> Cluster:
    """A primary and two standbys, whatever became of them in the test before."""
    _cluster.mend()
    return _cluster


@pytest.fixture
def database(server: Server) -> str:
    return server.fresh(f"test{next(_numbers)}")


Replica = tuple[LiveModel, PostgresJournal]
Start = Callable[..., Replica]


@pytest.fixture
def replica() -> Iterator[Callable[..., Replica]]:
    """Starts a replica over a database; all are closed at the end."""
    with ExitStack() as started:

        def start(address: str, make: Callable[[], FakeModel], **options: Any) -> Replica:
            state = PostgresState(address, JournalOptions(**options))
            live, journal = state.take_up(make, LiveModel)
            started.callback(live.close)
            return live, journal

        yield start
