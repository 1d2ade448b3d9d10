"""What becomes of calls to the threads of a model when these are closed."""

from __future__ import annotations

import asyncio

import pytest

from tests.fakes import Gate
from varserve_service.core.errors import Reason, RequestError
from varserve_service.rpc.serving.workers import Turn, Workers

BOUND = 10
ANN, BOB = Turn(None, "ann"), Turn(None, "bob")


def why() -> RequestError:
    return RequestError(Reason.MODEL_NOT_READY, "closed")


@pytest.mark.parametrize(("reason", "error"), [(why, RequestError), (None, asyncio.CancelledError)])
async def test_no_call_waits_for_threads_that_are_closed(
    reason: object, error: type[BaseException]
) -> None:
    """What runs gets its result; what waits, and what comes later, ends at once."""
    gate, workers = Gate(), Workers("m", 1, 10)

    async def bounded(number: int) -> int:
        async with asyncio.timeout(BOUND):
            return await workers.run(lambda: number, ANN)

    running = asyncio.ensure_future(workers.run(gate, ANN))
    waiting = [asyncio.ensure_future(bounded(number)) for number in range(3)]
    await asyncio.to_thread(gate.reached.wait, BOUND)
    workers.close(reason)  # type: ignore[arg-type]
    ends = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(end) for end in ends] == [error] * 3
    late = asyncio.ensure_future(bounded(7))
    assert type((await asyncio.gather(late, return_exceptions=True))[0]) is error
    assert workers.pending == 1
    gate.opened.set()
    async with asyncio.timeout(BOUND):
        await running
    assert workers.pending == 0


async def test_threads_end_when_they_are_closed() -> None:
    """All of them, the one that is at work after its work."""
    gate, workers = Gate(), Workers("m", 3, 10)
    running = asyncio.ensure_future(workers.run(gate, ANN))
    await asyncio.to_thread(gate.reached.wait, BOUND)
    workers.close(why)
    gate.opened.set()
    async with asyncio.timeout(BOUND):
        await running
    for thread in workers._threads:
        await asyncio.to_thread(thread.join, BOUND)
        assert not thread.is_alive()
