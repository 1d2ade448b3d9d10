"""What clients share, and what every handle of something in a model has.

Owns how one method serves both drivers: it describes an operation, which the driver of its handle
runs, or gives to be awaited.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, NamedTuple, ParamSpec, overload
from weakref import WeakValueDictionary

from varserve import tensors
from varserve._client.errors import InvalidRequest
from varserve._client.operations.reads import FLOATS, Read
from varserve._client.transport.calls import Budget, Close, Op
from varserve._client.transport.drivers import Async, Sync
from varserve._client.transport.endpoint import LaneUse, Origin
from varserve._client.transport.retries import Throttle
from varserve._client.values.options import WriteOptions, new_request_id
from varserve._client.values.regions import Index, Rows, part_of
from varserve._client.values.seen import Seen

from .cache import ModelCache, part_bytes

if TYPE_CHECKING:
    # At run time grpcio's own; only its type checker's form has a default.
    from typing_extensions import TypeVar
else:
    from typing import TypeVar as _TypeVar

    def TypeVar(name, default=None, **options):
        return _TypeVar(name, **options)


T_co = TypeVar("T_co", covariant=True)
P = ParamSpec("P")
D_co = TypeVar("D_co", bound=Sync | Async, default=Sync, covariant=True)

# A call may take this much longer for each byte that it moves: 8 MiB a second.
SECONDS_PER_BYTE = 1 / (8 << 20)


class Handle(Generic[D_co]):
    """An object whose methods are operations on a driver."""

    _driver: Sync | Async

    def __reduce__(self) -> Any:
        raise TypeError(f"a {type(self).__name__} belongs to its process and cannot be pickled")

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: object) -> Any:
        return self

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
        """For one call: the caller's own seconds, else the default and what its bytes take."""
        if timeout is None:
            timeout = self.timeout + (nbytes or 0) * SECONDS_PER_BYTE
        return Budget(timeout, self.retries, self.throttle, self.lane)


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


class PickledModel(NamedTuple):
    """What a handle is pickled as: where its model is, and how it is asked for. No credentials."""

    origin: Origin
    target: str
    asynchronous: bool
    model: str


# One connection and one description for all handles of a model that are unpickled.
_restored: WeakValueDictionary[PickledModel, ModelCache] = WeakValueDictionary()


def restored(kind: Any, pickled: PickledModel, path: str | None = None) -> Any:
    """The handle that was pickled. It connects when it is used."""
    cache = _restored.get(pickled)
    if cache is None:
        driver, defaults = pickled.origin.reconnect(pickled.target, pickled.asynchronous)
        cache = ModelCache(None, pickled.model, defaults.seen, _loader(driver, defaults))
        cache.connection = driver, defaults
        _restored[pickled] = cache
    driver, defaults = cache.connection
    if path is None:
        return kind(driver, cache, defaults)
    return kind(ModelHandle(driver, cache, defaults), path)


def _loader(driver: Sync | Async, defaults: Defaults) -> Callable[[ModelCache], None]:
    def load(cache: ModelCache) -> None:
        if isinstance(driver, Async):
            raise InvalidRequest(
                f"this handle of model {cache.asked!r} was unpickled and has not asked the service "
                "yet: await its numpy(), or the model's refresh(), first"
            )
        driver.run(cache.refresh(defaults.budget(None)))

    return load


class ModelHandle(Handle[D_co]):
    """A handle of a model or of something in it."""

    _path: str | None = None

    def __reduce__(self) -> Any:
        endpoint = self._driver.endpoint
        if endpoint.origin is None:
            return super().__reduce__()
        asynchronous = isinstance(self._driver, Async)
        pickled = PickledModel(
            endpoint.origin.public(), endpoint.target, asynchronous, self._cache.asked
        )
        return restored, (type(self), pickled, self._path)

    def __init__(self, driver: Sync | Async, cache: ModelCache, defaults: Defaults) -> None:
        self._driver = driver
        self._cache = cache
        self._defaults = defaults

    def _budget(self, timeout: float | None, nbytes: int | None = None) -> Budget:
        return self._defaults.budget(timeout, nbytes)

    def _refreshed(self, timeout: float | None) -> Op[None]:
        """Refresh what is known of the model after an answer of a new epoch."""
        if self._cache.stale:
            yield from self._cache.refresh(self._budget(timeout))

    def _options(
        self, revision: int | None = None, epoch: str = "", message: str = "", **more: Any
    ) -> WriteOptions:
        """Of a new logical write. A revision means something in its epoch only: the epoch goes
        with it, and is the present one where the caller names none."""
        if revision is not None:
            epoch = epoch or self._cache.header.epoch
        return WriteOptions(new_request_id(), revision, epoch, message, **more)

    def _reads(
        self, regions: Mapping[str, Index | Rows | None], as_floats: Any = None
    ) -> tuple[dict[str, Read], int]:
        """What to read, by name, and about how many bytes it has."""
        reads = {}
        nbytes = 0
        for name, region in regions.items():
            spec = self._cache.variables.find(name)
            is_float = tensors.dtype_name(spec.dtype) in FLOATS
            read = Read(spec.path, part_of(spec, region), as_floats if is_float else None)
            reads[name] = read
            nbytes += part_bytes(spec, read.part, read.dtype) or spec.nbytes
        return reads, nbytes
