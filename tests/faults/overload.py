"""Overload on a service, as its callers see it: the most that it can do, and three times that.

Calls are made as a schedule says, whether or not those before are answered: callers who wait for
answers would slow down with the service, and never overload it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

import grpc
import numpy as np

from tests.rpc.wire import calls_of, outcome_of

CLIENTS = 16
DEADLINE = 1.0


@dataclass(frozen=True)
class Load:
    """What came of calls for some seconds: outcomes by reason, and the seconds refusals took."""

    seconds: float
    outcomes: Counter[str]
    refused: list[float] = field(repr=False)

    @property
    def goodput(self) -> float:
        """Answers in time, a second."""
        return self.outcomes["OK"] / self.seconds

    @property
    def refusal_seconds(self) -> float:
        """What half of the refusals took at most; 0 when there were none."""
        return float(np.median(self.refused)) if self.refused else 0.0


async def peak(address: str, request: bytes, seconds: float) -> float:
    """Answers a second to callers that each wait for one before they ask again."""
    done = 0
    async with grpc.aio.insecure_channel(address) as channel:
        call = calls_of(channel)["RunFunction"]
        end = time.monotonic() + seconds

        async def ask() -> None:
            nonlocal done
            while time.monotonic() < end:
                await call(request, timeout=60)
                done += 1

        await asyncio.gather(*(ask() for _ in range(CLIENTS)))
    return done / seconds


async def overload(address: str, request: bytes, rate: float, seconds: float) -> Load:
    """So many calls a second, each with a deadline of one second."""
    outcomes: Counter[str] = Counter()
    refused: list[float] = []
    async with grpc.aio.insecure_channel(address) as channel:
        call = calls_of(channel)["RunFunction"]

        async def ask() -> None:
            started = time.monotonic()
            try:
                await call(request, timeout=DEADLINE)
                outcomes["OK"] += 1
            except grpc.aio.AioRpcError as error:
                outcome = outcome_of(error)
                outcomes[outcome.reason] += 1
                if outcome.reason == "TOO_MANY_REQUESTS":
                    refused.append(time.monotonic() - started)

        asked: list[asyncio.Task[None]] = []
        begun = time.monotonic()
        while (passed := time.monotonic() - begun) < seconds:
            while len(asked) < passed * rate:
                asked.append(asyncio.ensure_future(ask()))
            await asyncio.sleep(0.01)
        await asyncio.gather(*asked)
        # Answers come until the last deadline.
        return Load(time.monotonic() - begun, outcomes, refused)
