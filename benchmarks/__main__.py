"""`python -m benchmarks`: measure, print a table, and write `.benchmarks/latest.json`.

Server, peers and client are processes of their own on loopback. Sides are interleaved, so that a
machine that slows down slows both; a figure is the median of its rounds, a ratio the median of the
rounds' ratios.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np

import varserve

from .peers import ECHO

BULK_MIB = 256
BULK_BYTES = BULK_MIB * 2**20
BULK_ROUNDS = 7
CALL_ROUNDS = 7
CALLS = 300
OUTPUT = Path(".benchmarks/latest.json")


@dataclass(frozen=True)
class Figure:
    """One row. `ratio` is ours to the peer's, and the target says on which side it should be."""

    name: str
    ours: str
    peer: str
    ratio: float
    target: str
    met: bool


@contextmanager
def process(*arguments: str) -> Iterator[str]:
    """A Python process until the block ends; gives the first line that it prints."""
    running = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert running.stdout is not None
    line = running.stdout.readline().strip()
    if not line:
        sys.exit(f"{' '.join(arguments)} did not start")
    try:
        yield line
    finally:
        running.terminate()
        running.wait()


def seconds(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def rounds(count: int, *sides: Callable[[], float]) -> list[list[float]]:
    """Measure the sides in turn, `count` times after a warm-up; one list for each side."""
    for side in sides:
        side()
    measured: list[list[float]] = [[] for _ in sides]
    for _ in range(count):
        for times, side in zip(measured, sides, strict=True):
            times.append(side())
    return measured


def ratio(ours: list[float], peer: list[float]) -> float:
    """Median of the rounds' ratios of time."""
    return statistics.median(a / b for a, b in zip(ours, peer, strict=True))


def gbps(times: list[float]) -> str:
    return f"{BULK_BYTES / statistics.median(times) / 1e9:.2f} GB/s"


def bulk(model: varserve.Model[Any], port: int) -> Iterator[Figure]:
    big = model.variables["big"]
    value = np.full(big.shape, 2, np.float32)
    warm = np.ones(BULK_BYTES, np.uint8).data
    with socket.create_connection(("127.0.0.1", port)) as peer:

        def receive() -> None:
            peer.sendall(b"x")
            got = 0
            while got < BULK_BYTES:
                got += peer.recv_into(warm[got:])

        read, assign, bare = rounds(
            BULK_ROUNDS,
            lambda: seconds(big.numpy),
            lambda: seconds(lambda: big.assign(value)),
            lambda: seconds(receive),
        )
    faster = 1 / ratio(read, bare)
    name = f"read {BULK_MIB} MiB"
    yield Figure(
        f"{name}, to a bare TCP socket", gbps(read), gbps(bare), faster, ">= 0.5", faster >= 0.5
    )
    faster = 1 / ratio(assign, read)
    yield Figure(
        f"assign {BULK_MIB} MiB, to the read",
        gbps(assign),
        gbps(read),
        faster,
        ">= 0.8",
        faster >= 0.8,
    )


def calls(model: varserve.Model[Any], port: str) -> Iterator[Figure]:
    small, bump = model.variables["small"], model.functions["bump"]
    x = np.ones(4, np.float32)
    payload = bytes(4096)

    def p50(act: Callable[[], object]) -> float:
        return statistics.median(seconds(act) for _ in range(CALLS))

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        echo = channel.unary_unary(ECHO)
        read, run, bare = rounds(
            CALL_ROUNDS,
            lambda: p50(small.numpy),
            lambda: p50(lambda: bump(x=x)),
            lambda: p50(lambda: echo(payload)),
        )

    def us(times: list[float]) -> str:
        return f"{statistics.median(times) * 1e6:.0f} us"

    slower = ratio(read, bare)
    yield Figure(
        "ReadVariable of 4 KiB, p50, to a bare grpc.aio echo",
        us(read),
        us(bare),
        slower,
        "<= 1.3",
        slower <= 1.3,
    )
    slower = ratio(run, bare)
    yield Figure(
        "RunFunction, small, p50, to the same echo", us(run), us(bare), slower, "(none yet)", True
    )


def main() -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "model"
        print("building a model ...", flush=True)
        subprocess.run(
            [sys.executable, "-m", "benchmarks.model", str(folder), str(BULK_MIB)],
            check=True,
            capture_output=True,
        )
        print("starting the service and its peers ...", flush=True)
        service = ("varserve_service", "serve", "--port", "0", "--model", f"bench={folder}")
        address = stack.enter_context(process(*service)).split()[-1]
        bare = stack.enter_context(process("benchmarks.peers", "socket", str(BULK_BYTES)))
        echo = stack.enter_context(process("benchmarks.peers", "echo"))
        client = stack.enter_context(varserve.connect(address))
        model = client.model("bench")
        print("measuring ...", flush=True)
        figures = [*bulk(model, int(bare)), *calls(model, echo)]

    print(f"\n{'figure':<54}{'ours':>12}{'peer':>12}{'ratio':>8}  target")
    for f in figures:
        met = "met" if f.met else "NOT met"
        print(f"{f.name:<54}{f.ours:>12}{f.peer:>12}{f.ratio:>8.2f}  {f.target:<11}{met}")
    OUTPUT.parent.mkdir(exist_ok=True)
    machine = {"cpus": os.cpu_count(), "python": platform.python_version()}
    OUTPUT.write_text(json.dumps({"machine": machine, "figures": [asdict(f) for f in figures]}))
    print(f"\nwritten to {OUTPUT}")


if __name__ == "__main__":
    main()
