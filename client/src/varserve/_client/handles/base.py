"""What clients share, and what every handle of something in a model has."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType
from typing import TypeVar

from varserve._client.handles.cache import SECONDS_PER_BYTE, ModelCache
from varserve._client.operations.calls import Conditions, new_request_id
from varserve._client.transport.drivers import (
    Async,
    Budget,
    Close,
    D_co,
    Handle,
    Op,
    Sync,
    operation,
)
from varserve._client.transport.throttle import Throttle


@dataclass(frozen=True, slots=True)
class Defaults:
    """Of a client: seconds for a call that moves little, and how often to try again."""

    timeout: float
    retries: int
    throttle: Throttle = field(default_factory=Throttle)

    def budget(self, timeout: float | None, nbytes: int | None = None) -> Budget:
        """For one call: the caller's own seconds, else the default and what its bytes take."""
        if timeout is None:
            timeout = self.timeout + (nbytes or 0) * SECONDS_PER_BYTE
        return Budget(timeout, self.retries, self.throttle)


BlockingT = TypeVar("BlockingT", bound="Connection[Sync]")
AwaitedT = TypeVar("AwaitedT", bound="Connection[Async]")


class Connection(Handle[D_co]):
    """A client: what can be closed, and used as a context manager."""

    @operation
    def close(self) -> Op[None]:
        """End the calls in progress (they raise ClientClosed) and hang up. Again: nothing."""
        yield Close()

    def __enter__(self: BlockingT) -> BlockingT:
        self._blocking("with", "async with")
        return self

    def __exit__(
        self: Connection[Sync],
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self: AwaitedT) -> AwaitedT:
        self._awaited("async with", "with")
        return self

    async def __aexit__(
        self: Connection[Async],
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        state = " (closed)" if self._driver.closed else ""
        return f"<varserve.{type(self).__name__} of {self._driver.dial.target}{state}>"


class ModelHandle(Handle[D_co]):
    """A handle of a model or of something in it."""

    def __init__(self, driver: Sync | Async, cache: ModelCache, defaults: Defaults) -> None:
        self._driver = driver
        self._cache = cache
        self._defaults = defaults

    def _budget(self, timeout: float | None, nbytes: int | None = None) -> Budget:
        return self._defaults.budget(timeout, nbytes)

    def _renewed(self, timeout: float | None) -> Op[None]:
        """What is known of the model, asked for anew when an answer came from a new epoch."""
        if self._cache.stale:
            yield from self._cache.refresh(self._budget(timeout))

    def _conditions(
        self, revision: int | None = None, epoch: str = "", message: str = ""
    ) -> Conditions:
        """Of a new logical write. A revision means something in its epoch only: that goes with it,
        and is the present one where the caller names none."""
        if revision is not None:
            epoch = epoch or self._cache.header.epoch
        return Conditions(new_request_id(), revision, epoch, message)
