"""Bad requests of every kind, by the thousand, change nothing and are told why."""

from __future__ import annotations

import os
import random

from tests.rpc.attack import attack, state_of
from tests.rpc.models import counter
from tests.rpc.wire import connected
from tests.serving import serve_here

SEED = int(os.environ.get("VARSERVE_TEST_SEED", random.SystemRandom().randrange(2**32)))


async def test_bad_requests_change_nothing() -> None:
    """1,000 bad requests: each refused for its reason, and the state as before."""
    print(f"seed {SEED}")
    with serve_here(counter()) as address, connected(address) as wire:
        before = state_of(wire)
        await attack(address, random.Random(SEED), 1000)
        assert state_of(wire) == before
