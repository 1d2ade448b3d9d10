"""varserve with its state in PostgreSQL: `python -m benchmarks.sides.replicas MODELS COUNT`.

A database server and so many replicas over the SavedModels in a folder. The address is that of all
replicas, and after a `#` that of the database. The bare insert goes to the same server, by the same
driver, with the same settings.
"""

from __future__ import annotations

import asyncio
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

import varserve
import varserve.aio
from benchmarks.model import BENCH, variable_name
from benchmarks.sides import ours
from demo.postgres_server import running
from tests.fakes import FakeModel, FakeVariable
from varserve_service.core.change.writes import Write
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import Operation
from varserve_service.journal.postgres import PostgresState


def serve(models: Path, count: int) -> None:
    with ExitStack() as started:
        server = started.enter_context(running())
        command = [sys.executable, "-m", "varserve_service", "serve", "--log-level", "warning"]
        command += ["--port", "0", "--model", f"{BENCH}={models / BENCH}"]
        command += ["--state", server.fresh("replicas")]
        services = [
            started.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            for _ in range(count)
        ]
        try:
            addresses = []
            for service in services:
                assert service.stdout is not None
                addresses.append(service.stdout.readline().split()[-1])
            print(f"ready on ipv4:{','.join(addresses)}#{server.fresh('bare')}", flush=True)
            services[0].wait()
        finally:
            for service in services:
                service.kill()


class Client(ours.Client):
    """varserve's works through all replicas, and those of the database alone."""

    def __init__(self, address: str) -> None:
        replicas, _, self._database = address.partition("#")
        self._each = replicas.removeprefix("ipv4:").split(",")
        super().__init__(replicas, round_robin=True)

    @asynccontextmanager
    async def assign_aio(self, nbytes: int) -> AsyncIterator[ours.Act]:
        """To each replica in turn."""
        async with varserve.aio.connect(self._address, lane=False, round_robin=True) as client:
            variable = (await client.model(BENCH)).variables[variable_name("float32", nbytes)]
            value = np.full(variable.shape, 2, np.float32)

            async def act() -> Any:
                return await variable.assign(value)

            yield act

    @asynccontextmanager
    async def assign_one_by_one_aio(self, nbytes: int) -> AsyncIterator[ours.Act]:
        """The same by one writer, however many are asked for: each waits for the one before."""
        turn = asyncio.Lock()
        async with self.assign_aio(nbytes) as assign:

            async def act() -> Any:
                async with turn:
                    return await assign()

            yield act

    @contextmanager
    def insert(self, nbytes: int) -> Iterator[Callable[[], None]]:
        """One row more, durably."""
        data = os.urandom(nbytes)
        with psycopg.connect(self._database, autocommit=True) as connection:
            connection.execute("DROP TABLE IF EXISTS bare")
            connection.execute("CREATE TABLE bare (number bigserial PRIMARY KEY, data bytea)")

            def act() -> None:
                connection.execute("INSERT INTO bare (data) VALUES (%b)", (data,), prepare=True)

            yield act

    @contextmanager
    def commit(self, nbytes: int) -> Iterator[Callable[[], None]]:
        """A commit of the core in this process, without the way to a service."""
        value = np.full(nbytes // 4, 2, np.float32)

        def make() -> FakeModel:
            return FakeModel([FakeVariable("v", np.zeros(nbytes // 4, np.float32))])

        live, _ = PostgresState(self._database).take_up(make, LiveModel)
        try:
            yield lambda: live.assign([Write("v", Operation.SET, value)]) and None
        finally:
            live.close()

    @contextmanager
    def follow_by_watch(self, nbytes: int) -> Iterator[Callable[[], float]]:
        """From the answer to a write at one replica until a watcher at another one has it.

        Both come by one message of gRPC to this process. 0: the watcher was first.
        """
        came: queue.SimpleQueue[tuple[int, float]] = queue.SimpleQueue()
        with (
            varserve.connect(self._each[0]) as here,
            varserve.connect(self._each[-1]) as there,
        ):
            name = variable_name("float32", nbytes)
            variable = here.model(BENCH).variables[name]
            value = np.full(variable.shape, 2, np.float32)
            watch = there.model(BENCH).watch(name, values=False)

            def take() -> None:
                with suppress(varserve.VarserveError):
                    for event in watch:
                        came.put((event.revision, time.perf_counter()))

            thread = threading.Thread(target=take, daemon=True)
            thread.start()

            def act() -> float:
                revision = variable.assign(value).revision
                answered = time.perf_counter()
                while True:
                    of, at = came.get(timeout=30)
                    if of == revision:
                        return max(0.0, at - answered)

            yield act
            watch.close()
            thread.join(30)

    @contextmanager
    def follow(self, nbytes: int) -> Iterator[Callable[[], float]]:
        """From the answer to a write at one replica until another one has it, and gives it."""
        with (
            varserve.connect(self._each[0]) as here,
            varserve.connect(self._each[-1]) as there,
        ):
            name = variable_name("float32", nbytes)
            variable, other = here.model(BENCH).variables[name], there.model(BENCH)
            value = np.full(variable.shape, 2, np.float32)

            def act() -> float:
                commit = variable.assign(value)
                answered = time.perf_counter()
                other.see(commit)
                other.variables[name].numpy()
                return time.perf_counter() - answered

            yield act


if __name__ == "__main__":
    serve(Path(sys.argv[1]).resolve(), int(sys.argv[2]))
