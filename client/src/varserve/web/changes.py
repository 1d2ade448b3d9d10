"""Live changes: the commits of a model as server-sent events, while a page is open."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import StreamingResponse

from varserve import AccessDenied, VarserveError, aio

MAX_NAMES = 500
"""Of the variables of one commit, as many are named; a page asks for the whole anew beyond that."""
_HEARTBEAT_SECONDS = 15.0


async def events(request: Request) -> StreamingResponse:
    """GET: `commit` events with who, why and which variables, and `lost` when the watch ends."""
    caller = request.app.state.callers.of(request.headers.get("authorization"))
    model = await caller.model(request.path_params["model"])
    with contextlib.suppress(AccessDenied):
        # The revision of now, so that a page that is loaded again because of it is not behind.
        await model.commits(limit=1)
    watch = await model.watch(values=False)
    return StreamingResponse(
        _told(watch), media_type="text/event-stream", headers={"x-accel-buffering": "no"}
    )


async def _told(watch: aio.Watch) -> AsyncIterator[str]:
    try:
        # Not "open": browsers send an event of that name themselves, before this one.
        yield _event("watching", {"revision": watch.revision})
        upcoming: asyncio.Task[Any] | None = None
        try:
            while True:
                upcoming = upcoming or asyncio.ensure_future(anext(watch))
                done, _ = await asyncio.wait({upcoming}, timeout=_HEARTBEAT_SECONDS)
                if not done:
                    yield ": still here\n\n"
                    continue
                try:
                    event = upcoming.result()
                except StopAsyncIteration:
                    return
                upcoming = None
                if not event.changes:
                    continue
                names = list(dict.fromkeys(change.variable for change in event.changes))
                yield _event(
                    "commit",
                    {
                        "revision": event.revision,
                        "subject": event.info.subject,
                        "message": event.info.message,
                        "kind": event.info.kind.value,
                        "variables": names[:MAX_NAMES],
                        "more": len(names) > MAX_NAMES,
                    },
                )
        finally:
            if upcoming is not None:
                upcoming.cancel()
                with contextlib.suppress(BaseException):
                    await upcoming
    except VarserveError as error:
        # The browser connects again by itself.
        yield _event("lost", {"reason": str(error)})
    finally:
        watch.close()


def _event(kind: str, content: dict[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps(content)}\n\n"
