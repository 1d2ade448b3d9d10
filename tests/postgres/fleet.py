"""Replicas as processes, clients that write through all of them, and whether the log agrees.

A replica that ends is started again at the same address, as a supervisor does it.
"""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psycopg
from grpc_health.v1 import health_pb2, health_pb2_grpc

import varserve
from tests.postgres import replica_process as script
from tests.postgres.replica_process import MODEL
from tests.waiting import join, until

REPLICAS = 3
START_SECONDS = 300.0
"""A second, on a machine that has nothing else to do."""
READ_SECONDS = 3.5
RETRYABLE = (varserve.Unavailable, varserve.DeadlineExceeded, varserve.TooManyRequests)
"""What a client is told that may ask again, here or elsewhere."""


class Replica:
    """One replica: its process now, and how often it had to be started again."""

    def __init__(
        self,
        database: str,
        folder: Path,
        name: str,
        environment: dict[str, str] | None = None,
        host: str = "127.0.0.1",
        within: Sequence[str] = (),
    ) -> None:
        """`environment`: as `replica_process` has it. `within`: what runs its process."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.address = f"{host}:{port}"
        self.log = folder / f"{name}.log"
        self.endings: list[int] = []
        """Exit codes of processes that nobody ended."""
        model = folder / "model"
        model.mkdir(exist_ok=True)
        (model / "saved_model.pb").touch()
        self._command = [*within, sys.executable, "-m", script.__name__, "serve"]
        self._command += [f"--host={host}", f"--port={port}", "--insecure"]
        self._command += [f"--model={MODEL}={model}", f"--state={database}"]
        # Nothing is folded: all that was acknowledged is looked for in the log.
        self._command += ["--history-commits=1000000"]
        self._environment = os.environ | (environment or {})
        self._wanted = threading.Event()
        self._ready = threading.Event()
        self._asked = threading.Event()
        self._channel = grpc.insecure_channel(self.address)
        self.start()

    def start(self) -> None:
        """Start it, or start it again."""
        self._ready.clear()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self._environment,
            )
        self._wanted.set()
        threading.Thread(target=self._listen, args=(self.process,), daemon=True).start()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("varserve ready"):
                self._ready.set()
            if line == "asked\n":
                self._asked.set()
        code = process.wait(30)  # its output has ended
        if self._wanted.is_set() and process is self.process:
            self.endings.append(code)
            time.sleep(0.1)  # or one that cannot start would fill the machine
            if self._wanted.is_set():
                self.start()

    def wait_ready(self) -> None:
        """Until it can be called."""
        assert self._ready.wait(START_SECONDS), self.log.read_text()[-4000:]

    def ask_to_stop(self, when: str, number: int) -> None:
        """As `replica_process` has it."""
        self._asked.clear()
        assert self.process.stdin is not None
        self.process.stdin.write(f"stop {when} {number}\n")
        self.process.stdin.flush()
        assert self._asked.wait(30)

    @property
    def is_stopped(self) -> bool:
        """Whether its process is stopped, by whomever."""
        text = Path(f"/proc/{self.process.pid}/stat").read_text()
        return text.rpartition(")")[2].split()[0] == "T"

    def signal(self, number: int) -> None:
        """To its process."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL; it is not started again."""
        self._wanted.clear()
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(60)

    def client(self, **options: Any) -> Any:
        """A client of this replica alone that retries nothing by itself."""
        return varserve.connect(self.address, retries=0, sessions=False, **options)

    @property
    def is_healthy(self) -> bool:
        """Whether its health says SERVING, in the time that a read may take."""
        stub = health_pb2_grpc.HealthStub(self._channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(service=MODEL), timeout=READ_SECONDS)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def state(self) -> tuple[int, int]:
        """Its revision and its counter."""
        with self.client(timeout=10) as client:
            found = client.read_variable(MODEL, "count")
        return found.revision, int(found.value)

    def state_or_none(self) -> tuple[int, int] | None:
        """The same; None while it cannot be called."""
        try:
            return self.state()
        except (varserve.Unavailable, varserve.DeadlineExceeded):
            return None

    def terminate(self) -> int:
        """SIGTERM, and the exit code; it is not started again."""
        self._wanted.clear()
        self.process.terminate()
        return self.process.wait(60)

    def close(self) -> None:
        """End it."""
        self.kill()
        self._channel.close()


@contextmanager
def replicas(
    database: str,
    folder: Path,
    count: int = REPLICAS,
    environment: dict[str, str] | None = None,
) -> Iterator[list[Replica]]:
    """So many replicas of one state."""
    with ExitStack() as stack:
        found = []
        for number in range(count):
            found.append(Replica(database, folder, f"replica-{number}", environment))
            stack.callback(found[-1].close)
        for replica in found:
            replica.wait_ready()
        yield found


@dataclass
class Write:
    """One write that a client wants done, and what it was told."""

    id: str
    told: tuple[int, int] | None = None
    """The revision, and the counter at it."""
    refused: list[varserve.VarserveError] = field(default_factory=list)


