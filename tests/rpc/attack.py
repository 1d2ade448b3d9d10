"""Sends bad requests by the thousand and holds what comes back against what each may come to."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import random
from collections import Counter

import grpc

from tests.rpc import bad_bytes, bad_requests  # noqa: F401 (they add their kinds)
from tests.rpc.cases import Case, cases
from tests.rpc.requests import MODEL
from tests.rpc.wire import AsyncWire, Outcome, Wire
from varserve.v1 import model_service_pb2 as pb

CLIENT_FAULTS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.OUT_OF_RANGE,
}

EXPECTED = {
    "REQUEST_MALFORMED",
    "DTYPE_UNSUPPORTED",
    "DTYPE_MISMATCH",
    "CAST_UNSUPPORTED",
    "SHAPE_MISMATCH",
    "LENGTH_MISMATCH",
    "REGION_INVALID",
    "CHUNK_INVALID",
    "CHECKSUM_MISMATCH",
    "INPUT_MISMATCH",
    "MODEL_NOT_FOUND",
    "VARIABLE_NOT_FOUND",
    "FUNCTION_NOT_FOUND",
    "REVISION_MISMATCH",
    "EPOCH_MISMATCH",
    "REVISION_COMPACTED",
    "REVISION_IN_FUTURE",
    "LEASE_NOT_FOUND",
}


def state_of(wire: Wire) -> str:
    """A hash of all there is of the model's state: values, revisions, epoch."""
    description = pb.GetModelResponse.FromString(
        wire.ask("GetModel", pb.GetModelRequest(model=MODEL)).responses[0]
    )
    names = [variable.name for variable in description.variables if variable.initialized]
    request = pb.ReadVariablesRequest(model=MODEL, reads=[{"variable": name} for name in names])
    values = wire.ask("ReadVariables", request)
    assert values.code is grpc.StatusCode.OK
    return hashlib.sha256(b"".join(values.responses)).hexdigest()


def check(kind: str, bad: Case, outcome: Outcome) -> None:
    """Fail unless the outcome is one that this case may come to."""
    told = f"{kind}: {bad.method} {[message.hex()[:400] for message in bad.messages]}"
    assert outcome.code is not grpc.StatusCode.OK or bad.harmless, f"accepted: {told}"
    if outcome.code is not grpc.StatusCode.OK:
        assert outcome.code in CLIENT_FAULTS, f"{outcome.code} {outcome.text}: {told}"
        outcome.check()
        assert not bad.reasons or outcome.reason in bad.reasons, (
            f"expected {sorted(bad.reasons)}, found {outcome.reason} {outcome.text}: {told}"
        )


async def attack(address: str, rng: random.Random, count: int) -> Counter[str]:
    """Send that many bad requests, 32 at a time; how many came to each reason (or OK).

    More are sent until each reason was met; fails when one came to what it may not, and when
    a reason does not come up.
    """
    found: Counter[str] = Counter()

    def missed() -> set[str]:
        return {reason for reason in EXPECTED if found[reason] < count / 1000}

    waiting = itertools.takewhile(
        lambda _: found.total() < count or missed(), cases(rng, 20 * count)
    )

    async def send_some(wire: AsyncWire) -> None:
        for kind, bad in waiting:
            outcome = await wire.send(bad.method, bad.messages)
            check(kind, bad, outcome)
            found[outcome.reason] += 1

    async with grpc.aio.insecure_channel(address) as channel, asyncio.TaskGroup() as tasks:
        for _ in range(32):
            tasks.create_task(send_some(AsyncWire(channel)))
    assert found.total() >= count
    assert found["OK"] < found.total() / 4, f"too many were good: {found}"
    assert not missed(), f"too little was tried: {missed()} of {found}"
    return found
