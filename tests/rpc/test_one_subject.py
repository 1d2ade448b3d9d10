"""One subject that holds as much as it can does not keep another from writing."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np

from tests.fakes import FakeVariable
from tests.rpc.models import counter
from tests.rpc.requests import chunk, entry, manifest
from tests.rpc.running import Running, reason_of, running
from tests.rpc.test_identity import Claimed
from tests.serving import rss_bytes
from varserve.frames import ACCEPTED_KEY
from varserve.v1 import history_pb2
from varserve.v1 import model_service_pb2 as pb
from varserve_service.core.memory import MemoryBudget
from varserve_service.host_memory import HostMemory
from varserve_service.rpc import Access

MIB = 2**20
LARGE = 16 * MIB
ROOM = 400 * MIB
# Seconds until the other's write is through: docs/operations.md.
BOUND = 10.0
ANN, BOB = (("name", "ann"),), (("name", "bob"),)


def assignment(nbytes: int, **fields: Any) -> Any:
    header = {"dtype": 4, "shape": [nbytes], "byte_length": nbytes}
    return manifest(entry(variable="large", tensor=header), **fields)


async def write(found: Running, who: Any, fill: int, **fields: Any) -> str:
    """Write the large variable as a whole; the reason that it fails for, or OK."""
    call = found.stub.AssignVariables(metadata=who)
    await call.write(assignment(LARGE, **fields))
    accepted = await call.initial_metadata()
    if any(key == ACCEPTED_KEY for key, _ in accepted):
        for offset in range(0, LARGE, MIB):
            await call.write(chunk(offset, bytes([fill]) * MIB))
        await call.done_writing()
    return await reason_of(call)


async def hold_everything(found: Running) -> list[Any]:
    """Uploads that do not go on, downloads that nobody reads, leases and watches, until refused."""
    held: list[Any] = []
    read = pb.ReadVariablesRequest(model="counter", reads=[{"variable": "large"}])
    refused = 0
    for turn in range(60):
        download = found.stub.ReadVariables(read, metadata=ANN)
        await download.read()
        held.append(download)
        if await write(found, ANN, turn, lease_seconds=3600.0) != "OK":
            refused += 1
            if await write(found, ANN, turn) != "OK":
                refused += 1
        upload = found.stub.AssignVariables(metadata=ANN)
        await upload.write(assignment(2 * LARGE))
        held.append(upload)
        watch = found.stub.WatchVariables(
            history_pb2.WatchVariablesRequest(model="counter", values=True), metadata=ANN
        )
        await watch.read()
        held.append(watch)
        if refused > 6:
            break
    assert refused, "it was never refused: it does not hold as much as it can"
    return held


async def test_another_subject_writes_nevertheless() -> None:
    """A write of 16 MiB goes through within the documented bound, also when it has to wait."""
    memory = MemoryBudget("host", HostMemory(rss_bytes() + ROOM))
    large = FakeVariable("large", np.zeros(LARGE, np.uint8), shape=(None,))
    live = counter(large, host_memory=memory)
    async with running(live, access=Access(authenticator=Claimed())) as found:
        held = await hold_everything(found)
        began = time.monotonic()
        while (reason := await write(found, BOB, 255)) != "OK":
            assert reason in ("OUT_OF_MEMORY", "TOO_MANY_REQUESTS")
            assert time.monotonic() - began < BOUND, reason
            await asyncio.sleep(0.1)  # as a client retries
        assert time.monotonic() - began < BOUND
        for call in held:
            call.cancel()
