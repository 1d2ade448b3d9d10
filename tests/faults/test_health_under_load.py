"""Health is answered whatever else the service does, or Kubernetes kills it when it is busy."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.conftest import Serve

CHECKS = 300
LIMIT_SECONDS = 0.100
LOAD = Path(__file__).with_name("load.py")


def p99(stub: health_pb2_grpc.HealthStub) -> float:
    """Seconds that 99 % of checks take at most; every one of them must say SERVING."""
    seconds = []
    for _ in range(CHECKS):
        started = time.perf_counter()
        response = stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
        seconds.append(time.perf_counter() - started)
        assert response.status == health_pb2.HealthCheckResponse.SERVING
        time.sleep(0.01)  # the pace of the checks, not a wait for something
    return float(np.percentile(seconds, 99))


@pytest.mark.slow
def test_health_is_answered_under_load(serve: Serve) -> None:
    """Beside a 256 MiB upload, three functions and 64 clients, 99 % of checks take 100 ms at most.

    The load shares its two cores with the service and with other machines' work, so the best of
    three rounds counts; no check may fail in any.
    """
    with serve("slow", "large_64") as service:
        load = subprocess.Popen(
            [sys.executable, str(LOAD), service.address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert load.stdout is not None
        assert load.stdout.readline().strip() == "running"
        with grpc.insecure_channel(service.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            rounds = [p99(stub) for _ in range(3)]
        output, _ = load.communicate("", timeout=120)
    done = json.loads(output)
    print({"p99 of each round, seconds": rounds, "done beside them": done})
    assert set(done) == {"upload", "run", "read"}, "some of the load failed"
    assert min(rounds) <= LIMIT_SECONDS
