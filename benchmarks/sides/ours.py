"""varserve itself. A read gives a fresh array or fills a warm one; one warm array is assigned."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

import ml_dtypes
import numpy as np

import varserve
import varserve.aio
from benchmarks.figures import KIB
from benchmarks.flights import several
from benchmarks.model import BENCH, FILLED_FROM, ROW, SNAPSHOT, TABLE_ROW, rows, variable_name

Act = Callable[[], Any]

NO_SOCKET = "/nowhere/lane"
_SMALL = 64 * KIB
"""Bytes of a value that is read and assigned in small calls."""


def numbers_of(value: np.ndarray[Any, Any]) -> Any:
    """What a summary tells, by numpy and hashlib."""
    numbers = value.min(), value.max(), np.count_nonzero(value)
    finite = np.isfinite(value).all()
    moments = value.mean(dtype=np.float64), value.std(dtype=np.float64)
    norm = np.linalg.norm(value)
    return numbers, finite, moments, norm, varserve.content_hash(value)


class _Told:
    """Which events so many watchers have had, of the commit that is on its way."""

    def __init__(self, watchers: int) -> None:
        self._watchers = watchers
        self.next()

    def next(self) -> asyncio.Future[set[int]]:
        """The revisions of the next commit's events, when each watcher has its own."""
        self._left, self._revisions = self._watchers, set[int]()
        self._all = asyncio.get_running_loop().create_future()
        if not self._left:
            self._all.set_result(self._revisions)
        return self._all

    async def follow(self, watch: varserve.aio.Watch) -> None:
        """Be a watcher."""
        try:
            async for event in watch:
                self._revisions.add(event.revision)
                self._left -= 1
                if not self._left:
                    self._all.set_result(self._revisions)
        except varserve.VarserveError as error:
            if not self._all.done():  # by another watcher's
                self._all.set_exception(error)


