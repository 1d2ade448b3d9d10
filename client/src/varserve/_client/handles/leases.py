"""Writes that last as long as this program does.

Owns `Lease`: while its block runs, the lease is renewed in the background; when the block ends, or
the program does, what was written is taken back by the service.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType

from varserve._client import errors, operations
from varserve._client.transport.calls import Budget, Op, positive_seconds
from varserve._client.transport.drivers import Async, Sync
from varserve._client.values.results import Commit
from varserve._client.values.writes import PreparedWrite

from .base import D_co, Handle, operation
from .of_models import ModelHandle

# Failures after which no later renewal can succeed.
_LOST = (errors.LeaseNotFound, errors.EpochMismatch, errors.ClientClosed)


class Lease(ModelHandle[D_co]):
    """Writes that are made when its `with` (`async with`) block begins, and taken back at its end.

    Should this program die or lose the service, the service takes them back after `seconds`. A
    variable that another caller wrote meanwhile keeps that value. When the lease has ended before
    its block did, the end of the block raises LeaseNotFound.
    """

    __reduce__ = Handle.__reduce__

    def __init__(
        self,
        owner: ModelHandle[D_co],
        writes: Sequence[PreparedWrite],
        seconds: float,
        message: str,
    ) -> None:
        super().__init__(owner._driver, owner._cache, owner._defaults)
        self.seconds = positive_seconds(seconds, "seconds")
        self.commit: Commit | None = None
        """The writes, once they are made."""
        self.lost: errors.VarserveError | None = None
        """Why the lease cannot be renewed any more."""
        self._writes = writes
        self._message = message
        self._kept = False
        self._ended = threading.Event()
        self._renewing: asyncio.Task[None] | None = None

    @operation
    def keep(self) -> Op[None]:
        """Let the writes stay for good, whatever becomes of this program."""
        yield from self._end(keep=True)
        self._kept = True
        self._ended.set()

    def _begin(self) -> Op[None]:
        if self.commit is not None:
            raise errors.InvalidRequest("the lease has begun before: a new block needs a new one")
        budget = self._budget(None, sum(each.nbytes for each in self._writes))
        options = self._options(message=self._message, lease_seconds=self.seconds)
        self.commit = yield from self._cache.write(self._writes, budget, options)

    def _renew(self) -> Op[bool]:
        """Whether to go on renewing."""
        assert self.commit is not None
        scope = self._cache.scope(Budget(self._pause, 0))
        try:
            yield from operations.renew_lease(scope, self.commit.revision, self.commit.epoch)
        except _LOST as error:
            self.lost = None if self._ended.is_set() else error
            return False
        except errors.VarserveError:
            pass  # it may do better next time
        return True

    def _end(self, *, keep: bool) -> Op[None]:
        if self.commit is None or self._kept:
            return
        ended = yield from operations.revoke_lease(
            self._cache.scope(self._budget(None)),
            self.commit.revision,
            self.commit.epoch,
            keep=keep,
        )
        self._cache.learn(ended.header)

    @property
    def _pause(self) -> float:
        return self.seconds / 3

    def __enter__(self: Lease[Sync]) -> Lease[Sync]:
        driver = self._blocking("with", "async with")
        driver.run(self._begin())

        def renew() -> None:
            going = True
            while going and not self._ended.wait(self._pause):
                with suppress(Exception):  # of who gives the token: it may do better next time
                    going = driver.run(self._renew())

        threading.Thread(target=renew, name="varserve-lease", daemon=True).start()
        return self

    def __exit__(
        self: Lease[Sync],
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        try:
            self._blocking("with", "async with").run(self._end(keep=False))
        except errors.VarserveError:
            if kind is None:
                raise

    async def __aenter__(self: Lease[Async]) -> Lease[Async]:
        driver = self._awaited("async with", "with")
        await driver.run(self._begin())

        async def renew() -> None:
            going = True
            while going:
                await asyncio.sleep(self._pause)
                if self._ended.is_set():
                    return
                with suppress(Exception):
                    going = await driver.run(self._renew())

        self._renewing = asyncio.create_task(renew())
        return self

    async def __aexit__(
        self: Lease[Async],
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
        try:
            await self._awaited("async with", "with").run(self._end(keep=False))
        except errors.VarserveError:
            if kind is None:
                raise

    def __repr__(self) -> str:
        names = [each.variable for each in self._writes]
        at = "not begun" if self.commit is None else f"at revision {self.commit.revision}"
        return f"<varserve.Lease of {names} for {self.seconds:g} s, {at}>"
