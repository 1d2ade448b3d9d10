"""Many calls as one: what a work does whose peer cannot be asked for each call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any


def several(
    act: Callable[[], Awaitable[Any]], times: int, in_flight: int
) -> Callable[[], Awaitable[None]]:
    """What calls so many times, with so many calls in flight until none is left."""

    async def all_of_them() -> None:
        left = iter(range(times))

        async def one_after_the_other() -> None:
            for _ in left:
                await act()

        await asyncio.gather(*(one_after_the_other() for _ in range(in_flight)))

    return all_of_them