class Client:
    """Works over the clients that a user has: `varserve`, and for `..._aio` `varserve.aio`."""

    def __init__(self, address: str, **options: Any) -> None:
        self._address = address
        self._client = varserve.connect(address, lane=False, **options)
        self._by_lane = varserve.connect(address, **options)
        # Where no socket is, the port is used.
        self._by_port = varserve.connect(address, lane=NO_SOCKET, **options)
        self._models: dict[str, varserve.Model[Any]] = {}

    @contextmanager
    def _lane(self, nbytes: int, model: str = BENCH) -> Iterator[varserve.Variable[Any]]:
        """A filled variable of a client that uses the lane."""
        with self._filled(nbytes, "float32", model) as variable:
            found = self._by_lane.model(model)
            if not found.limits.lane_socket:
                raise RuntimeError("the service has no lane")
            yield found.variables[variable.name]

    def _model(self, name: str = BENCH) -> varserve.Model[Any]:
        if name not in self._models:
            self._models[name] = self._client.model(name)
        return self._models[name]

    def _small(self, name: str, lane: bool) -> varserve.Model[Any]:
        """A model for small calls, whose messages go by the lane where there is one, or not."""
        return self._by_lane.model(name) if lane else self._model(name)

    @contextmanager
    def _filled(
        self, nbytes: int, dtype: str, model: str = BENCH, lane: bool = True
    ) -> Iterator[varserve.Variable[Any]]:
        """The variable of this size, which has its rows until the block ends.

        `lane`: of a small one, whether its calls go by the lane.
        """
        name = variable_name(dtype, nbytes)
        if nbytes < FILLED_FROM:
            of = self._small(model, lane and nbytes <= _SMALL)
            yield of.variables[name]
            return
        of = self._model(model)
        fill = of.functions[f"fill_{name}"]
        fill(rows=rows(dtype, nbytes))
        yield of.variables[name]
        fill(rows=0)

    @contextmanager
    def read(
        self,
        nbytes: int,
        dtype: str = "float32",
        warm: bool = False,
        sent_as: str | None = None,
        lane: bool = True,
    ) -> Iterator[Act]:
        with self._filled(nbytes, dtype, lane=lane) as variable:
            out = variable.numpy(dtype=sent_as) if warm else None
            yield lambda: variable.numpy(dtype=sent_as, out=out)

    @contextmanager
    def read_mapped(self, nbytes: int) -> Iterator[Act]:
        """The service's own memory; the arrays go between the calls."""
        with self._lane(nbytes) as variable:

            def act() -> float:
                started = time.perf_counter()
                value = variable.numpy(copy=False)
                took = time.perf_counter() - started
                assert value.nbytes == nbytes
                return took

            yield act

    @contextmanager
    def read_by_lane(self, nbytes: int) -> Iterator[Act]:
        """Into warm memory."""
        with self._lane(nbytes) as variable:
            out = variable.numpy()
            yield lambda: variable.numpy(out=out)

    @contextmanager
    def read_by_port(self, nbytes: int) -> Iterator[Act]:
        """Into warm memory, as from another host."""
        with self._filled(nbytes, "float32") as filled:
            model = self._by_port.model(BENCH)
            if not model.limits.lane_port:
                raise RuntimeError("the service has no lane port")
            variable = model.variables[filled.name]
            out = variable.numpy()
            yield lambda: variable.numpy(out=out)

    @contextmanager
    def assign_by_port(self, nbytes: int) -> Iterator[Act]:
        """One warm array, as from another host."""
        with self._filled(nbytes, "float32") as filled:
            variable = self._by_port.model(BENCH).variables[filled.name]
            value = np.full((rows("float32", nbytes), ROW), 2, np.float32)
            yield lambda: variable.assign(value)

    @contextmanager
    def read_new_by_lane(self, nbytes: int) -> Iterator[Act]:
        """Into warm memory, of a value that came through gRPC and has not been read yet."""
        with self._lane(nbytes) as variable, self._filled(nbytes, "float32") as through:
            out = variable.numpy()

            def act() -> float:
                through.assign(out)
                started = time.perf_counter()
                variable.numpy(out=out)
                return time.perf_counter() - started

            yield act

    @contextmanager
    def assign_buffer(self, nbytes: int) -> Iterator[Act]:
        """A new buffer each time; to fill it does not count."""
        with self._lane(nbytes) as variable:
            model = self._by_lane.model(BENCH)
            shape = rows("float32", nbytes), ROW

            def act() -> float:
                value = model.buffer(shape)
                value[...] = 2
                started = time.perf_counter()
                variable.assign(value)
                return time.perf_counter() - started

            yield act

    @contextmanager
    def assign_by_lane(self, nbytes: int, model: str = BENCH) -> Iterator[Act]:
        """One warm array, which is copied."""
        with self._lane(nbytes, model) as variable:
            value = np.full((rows("float32", nbytes), ROW), 2, np.float32)
            yield lambda: variable.assign(value)

    @contextmanager
    def read_and_cast(self, nbytes: int, to: str) -> Iterator[Act]:
        """A read of float32 that its reader casts."""
        with self._filled(nbytes, "float32") as variable:
            out = variable.numpy()
            yield lambda: variable.numpy(out=out).astype(to)

    @contextmanager
    def summarize(self, nbytes: int, content_hash: bool = True) -> Iterator[Act]:
        with self._filled(nbytes, "float32") as variable:
            yield lambda: variable.summary(content_hash=content_hash, timeout=60)

    @contextmanager
    def read_and_summarize(self, nbytes: int) -> Iterator[Act]:
        """What a client does by itself: read into warm memory, and the same numbers by numpy."""
        with self._filled(nbytes, "float32") as variable:
            out = variable.numpy()

            yield lambda: numbers_of(variable.numpy(out=out))

    @contextmanager
    def assign(
        self, nbytes: int, dtype: str = "float32", model: str = BENCH, lane: bool = True
    ) -> Iterator[Act]:
        with self._filled(nbytes, dtype, model, lane) as variable:
            shape = (rows(dtype, nbytes), ROW) if nbytes >= FILLED_FROM else variable.shape
            kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float32
            value = np.full(shape, 2, kind)
            yield lambda: variable.assign(value)

    @asynccontextmanager
    async def read_aio(self, nbytes: int, lane: bool = True) -> AsyncIterator[Act]:
        async with varserve.aio.connect(self._address, lane=lane) as client:
            variable = (await client.model(BENCH)).variables[variable_name("float32", nbytes)]

            async def act() -> Any:
                return await variable.numpy()

            yield act

    @asynccontextmanager
    async def read_many_aio(self, nbytes: int, times: int, in_flight: int) -> AsyncIterator[Act]:
        """So many reads, so many of them in flight."""
        async with self.read_aio(nbytes) as read:
            yield several(read, times, in_flight)

    @asynccontextmanager
    async def assign_aio(self, nbytes: int) -> AsyncIterator[Act]:
        async with varserve.aio.connect(self._address, lane=False) as client:
            variable = (await client.model(BENCH)).variables[variable_name("float32", nbytes)]
            value = np.full(variable.shape, 2, np.float32)

            async def act() -> Any:
                return await variable.assign(value)

            yield act

    @asynccontextmanager
    async def watched_aio(self, watchers: int) -> AsyncIterator[Act]:
        """A commit, until every one of so many watchers on one connection has its event.

        Each watcher is a task that goes on from one event to the next.
        """
        # One of its own: the commits of the works beside it are none of these watchers' business.
        name = f"small_{min(watchers, SNAPSHOT - 1)}"
        async with (
            varserve.aio.connect(self._address, lane=False) as client,
            AsyncExitStack() as stack,
        ):
            model = await client.model(BENCH)
            variable = model.variables[name]
            value = np.full(variable.shape, 2, np.float32)
            told = _Told(watchers)
            for _ in range(watchers):
                watch = stack.enter_context(await model.watch(name))
                task = asyncio.create_task(told.follow(watch))
                stack.callback(task.cancel)

            async def act() -> Any:
                everybody = told.next()
                commit = await variable.assign(value)
                assert await everybody <= {commit.revision}

            yield act

    @contextmanager
    def call(self, model: str = BENCH, lane: bool = True) -> Iterator[Act]:
        add, x = self._small(model, lane).functions["add"], np.ones(4, np.float32)
        yield lambda: add(x=x)

    @asynccontextmanager
    async def call_aio(self, lane: bool = True) -> AsyncIterator[Act]:
        async with varserve.aio.connect(self._address, lane=lane) as client:
            add = (await client.model(BENCH)).functions["add"]
            x = np.ones(4, np.float32)

            async def act() -> Any:
                return await add(x=x)

            yield act

    @contextmanager
    def transform(self, nbytes: int) -> Iterator[Act]:
        add, x = self._model().functions["add"], np.ones(nbytes // 4, np.float32)
        yield lambda: add(x=x)

    @contextmanager
    def snapshot(self) -> Iterator[Act]:
        model = self._model()
        names = [f"small_{n}" for n in range(SNAPSHOT)]
        yield lambda: model.read(names)

    @contextmanager
    def assign_many(self) -> Iterator[Act]:
        model = self._model()
        names, value = [f"small_{n}" for n in range(SNAPSHOT)], np.ones((16, 16), np.float32)

        def act() -> None:
            with model.transaction() as transaction:
                for name in names:
                    transaction.assign(name, value)

        yield act

    @contextmanager
    def step(self) -> Iterator[Act]:
        step = self._model().functions["step"]
        yield lambda: step()

    @contextmanager
    def rows(self, table: int, count: int) -> Iterator[Act]:
        model = self._model()
        wanted = np.linspace(0, table // (TABLE_ROW * 4) - 1, count).astype(np.int64)
        model.functions["fill_table"](rows=table // (TABLE_ROW * 4))
        variable = model.variables["table"]
        variable.scatter_update(wanted, np.ones((count, TABLE_ROW), np.float32))
        yield lambda: variable.sparse_read(wanted)
        model.functions["fill_table"](rows=0)

    def _table(self, table: int) -> tuple[varserve.Variable[Any], tuple[int, int]]:
        return self._model().variables["table"], (table // (TABLE_ROW * 4), TABLE_ROW)

    @contextmanager
    def _filled_table(self, table: int) -> Iterator[varserve.Variable[Any]]:
        """The table with as many rows, all of which have been written."""
        variable, shape = self._table(table)
        fill = self._model().functions["fill_table"]
        fill(rows=shape[0])
        variable.assign(np.ones(shape, np.float32), timeout=120)
        yield variable
        fill(rows=0)

    @contextmanager
    def look_up(self, table: int) -> Iterator[Act]:
        """100 rows, by the function that looks them up."""
        with self._filled_table(table):
            look, ids = self._model().functions["look_up"], np.arange(100, dtype=np.int32)
            yield lambda: look(ids=ids)

    @contextmanager
    def write_row(self, table: int) -> Iterator[Act]:
        with self._filled_table(table) as variable:
            row = np.full((1, TABLE_ROW), 2, np.float32)
            yield lambda: variable.scatter_update([7], row)

    @contextmanager
    def write_rows(self, table: int, count: int) -> Iterator[Act]:
        with self._filled_table(table) as variable:
            ids, rows = np.arange(count), np.full((count, TABLE_ROW), 2, np.float32)
            yield lambda: variable.scatter_update(ids, rows)

    @contextmanager
    def train_rows(self, table: int, count: int) -> Iterator[Act]:
        """As many rows, by a function that scatters."""
        with self._filled_table(table):
            train, ids = self._model().functions["train_rows"], np.arange(count, dtype=np.int32)
            yield lambda: train(ids=ids)

    @contextmanager
    def add_to_table(self, table: int) -> Iterator[Act]:
        """A whole that is added to all of the table."""
        with self._filled_table(table) as variable:
            value = np.ones((table // (TABLE_ROW * 4), TABLE_ROW), np.float32)
            yield lambda: variable.assign_add(value, timeout=120)

    @contextmanager
    def assign_again(self, table: int) -> Iterator[Act]:
        """All of the table, between look-ups."""
        with self._filled_table(table) as variable:
            look, ids = self._model().functions["look_up"], np.arange(100, dtype=np.int32)
            value = np.full((table // (TABLE_ROW * 4), TABLE_ROW), 2, np.float32)

            def act() -> Any:
                variable.assign(value, timeout=120)
                return look(ids=ids)

            yield act

    # These three go on beside the two above, which fill the table.

    @contextmanager
    def read_table(self, table: int) -> Iterator[Act]:
        variable, shape = self._table(table)
        out = np.zeros(shape, np.float32)
        yield lambda: variable.numpy(out=out, timeout=120)

    @contextmanager
    def summarize_table(self, table: int) -> Iterator[Act]:
        variable, _ = self._table(table)
        yield lambda: variable.summary(content_hash=True, timeout=120)

    @contextmanager
    def assign_table(self, table: int) -> Iterator[Act]:
        variable, shape = self._table(table)
        value = np.ones(shape, np.float32)
        yield lambda: variable.assign(value, timeout=120)

    @contextmanager
    def rows_alone(self) -> Iterator[Act]:
        """As many rows that are a variable of their own."""
        yield self._model().variables["alone"].numpy
