"""Health where services share a state: SERVING with what was acknowledged, while it keeps up."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from tests.core.shared_log import Replica, SharedLog
from tests.core.test_live_model import SET
from tests.rpc.models import counter_model
from tests.rpc.running import Running, running
from tests.waiting import until_async
from varserve_service.core.change.writes import Write
from varserve_service.core.model.live_model import LiveModel

SERVING = health_pb2.HealthCheckResponse.SERVING
LAG = 5.0


@pytest.fixture
def behind() -> Iterator[tuple[LiveModel, Replica]]:
    """A replica that does not follow, and a commit that it lacks."""
    log = SharedLog()
    journals = [Replica(log), Replica(log, follows=False)]
    other, live = (LiveModel(counter_model(), journal=journal) for journal in journals)  # type: ignore[arg-type]
    other.assign([Write("count", SET, np.int64(1))])
    yield live, journals[1]
    other.close()
    live.close()


async def is_serving(found: Running, name: str) -> bool:
    answer = await found.health.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
    assert (answer.status == SERVING) == (name in found.server._healthy)
    return bool(answer.status == SERVING)


async def test_a_replica_is_ready_when_it_has_what_was_acknowledged_before(
    behind: tuple[LiveModel, Replica],
) -> None:
    """Not before, by none of its names; also while the newest commit cannot be asked for."""
    live, journal = behind
    journal.unreachable = True
    async with running(live, state_lag=LAG) as found:
        for name in ("", "counter", "counter@1"):
            assert not await is_serving(found, name)
        journal.unreachable = False
        journal.follows = True
        await found.server.wait_until_ready()
        assert live.header.revision == 1
        for name in ("", "counter", "counter@1"):
            assert await is_serving(found, name)


async def test_a_replica_that_falls_behind_is_not_ready(
    behind: tuple[LiveModel, Replica],
) -> None:
    """By more than the setting; when it has caught up it is again."""
    live, journal = behind
    journal.follows = True
    async with running(live, state_lag=LAG) as found:
        await found.server.wait_until_ready()
        for seconds, expected in ((LAG + 1, False), (LAG - 1, True), (float("inf"), False)):
            journal.behind_seconds = seconds
            await until_async(lambda expected=expected: found.server.ready is expected)  # type: ignore[misc]
            assert await is_serving(found, "counter@1") is expected


async def test_any_lag_may_be_allowed(behind: tuple[LiveModel, Replica]) -> None:
    """With 0 a replica stays ready, however far it falls behind."""
    live, journal = behind
    journal.follows = True
    journal.behind_seconds = 1e9
    async with running(live) as found:
        await found.server.wait_until_ready()
        readiness = found.server._readiness
        assert not readiness._look()
        assert found.server.ready
