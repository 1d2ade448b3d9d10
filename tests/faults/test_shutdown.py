"""SIGTERM while the service is busy: what was acknowledged is done, and it ends in time."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import varserve
from tests.conftest import Serve
from varserve.v1 import model_service_pb2 as pb
from varserve.v1 import model_service_pb2_grpc as pb_grpc

GRACE = 3.0
STREAMS = 100
CHECKS = 20
TOLD_SECONDS = 0.100
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVING = health_pb2.HealthCheckResponse.SERVING


def _seconds(check: Callable[..., object]) -> float:
    started = time.monotonic()
    check(health_pb2.HealthCheckRequest(), timeout=30)
    taken = time.monotonic() - started
    time.sleep(0.1)  # the pace of the checks, not a wait for something
    return taken


def durable(state: Path) -> int:
    """The last commit of the counter on disk."""
    with closing(sqlite3.connect(state / "models/counter/0/log.sqlite3")) as log:
        (revision,) = log.execute("SELECT max(revision) FROM commits").fetchone()
    return int(revision)


@pytest.mark.alone
@pytest.mark.timeout(900)
def test_sigterm_under_load(serve: Serve, tmp_path: Path) -> None:
    """100 streams, a long function and writes in flight: not ready at once, and exit code 0.

    Health says so within 100 ms (where the slowest of the checks before needed a third of that,
    within three times what it needed), acknowledged writes keep their order and number and are on
    disk, with at most the one more that was in flight, whoever is refused is told UNAVAILABLE, and
    the process is gone within the grace period and two seconds.
    """
    acknowledged: list[int] = []
    refusals: list[varserve.VarserveError] = []
    wrote, running = threading.Event(), threading.Event()

    state = tmp_path / "state"
    arguments = ("--grace", str(GRACE), "--state-dir", str(state))
    with serve("slow", "counter", "large_64", arguments=arguments) as service:

        def write() -> None:
            with varserve.connect(service.address) as client:
                v = client.model("counter").variables["count"]
                try:
                    while True:
                        acknowledged.append(v.assign_add(1, timeout=120).revision)
                        wrote.set()
                except varserve.VarserveError as error:
                    refusals.append(error)

        def run_long() -> None:
            with varserve.connect(service.address) as client:
                spin = client.model("slow").functions["spin"]
                running.set()
                try:
                    # Far longer than the grace period: it has to be left behind.
                    spin.call({"steps": 10**9}, timeout=300)
                except varserve.VarserveError as error:
                    refusals.append(error)

        # Health is asked over a connection of its own, as a kubelet does.
        own = (("grpc.use_local_subchannel_pool", 1),)
        with (
            grpc.insecure_channel(service.address) as channel,
            grpc.insecure_channel(service.address, options=own) as prober,
        ):
            watch = health_pb2_grpc.HealthStub(prober).Watch(health_pb2.HealthCheckRequest())
            assert next(watch).status == SERVING
            # Each reads the beginning of 64 MiB, and then nothing: flow control holds the rest.
            read = pb.ReadVariablesRequest(
                model="large_64", reads=[pb.ReadSelection(variable="big")]
            )
            stub = pb_grpc.ModelServiceStub(channel)
            streams = [stub.ReadVariables(read) for _ in range(STREAMS)]
            for stream in streams:
                assert next(stream).HasField("manifest")
            threads = [threading.Thread(target=write), threading.Thread(target=run_long)]
            for thread in threads:
                thread.start()
            assert wrote.wait(30)
            assert running.wait(30)

            # What a health check takes on this machine now, with all that goes on beside it.
            check = health_pb2_grpc.HealthStub(prober).Check
            usual = max(_seconds(check) for _ in range(CHECKS))

            started = time.monotonic()
            service.process.terminate()
            assert next(watch).status == NOT_SERVING
            told = time.monotonic() - started
            code = service.process.wait(60)
            ended = time.monotonic() - started
            for thread in threads:
                thread.join(60)
                assert not thread.is_alive()
    print({"told": told, "a check": usual, "ended": ended, "acknowledged": len(acknowledged)})
    assert code == 0
    assert told <= max(TOLD_SECONDS, 3 * usual)
    assert ended <= GRACE + 2
    assert acknowledged == list(range(1, len(acknowledged) + 1))
    assert durable(state) in (len(acknowledged), len(acknowledged) + 1)
    assert refusals
    assert [e for e in refusals if not isinstance(e, varserve.Unavailable)] == []
