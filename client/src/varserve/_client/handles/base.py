"""What every handle has, and what clients share.

Owns how one method serves both drivers: it describes an operation, which the driver of its handle
runs, or gives to be awaited.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, NamedTuple, ParamSpec, overload

from varserve._client.transport.calls import Budget, Close, Op, positive_seconds
from varserve._client.transport.drivers import Async, Sync

if TYPE_CHECKING:
    # At run time grpcio's own; only its type checker's form has a default.
    from typing_extensions import TypeVar

    from varserve._client.transport.endpoint import LaneUse
    from varserve._client.transport.retries import Throttle
    from varserve._client.values.seen import Seen
else:
    from typing import TypeVar as _TypeVar

    def TypeVar(name, default=None, **options):
        return _TypeVar(name, **options)


T_co = TypeVar("T_co", covariant=True)
P = ParamSpec("P")
D_co = TypeVar("D_co", bound=Sync | Async, default=Sync, covariant=True)

# A call may take this much longer for each byte that it moves: 8 MiB a second.
SECONDS_PER_BYTE = 1 / (8 << 20)


class OfThisProcess:
    """An object with connections or threads: its copy is itself."""

    def __reduce__(self) -> Any:
        raise TypeError(f"a {type(self).__name__} belongs to its process and cannot be pickled")

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: object) -> Any:
        return self


class Handle(OfThisProcess, Generic[D_co]):
    """An object whose methods are operations on a driver."""

    _driver: Sync | Async

    def _blocking(self, what: str, instead: str) -> Sync:
        if isinstance(self._driver, Sync):
            return self._driver
        raise TypeError(f"{what} would block the event loop: use {instead}")

    def _awaited(self, what: str, instead: str) -> Async:
        if isinstance(self._driver, Async):
            return self._driver
        raise TypeError(f"{what} needs a client of varserve.aio: use {instead}")


if TYPE_CHECKING:

    class operation(Generic[P, T_co]):  # noqa: N801, RUF100
        """A method that returns an operation: runs it, or gives what is to be awaited."""

        def __init__(self, make: Callable[Concatenate[Any, P], Op[T_co]]) -> None: ...
        @overload
        def __get__(self, handle: None, owner: type) -> operation[P, T_co]: ...
        @overload
        def __get__(self, handle: Handle[Sync], owner: type) -> Callable[P, T_co]: ...
        @overload
        def __get__(
            self, handle: Handle[Async], owner: type
        ) -> Callable[P, Coroutine[Any, Any, T_co]]: ...
        def __get__(self, handle: Any, owner: type) -> Any: ...

else:

    def operation(make):
        """A method that returns an operation: runs it, or gives what is to be awaited."""

        @functools.wraps(make)
        def method(self, *args, **kwargs):
            return self._driver.run(make(self, *args, **kwargs))

        return method


class Defaults(NamedTuple):
    """Of a client: seconds for a call that moves little, how often to try again, what it has seen,
    and the lane."""

    timeout: float
    retries: int
    throttle: Throttle
    seen: Seen
    lane: LaneUse | None = None

    def budget(self, timeout: float | None, nbytes: int | None = None) -> Budget:
        """For one call: the caller's own seconds, else the default and what its bytes take.

        Raises InvalidRequest.
        """
        if timeout is None:
            seconds = self.timeout + (nbytes or 0) * SECONDS_PER_BYTE
        else:
            seconds = positive_seconds(timeout)
        return Budget(seconds, self.retries, self.throttle, self.lane)


BlockingT = TypeVar("BlockingT", bound="Connection[Sync]")
AwaitedT = TypeVar("AwaitedT", bound="Connection[Async]")


class Connection(Handle[D_co]):
    """A client: what can be closed, and used as a context manager."""

    def __init__(self, driver: Sync | Async, defaults: Defaults) -> None:
        self._driver = driver
        self._defaults = defaults

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
        return f"<varserve.{type(self).__name__} of {self._driver.endpoint.target}{state}>"
