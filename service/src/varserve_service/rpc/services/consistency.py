"""Waiting until the state is as recent as a call wants it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from varserve.v1 import model_pb2 as pb
from varserve_service.core.commit.freshness import Then, Waiter
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.rpc.calls.call import RpcCall
from varserve_service.rpc.messages import translate

from .backend import Backend

# Of the time that is left until a call's deadline, what is waited.
_SHARE = 0.9


def is_recent(backend: Backend, request: Any) -> bool:
    """Whether the model that a request names is as recent as its `consistency` says, at a glance.

    Where not, `wait_until_recent` finds out.
    """
    if not request.HasField("consistency"):
        return True
    wanted = request.consistency
    found = backend.models.resolve(request.model)
    return (
        found is not None
        and not wanted.linearizable
        and wanted.min_revision >= 0
        and _reaches(found, wanted)
    )


async def wait_until_recent(backend: Backend, request: Any, call: RpcCall) -> None:
    """Wait until the model that a request names is as recent as its `consistency` says.

    What its name means when this returns is. Raises RequestError DEADLINE_EXCEEDED,
    STATE_STORE_UNAVAILABLE, MODEL_NOT_FOUND, MODEL_NOT_READY.
    """
    if is_recent(backend, request):
        return
    wanted: pb.Consistency = request.consistency
    if wanted.min_revision < 0:
        raise translate.malformed(
            f"consistency.min_revision: expected 0 or more, found {wanted.min_revision}"
        )
    while True:
        with backend.serving.use(call, request.model) as served:
            live = served.live
            if wanted.linearizable:
                await _wait(live.freshness.wait_for_newest, "the newest revision", live, call)
            if not _reaches(live, wanted):
                revision = wanted.min_revision
                wait = partial(live.freshness.wait, revision)
                await _wait(wait, f"revision {revision}", live, call)
        if backend.models.resolve(request.model) is live:
            return


def _reaches(live: LiveModel, wanted: pb.Consistency) -> bool:
    if wanted.epoch not in ("", live.header.epoch):
        return True  # of another epoch: it says nothing of this state
    return wanted.min_revision <= live.freshness.revision


async def _wait(
    begin: Callable[[Then], Waiter], awaited: str, live: LiveModel, call: RpcCall
) -> None:
    """Begin to wait, and do so until the call's deadline."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def finish(error: RequestError | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    def then(error: RequestError | None) -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(finish, error)

    waiter = begin(then)
    remaining = None
    if call.deadline is not None:
        # A little less, or the caller's own clock ends the call without this reason.
        remaining = max(0.0, _SHARE * (call.deadline - time.monotonic()))
    try:
        await asyncio.wait_for(future, remaining)
    except TimeoutError:
        found = live.freshness.revision
        raise RequestError(
            Reason.DEADLINE_EXCEEDED,
            f"model {live.name!r}: expected {awaited}, found revision {found} where the call "
            "arrived, until its deadline passed",
            model=live.name,
            current_revision=found,
        ) from None
    finally:
        live.freshness.leave(waiter)
