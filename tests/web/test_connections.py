"""What a page waits for while a model is described anew."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from varserve.web import connections
from varserve.web.connections import Caller

WAIT_SECONDS = 30


class Described:
    """A model whose next descriptions come when the test lets them."""

    def __init__(self) -> None:
        self.let = asyncio.Event()
        self.begun = 0
        self.problem: Exception | None = None

    async def refresh(self) -> None:
        self.begun += 1
        await self.let.wait()
        if self.problem is not None:
            raise self.problem


class Client:
    """Opens models at once."""

    def __init__(self) -> None:
        self.opened: list[Described] = []

    async def model(self, name: str) -> Described:
        self.opened.append(Described())
        return self.opened[-1]


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    monkeypatch.setattr(connections, "REFRESH_SECONDS", 0.0)
    monkeypatch.setattr(connections, "_PAUSE", 0)
    monkeypatch.setattr(connections, "PATIENCE_SECONDS", 0.01)
    return Client()


def caller_of(client: Client) -> Caller:
    return Caller(cast(Any, client))


async def test_a_page_does_not_wait_for_a_large_model(client: Client) -> None:
    """While a model is described anew, once at a time, pages have what was said of it before."""
    caller = caller_of(client)
    first = cast(Any, await caller.model("large"))
    again = await asyncio.gather(*(caller.model("large") for _ in range(5)))
    assert again == [first] * 5
    assert first.begun == 1
    first.let.set()
    assert await caller.model("large") is first


async def test_who_needs_the_present_waits_for_it(client: Client) -> None:
    """What comes before a write is described after it was asked for, not before."""
    caller = caller_of(client)
    model = cast(Any, await caller.model("large"))
    await caller.model("large")
    now = asyncio.ensure_future(caller.model("large", now=True))
    await asyncio.sleep(0)
    assert not now.done()
    model.let.set()
    assert await asyncio.wait_for(now, WAIT_SECONDS) is model
    assert model.begun == 2


async def test_a_failure_is_met_by_the_next_page(client: Client) -> None:
    """A description that failed meanwhile is asked for anew."""
    caller = caller_of(client)
    model = cast(Any, await caller.model("large"))
    model.problem = ValueError("gone")
    await caller.model("large")
    model.let.set()
    await asyncio.sleep(0)
    assert await asyncio.wait_for(caller.model("large"), WAIT_SECONDS) is client.opened[1]


async def test_what_is_too_old_is_waited_for(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a minute nobody is shown what was said before."""
    monkeypatch.setattr(connections, "STALE_SECONDS", 0.0)
    caller = caller_of(client)
    model = cast(Any, await caller.model("large"))
    waiting = asyncio.ensure_future(caller.model("large"))
    done, _ = await asyncio.wait({waiting}, timeout=0.1)
    assert not done
    model.let.set()
    assert await asyncio.wait_for(waiting, WAIT_SECONDS) is model


async def test_what_takes_long_is_asked_for_less_often(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model is described a small part of the time, however long that takes."""
    monkeypatch.setattr(connections, "_PAUSE", 1_000_000)
    caller = caller_of(client)
    model = cast(Any, await caller.model("large"))
    for _ in range(3):
        assert await caller.model("large") is model
    assert model.begun == 0
