"""Who looks: one client of the service for each set of credentials that the browsers send.

A request with an `Authorization: Bearer` header is the caller's own; one without is made with the
credentials that the inspector itself was started with, if it was.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from varserve import Unauthenticated, aio

MAX_CALLERS = 64
"""Clients that are kept connected; of further callers the longest unused one is closed."""

REFRESH_SECONDS = 5.0
"""So old may be what a page says of a model beside the values that it asks for."""

Connect = Callable[[str | None], aio.Client]
"""Makes a client with a token in place of the inspector's own credentials; None: with its own."""


@dataclass(slots=True, eq=False)
class Caller:
    """One client, and the models that it has opened."""

    client: aio.Client
    _models: dict[str, tuple[float, aio.Model]] = field(default_factory=dict)
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def model(self, name: str, *, now: bool = False) -> aio.Model:
        """A model, described as it was a few seconds ago at most; `now`: as it is."""
        async with self._opening:
            asked, model = self._models.get(name, (0.0, None))
            if model is not None and not now and time.monotonic() - asked < REFRESH_SECONDS:
                return model
            self._models.pop(name, None)
            if model is None:
                model = await self.client.model(name)
            else:
                await model.refresh()
            self._models[name] = (time.monotonic(), model)
            return model


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
