"""Three replicas, one state: what is written at one is at all, and one that is killed comes back.

Starts a PostgreSQL server and three services over basic-pitch on this machine. A write at one is
read at the others; one of them is killed under writers, nothing that was acknowledged is lost, and
it comes back with everything.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import varserve
from demo.demo import progress
from demo.postgres_server import NoServerError, running

# The end of a connection is no news here.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

REPLICAS = ("one", "two", "three")
BIAS = "conv2d_5/bias"
KILLED_AFTER = 1.0  # seconds of writing

Array = np.ndarray[Any, Any]


class Replica:
    """A service of the fleet."""

    def __init__(self, name: str, model: Path, database: str) -> None:
        self.name = name
        self._command = [sys.executable, "-m", "varserve_service", "serve", "--port", "0"]
        self._command += ["--model", f"basic_pitch={model}", "--state", database]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self.address = ""
        self.start()

    def start(self) -> None:
        """Start its process; `wait` waits until it is ready."""
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=self._log, text=True
        )

    def wait(self) -> None:
        ready = self._process.stdout.readline() if self._process.stdout else ""
        if not ready:
            self._log.seek(0)
            sys.exit(f"replica {self.name} did not start:\n{self._log.read().decode()}")
        self.address = ready.split()[-1]

    def kill(self) -> None:
        """As a machine that is switched off ends it."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End it, if it runs."""
        self._process.terminate()
        self._process.wait()
        self._log.close()


@contextmanager
def fleet(model: Path) -> Iterator[list[Replica]]:
    """A database and three replicas."""
    with ExitStack() as started:
        with progress("starting PostgreSQL"):
            database = started.enter_context(running()).fresh("varserve")
        with progress("starting three replicas"):
            replicas = [Replica(name, model, database) for name in REPLICAS]
            for replica in replicas:
                started.callback(replica.close)
            for replica in replicas:
                replica.wait()
        yield replicas


def target(replicas: list[Replica]) -> str:
    """One name for all of them, as a Service of Kubernetes is."""
    return "ipv4:" + ",".join(replica.address for replica in replicas)


def write_and_read(replicas: list[Replica]) -> None:
    print("\n1. A write at one is at the others.")
    with ExitStack() as connected:
        models = [
            connected.enter_context(varserve.connect(replica.address)).model("basic_pitch")
            for replica in replicas
        ]
        value = models[0].variables[BIAS].numpy() + 0.5
        commit = models[0].variables[BIAS].assign(value, message="a write at replica one")
        written = time.perf_counter()
        print(f"  one: assigned {BIAS}, commit at revision {commit.revision}")
        for replica, model in zip(replicas[1:], models[1:], strict=True):
            model.see(commit)
            same = np.array_equal(model.variables[BIAS].numpy(), value)
            took = 1000 * (time.perf_counter() - written)
            assert same
            said = model.commits()[0].info.message
            print(f"  {replica.name}: the same bits, {took:.0f} ms later; its history: {said!r}")
        lost = models[1].variables[BIAS]
        lost.assign_add(np.ones_like(value))
        assert np.array_equal(models[2].variables[BIAS].numpy(linearizable=True), value + 1)
        print("  two added 1, and a linearizable read at three sees it")


class Writer:
    """Adds to a counter through all replicas, and keeps what was acknowledged."""

    def __init__(self, address: str, name: str) -> None:
        self._client = varserve.connect(address, round_robin=True, timeout=20)
        self._variable = self._client.model("basic_pitch").variables[name]
        self._step = np.ones_like(self._variable.numpy())
        self._ending = threading.Event()
        self.acknowledged = 0
        self.longest = 0.0
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def _write(self) -> None:
        while not self._ending.is_set():
            began = time.monotonic()
            self._variable.assign_add(self._step)
            self.acknowledged += 1
            self.longest = max(self.longest, time.monotonic() - began)

    def end(self) -> None:
        """Write no more."""
        self._ending.set()
        self._thread.join()
        self._client.close()


def kill_one(replicas: list[Replica]) -> None:
    print("\n2. One is killed while a program writes through all of them.")
    with varserve.connect(replicas[0].address) as client:
        model = client.model("basic_pitch")
        before = model.variables[BIAS].numpy()
        writer = Writer(target(replicas), BIAS)
        time.sleep(KILLED_AFTER)
        replicas[2].kill()
        at = writer.acknowledged
        print(f"  three: killed (SIGKILL) after {at} acknowledged writes")
        time.sleep(KILLED_AFTER)
        writer.end()
        after = model.variables[BIAS].numpy(linearizable=True)
        counted = round(float((after - before).reshape(-1)[0]))
        print(
            f"  {writer.acknowledged} writes were acknowledged, {writer.acknowledged - at} of them "
            f"since; the longest took {1000 * writer.longest:.0f} ms"
        )
        print(f"  the variable counts {counted}: nothing lost, nothing twice")
        assert counted == writer.acknowledged > at > 0

    print("\n3. It comes back.")
    replicas[2].start()
    with progress("  starting replica three again"):
        replicas[2].wait()
    with varserve.connect(replicas[2].address) as client:
        back = client.model("basic_pitch")
        assert np.array_equal(back.variables[BIAS].numpy(), after)
        print(f"  three: revision {back.revision}, the same bits as the others")
        commit = back.revert(0, message="the demo is over")
        print(f"  three: reverted everything, commit at revision {commit.revision}")
    with varserve.connect(replicas[0].address) as client:
        original = client.model("basic_pitch")
        original.see(commit)
        assert original.commits()[0].info.message == "the demo is over"
        print("  one: has that, too")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="basic-pitch's SavedModel")
    try:
        with fleet(parser.parse_args().model) as replicas:
            write_and_read(replicas)
            kill_one(replicas)
    except NoServerError as error:
        sys.exit(str(error))
    print("\nAll of it was checked.")


if __name__ == "__main__":
    main()
