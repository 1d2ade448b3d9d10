"""Asyncio clients and the event loops that they are used in."""

from __future__ import annotations

import asyncio
import threading

import pytest

import varserve
import varserve.aio

SECONDS = 30


def test_a_second_event_loop(address: str) -> None:
    """When a client's loop has ended it is used in the next one."""
    client = varserve.aio.connect(address)

    async def ask() -> int:
        model = await client.model("fake")
        return int(await model.variables["counter"].numpy())

    assert [asyncio.run(ask()) for _ in range(3)] == [7, 7, 7]
    asyncio.run(client.close())


def test_two_event_loops_at_once(address: str) -> None:
    """A loop that goes on keeps its client: another one is told to connect for itself."""
    client = varserve.aio.connect(address)
    ready, leave = threading.Event(), threading.Event()

    async def hold() -> None:
        await client.models()
        ready.set()
        await asyncio.to_thread(leave.wait, SECONDS)
        assert await client.models()
        await client.close()

    thread = threading.Thread(target=lambda: asyncio.run(hold()))
    thread.start()
    try:
        assert ready.wait(SECONDS)

        async def ask() -> None:
            await client.models()

        with pytest.raises(varserve.InvalidRequest, match="another event loop"):
            asyncio.run(ask())
    finally:
        leave.set()
        thread.join(SECONDS)
