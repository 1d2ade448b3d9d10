"""Servers for tests: over fakes in this process, and the real one in a process of its own."""

from __future__ import annotations

import asyncio
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvloop

from tests.waiting import killed_after
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.registry import Models
from varserve_service.rpc import OPEN, Access, Server, ServerOptions
from varserve_service.rpc.calls.observers import CallObserver

# How long a service may take to be ready, or to give up, on a machine that is busy.
START_SECONDS = 300


@contextmanager
def serve_here(
    *models: LiveModel,
    access: Access = OPEN,
    observers: Sequence[CallObserver] = (),
    prepare: Callable[[Server], None] = lambda server: None,
    **options: object,
) -> Iterator[str]:
    """Serve live models from a thread of this process; gives `HOST:PORT`.

    `prepare` is given the server before it listens.
    """
    started: queue.Queue[str | BaseException] = queue.Queue()
    loop = uvloop.new_event_loop()  # as the service has it
    stop = asyncio.Event()

    async def run() -> None:
        try:
            wanted = ServerOptions(**({"port": 0} | options))  # type: ignore[arg-type]
            server = Server(Models(models), wanted, access, observers)
            prepare(server)
            started.put(await server.start())
        except BaseException as error:
            started.put(error)
            raise
        await stop.wait()
        await server.stop(1)

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()), daemon=True)
    thread.start()
    address = started.get(timeout=30)
    if isinstance(address, BaseException):
        raise address
    try:
        yield address
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)


def rss_bytes(pid: int | str = "self") -> int:
    """Resident memory of a process now."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


class ServiceProcess:
    """`varserve-service serve` in a process of its own, on a port that it picks itself."""

    def __init__(
        self,
        *arguments: str,
        log: Path,
        environment: dict[str, str] | None = None,
        module: str = "varserve_service",
        open_files: tuple[int, int] | None = None,
        program: Sequence[str] = (),
    ):
        """`module`: what is run instead of the service itself. `open_files`: the soft and the hard
        limit of its file descriptors. `program`: starts the service, with $PYTHON, in place of
        Python itself.
        """
        self._log = log.open("ab")
        self.log = log
        self.admin_address = ""
        # By a shell: code of ours between fork and exec would have gRPC's threads run in the child.
        limits: tuple[str, ...] = ()
        if open_files is not None:
            soft, hard = open_files
            limits = ("sh", "-c", f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$@"', "sh")
        self.process = subprocess.Popen(
            [
                *limits,
                *(program or (sys.executable, "-m", module)),
                "serve",
                "--port",
                "0",
                *arguments,
            ],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=os.environ | {"PYTHON": sys.executable} | (environment or {}),
        )
        try:
            self.address = self._wait_until_ready()
        except BaseException:
            self.process.kill()
            self.close()
            raise

    def _wait_until_ready(self) -> str:
        assert self.process.stdout is not None
        with killed_after(self.process, START_SECONDS):
            for line in self.process.stdout:
                if line.startswith("varserve admin on "):
                    self.admin_address = line.removeprefix("varserve admin on ").strip()
                if line.startswith("varserve ready on "):
                    return line.removeprefix("varserve ready on ").strip()
        code = self.process.wait(60)
        raise RuntimeError(f"the service ended with {code}:\n{self.log.read_text()[-4000:]}")

    @property
    def pid(self) -> int:
        return self.process.pid

    def rss_bytes(self) -> int:
        """Resident memory now."""
        return rss_bytes(self.pid)

    def terminate(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def close(self) -> None:
        """End it whatever state it is in."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()


@contextmanager
def service_process(
    models: dict[str, Path], log: Path, arguments: Sequence[str] = ()
) -> Iterator[ServiceProcess]:
    """The real service over real SavedModels; ended when the block ends."""
    flags = [flag for name, path in models.items() for flag in ("--model", f"{name}={path}")]
    process = ServiceProcess(*flags, *arguments, log=log)
    try:
        yield process
    finally:
        process.close()
