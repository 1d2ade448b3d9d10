"""The same bad requests against the real service: it lives, and stays as it was."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from contextlib import AbstractContextManager

from tests.rpc.attack import attack, state_of
from tests.rpc.wire import connected
from tests.serving import ServiceProcess

SEED = int(os.environ.get("VARSERVE_TEST_SEED", random.SystemRandom().randrange(2**32)))
MIB = 2**20


async def test_ten_thousand_bad_requests_leave_the_service_as_it_was(
    serve: Callable[..., AbstractContextManager[ServiceProcess]],
) -> None:
    """10,000 bad requests: refused for their reasons; process, state and memory as before."""
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    with serve("counter") as service, connected(service.address) as wire:
        await attack(
            service.address, rng, 8000
        )  # so that what is made once is, and caches are full
        before, rss = state_of(wire), service.rss_bytes()
        await attack(service.address, rng, 10_000)
        assert state_of(wire) == before
        grown = service.rss_bytes() - rss
        assert grown <= 20 * MIB, f"memory grew by {grown / MIB:.1f} MiB"
        assert service.terminate() == 0
    assert '"defect"' not in service.log.read_text()
