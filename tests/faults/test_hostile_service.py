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
ROUNDS = 3
LEFT = 20 * 2**20


async def test_ten_thousand_bad_requests_leave_the_service_as_it_was(
    serve: Callable[..., AbstractContextManager[ServiceProcess]],
) -> None:
    """10,000 bad requests: refused for their reasons; process, state and memory as before.

    They leave 20 MiB at most. What the allocator holds goes up and down by as much; what leaks
    grows each time, so that the least of three rounds counts.
    """
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    grown: list[int] = []
    with serve("counter") as service, connected(service.address) as wire:
        await attack(service.address, rng, 1000)  # so that what is made once is made
        before = state_of(wire)
        while len(grown) < ROUNDS and min(grown, default=LEFT + 1) > LEFT:
            rss = service.rss_bytes()
            await attack(service.address, rng, 10_000)
            grown.append(service.rss_bytes() - rss)
            assert state_of(wire) == before
        print({"grown by": grown})
        assert min(grown) <= LEFT
        assert service.terminate() == 0
    assert '"defect"' not in service.log.read_text()
