"""Hears of every commit of a model, in order and once, and says who changed what, and why.

Goes on after a lost connection where it was. Ends after as many commits as the first argument says.
"""

from __future__ import annotations

import asyncio
import sys

import varserve


async def follow(count: int) -> None:
    async with varserve.aio.connect() as client:
        model = await client.model("basic_pitch")
        async with await model.watch(after_revision=model.revision) as events:
            print("watching", model.name, flush=True)
            async for event in events:
                names = ", ".join(change.variable for change in event)
                print(f"revision {event.revision}: {names} ({event.info.message})", flush=True)
                count -= 1
                if not count:
                    return


if __name__ == "__main__":
    asyncio.run(follow(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