def ask(client: Any, write: Write, timeout: float = 30) -> bool:
    """Ask for a write once. Whether it is acknowledged; what was told is in it."""
    try:
        answer = client.assign_variable(
            MODEL,
            "count",
            1,
            operation="add",
            request_id=write.id,
            read_back=True,
            timeout=timeout,
        )
    except RETRYABLE as error:
        write.refused.append(error)
        return False
    told = answer.revision, int(answer.value)
    assert write.told in (None, told), (write, told)
    write.told = told
    return True


class Writers:
    """Clients that write through any replica, and ask again with the same id until it is done."""

    def __init__(
        self, targets: Sequence[Replica], count: int = 6, timeout: float = 8, pause: float = 0.02
    ) -> None:
        self._seed = random.randrange(2**32)
        print(f"seed {self._seed}")
        self._targets = targets
        self._timeout = timeout
        self._pause = pause
        self._done = threading.Event()
        self.times: list[tuple[float, float]] = []
        """When each acknowledged write was asked for last, and when it was acknowledged."""
        self.acknowledged: dict[str, tuple[int, int]] = {}
        """By id, the revision and the counter that its client was told."""
        self.reasons: Counter[str] = Counter()
        self._failed: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._run, args=(number,), daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, name: int) -> None:
        chance = random.Random(self._seed + name)
        try:
            with ExitStack() as stack:
                clients = [stack.enter_context(each.client()) for each in self._targets]
                number = 0
                while not self._done.is_set():
                    number += 1
                    self._write(Write(f"w{self._seed}.{name}-{number}"), clients, chance)
                    self._done.wait(self._pause)
        except BaseException as error:
            self._failed.append(error)

    def _write(self, write: Write, clients: Sequence[Any], chance: random.Random) -> None:
        while not self._done.is_set():
            began = time.monotonic()
            if ask(chance.choice(clients), write, self._timeout):
                assert write.told is not None
                self.acknowledged[write.id] = write.told
                self.times.append((began, time.monotonic()))
                return
            self.reasons[type(write.refused[-1]).__name__] += 1
            time.sleep(0.02)

    def wrote(self, identifier: str) -> bool:
        """Whether a write is of these clients."""
        return identifier.startswith(f"w{self._seed}.")

    def more(self, least: int, seconds: float = START_SECONDS) -> None:
        """Wait for so many more acknowledged writes."""
        before = len(self.acknowledged)
        until(lambda: self._failed or len(self.acknowledged) >= before + least, seconds, 0.005)
        self._check()

    def wait_acknowledged(self, after: float, seconds: float = START_SECONDS) -> float:
        """Seconds from a moment until a write is acknowledged that was asked for after it."""
        found: list[float] = []

        def one() -> bool:
            found[:] = [end for began, end in self.times[-200:] if began > after]
            return bool(found or self._failed)

        until(one, seconds, 0.005)
        self._check()
        return min(found) - after

    def _check(self) -> None:
        if self._failed:
            raise self._failed[0]

    def end(self) -> None:
        """No more writes; one in progress ends within its time."""
        self._done.set()
        join(self._threads, self._timeout + 60)
        self._check()


@contextmanager
def writers(targets: Sequence[Replica], count: int = 6, **options: Any) -> Iterator[Writers]:
    """So many clients, until the end of the block."""
    found = Writers(targets, count, **options)
    try:
        yield found
    finally:
        found._done.set()
    found.end()


def log_of(database: str) -> dict[str, int]:
    """The revision of each request in the log. The log must be without gaps, each request once."""
    with psycopg.connect(database + "?target_session_attrs=read-write") as connection:
        rows = connection.execute(
            "SELECT revision, record FROM varserve_log ORDER BY revision"
        ).fetchall()
    gaps = [at for at, (revision, _) in enumerate(rows, 1) if revision != at]
    assert not gaps, f"the log has {len(rows)} rows; at row {gaps[0]}: {rows[gaps[0] - 1]}"
    found = {json.loads(record)["request"]["id"]: revision for revision, record in rows}
    assert len(found) == len(rows), "a request was done twice"
    return found


def check(
    database: str,
    acknowledged: dict[str, tuple[int, int]],
    targets: Sequence[Replica],
    seconds: float = START_SECONDS,
) -> int:
    """Every acknowledged write is in the log at its revision, and every replica is what it says.

    The number of commits.
    """
    log = log_of(database)
    told = {identifier: revision for identifier, (revision, _) in acknowledged.items()}
    assert {identifier: log.get(identifier) for identifier in told} == told
    # Each commit adds one.
    assert all(revision == count for revision, count in acknowledged.values())
    assert check_equal(targets, seconds) == len(log)
    return len(log)


def check_equal(
    targets: Sequence[Replica], seconds: float = START_SECONDS, beside: Writers | None = None
) -> int:
    """All replicas come to one revision, and have the counter of it; the revision.

    `beside`: writers that go on meanwhile. Then each is compared with its own revision alone.
    """
    found: list[tuple[int, int] | None] = []

    def equal() -> bool:
        found[:] = [replica.state_or_none() for replica in targets]
        told = [state for state in found if state is not None]
        # Each commit adds one.
        assert all(revision == counted for revision, counted in told), found
        return len(told) == len(targets) and (beside is not None or len(set(told)) == 1)

    try:
        until(equal, seconds, 0.02)
    except AssertionError:
        raise AssertionError(f"not equal within {seconds} s: {found}") from None
    return found[0][0] if found[0] is not None else 0
