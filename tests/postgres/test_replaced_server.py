"""A server that another one has replaced is asked nothing by connections that are there already."""

from __future__ import annotations

import numpy as np
import pytest

from tests.postgres.conftest import Start
from tests.postgres.test_journal import add, make
from varserve_service.core.errors import StateStoreUnavailable
from varserve_service.core.ports.journal import Position
from varserve_service.core.values.host_value import HostValue
from varserve_service.journal.postgres.connection import Connector
from varserve_service.journal.postgres.following import Listener
from varserve_service.journal.postgres.labels import LabelRows
from varserve_service.journal.postgres.leases import LeaseRows
from varserve_service.journal.postgres.probing import Prober
from varserve_service.journal.postgres.staging import Stager
from varserve_service.journal.postgres.telling import Sender

KEY = ("fake", 1)


def test_nothing_is_asked_of_a_server_that_was_replaced(database: str, replica: Start) -> None:
    """Whoever asks closes its connection, and is told that the database is away."""
    live, _ = replica(database, make)
    add(live)
    connector = Connector(database)
    prober = Prober(connector, KEY, live.header.epoch)
    leases, labels = LeaseRows(connector, KEY), LabelRows(connector)
    stager, listener = (
        Stager(connector, KEY, lambda names: None),
        Listener(connector, KEY, Sender(KEY)),
    )
    value = HostValue(np.ones(1))
    for ask in (lambda: prober.newest(Position(0)), leases.count, labels.all):
        ask()
    stager.stage({"v": value}, None)
    assert len(listener.news(Position(0))) == 1
    owners = (prober, leases, labels, listener)
    opened = [*(owner._open for owner in owners), *stager._idle]
    connector._newest += 1
    for refused in (
        lambda: prober.newest(Position(0)),
        leases.count,
        labels.all,
        lambda: stager.stage({"v": value}, None),
    ):
        with pytest.raises(StateStoreUnavailable):
            refused()
    assert listener.news(Position(0)) == []
    assert [owner._open for owner in owners] == [None] * 4
    assert [connection is not None and connection.closed for connection in opened] == [True] * 5
    for owner in (prober, leases, stager, listener):
        owner.close()  # type: ignore[attr-defined]
