"""What every handle of a model, or of something in it, has.

Owns how such handles are pickled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from varserve import tensors
from varserve._client.errors import InvalidRequest
from varserve._client.operations.reads import FLOATS, Read
from varserve._client.transport.calls import Budget, Op
from varserve._client.transport.drivers import Async, Sync
from varserve._client.transport.endpoint import Origin
from varserve._client.values.options import WriteOptions, new_request_id
from varserve._client.values.regions import Index, Rows, part_of

from .base import D_co, Defaults, Handle
from .cache import ModelCache, part_bytes


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
