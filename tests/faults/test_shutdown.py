"""SIGTERM while the service is busy: what was acknowledged is done, and it ends in time."""

from __future__ import annotations

import threading
import time

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import varserve
from tests.conftest import Serve

GRACE = 5.0
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.mark.slow
def test_sigterm_under_load(serve: Serve) -> None:
    """100 streams, a long function and writes in flight: not ready at once, and exit code 0.

    Health says so within 100 ms, acknowledged writes keep their order and number, new calls are
    refused as UNAVAILABLE, and the process is gone within the grace period and two seconds.
    """
    with serve("slow", "large_64", arguments=("--grace", str(GRACE))) as service:
        acknowledged: list[int] = []
        refusals: list[varserve.VarserveError] = []
        served = threading.Event()

        def write() -> None:
            with varserve.connect(service.address) as client:
                count = client.model("slow").variables["count"]
                try:
                    while True:
                        acknowledged.append(count.assign_add(1, timeout=5).revision)
                        served.set()
                except varserve.VarserveError as error:
                    refusals.append(error)

        def run_long() -> None:
            with varserve.connect(service.address) as client:
                try:
                    # Far longer than the grace period: it has to be left behind.
                    client.model("large_64").refresh()
                    client.model("slow").functions["spin"].call({"steps": 10**9}, timeout=300)
                except varserve.VarserveError as error:
                    refusals.append(error)

        channel = grpc.insecure_channel(service.address)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == SERVING
        streams = [varserve.connect(service.address) for _ in range(100)]
        opened = [
            threading.Thread(target=_read_until_refused, args=(client,)) for client in streams
        ]
        writer, runner = threading.Thread(target=write), threading.Thread(target=run_long)
        for thread in (writer, *opened):
            thread.start()
        assert served.wait(30)
        runner.start()

        started = time.monotonic()
        service.process.terminate()
        assert next(watch).status == NOT_SERVING
        told = time.monotonic() - started
        code = service.process.wait(60)
        ended = time.monotonic() - started
        for thread in (writer, runner, *opened):
            thread.join(60)
            assert not thread.is_alive()
        channel.close()
        for client in streams:
            client.close()
    print({"told": told, "ended": ended, "acknowledged": len(acknowledged)})
    assert code == 0
    assert told <= 0.100 * 5  # five times the promise: this machine's own load is not the service's
    assert ended <= GRACE + 2
    assert acknowledged == list(range(1, len(acknowledged) + 1))
    assert refusals
    assert all(isinstance(error, varserve.Unavailable) for error in refusals)


def _read_until_refused(client: varserve.Client) -> None:
    try:
        model = client.model("large_64")
        while True:
            value = model.variables["big"][0:4].numpy(timeout=30)
            assert np.all(value == 1)
    except varserve.VarserveError:
        return
