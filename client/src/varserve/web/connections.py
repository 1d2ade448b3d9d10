"""Who looks: one client of the service for each set of credentials that the browsers send.

A request with an `Authorization: Bearer` header is the caller's own; one without is made with the
credentials that the inspector itself was started with, if it was.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from varserve import InnerTensors, Unauthenticated, aio

MAX_CALLERS = 64
"""Clients that are kept connected; of further callers the longest unused one is closed."""

REFRESH_SECONDS = 5.0
STALE_SECONDS = 60.0
"""So old may be what a page says of a model beside the values that it asks for.

It is asked for anew after REFRESH_SECONDS, or _PAUSE times as long as that took. A page waits for
PATIENCE_SECONDS, and with what is STALE_SECONDS old until it is there.
"""
_PAUSE = 20
PATIENCE_SECONDS = 0.3

LISTED_SECONDS = 60.0
"""So old may be a list of inner tensors, and with it what the caller may know of."""
_MOST_LISTS = 8

Connect = Callable[[str | None], aio.Client]
"""Makes a client with a token in place of the inspector's own credentials; None: with its own."""


class _Described(NamedTuple):
    """A model, when it was last described, and how many seconds that took."""

    model: aio.Model
    at: float
    took: float


@dataclass(slots=True, eq=False)
class Caller:
    """One client, and the models that it has opened."""

    client: aio.Client
    _models: dict[str, _Described] = field(default_factory=dict)
    _fetching: dict[str, asyncio.Task[aio.Model]] = field(default_factory=dict)
    _lists: OrderedDict[tuple[object, ...], tuple[float, InnerTensors]] = field(
        default_factory=OrderedDict
    )

    async def model(self, name: str, *, now: bool = False) -> aio.Model:
        """A model, described as it was a few seconds ago; `now`: as it is.

        A large model takes seconds to be described: meanwhile it is as it was last described.
        """
        known = self._models.get(name)
        age = math.inf if known is None else time.monotonic() - known.at
        if known is not None and not now and age < max(REFRESH_SECONDS, _PAUSE * known.took):
            return known.model
        if now and name in self._fetching:
            await asyncio.wait({self._fetching[name]})  # It may have begun before.
        if name not in self._fetching:
            task = asyncio.create_task(self._fetch(name, known))
            # A failure that nobody waits for is met by the next request.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._fetching[name] = task
        task = self._fetching[name]
        if known is None or now or age > STALE_SECONDS:
            return await asyncio.shield(task)
        await asyncio.wait({task}, timeout=PATIENCE_SECONDS)
        return task.result() if task.done() else known.model

    async def _fetch(self, name: str, known: _Described | None) -> aio.Model:
        began = time.monotonic()
        try:
            if known is None:
                model = await self.client.model(name)
            else:
                model = known.model
                await model.refresh()
            ended = time.monotonic()
            self._models[name] = _Described(model, ended, ended - began)
            return model
        except BaseException:
            self._models.pop(name, None)
            raise
        finally:
            del self._fetching[name]

    async def inner_tensors(
        self, model: aio.Model, function: aio.Function, overload: int
    ) -> InnerTensors:
        """The inner tensors of an overload, which are the same as long as its version is served.

        Raises AccessDenied, InspectionUnsupported.
        """
        key = (model.name, model.version, model.epoch, function.path, overload)
        asked, found = self._lists.pop(key, (0.0, None))
        if found is None or time.monotonic() - asked > LISTED_SECONDS:
            asked, found = time.monotonic(), await function.tensors(overload=overload)
        self._lists[key] = asked, found
        while len(self._lists) > _MOST_LISTS:
            self._lists.popitem(last=False)
        return found


class Callers:
    """The clients that are connected now."""

    def __init__(self, connect: Connect, *, own_credentials: bool = True) -> None:
        self._connect = connect
        self._own = own_credentials
        self._callers: OrderedDict[str | None, Caller] = OrderedDict()

    def of(self, authorization: str | None) -> Caller:
        """The caller of a request by its Authorization header. Raises Unauthenticated."""
        token = None
        if authorization is not None:
            scheme, _, token = authorization.partition(" ")
            if scheme.lower() != "bearer" or not token.strip():
                raise Unauthenticated(
                    "expected `Authorization: Bearer TOKEN`, found another scheme"
                )
            token = token.strip()
        elif not self._own:
            raise Unauthenticated("expected `Authorization: Bearer TOKEN`, found no such header")
        if token not in self._callers:
            self._callers[token] = Caller(self._connect(token))
        self._callers.move_to_end(token)
        return self._callers[token]

    async def trim(self) -> None:
        """Close the clients that are too many."""
        while len(self._callers) > MAX_CALLERS:
            _, caller = self._callers.popitem(last=False)
            await caller.client.close()

    async def close(self) -> None:
        """Close all clients."""
        while self._callers:
            _, caller = self._callers.popitem()
            await caller.client.close()
