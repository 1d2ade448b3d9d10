"""The real service with a state directory: killed, started again, and given another model."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import varserve
from tests.conftest import Serve
from tests.e2e.test_start import start
from tests.faults.disks import fill, small_disk, which_strace
from tests.serving import ServiceProcess, service_process
from tests.waiting import killed_after
from varserve_service.journal.disk import EXIT_DISK_FAILED


def state_of(client: varserve.Client) -> dict[str, Any]:
    """All values, revisions and the epoch of both models."""
    found: dict[str, Any] = {}
    for name in ("counter", "embedding"):
        model = client.model(name)
        snapshot = model.read(list(model.variables))
        found[name] = (
            snapshot.epoch,
            snapshot.revision,
            {key: snapshot[key].tolist() for key in model.variables},
        )
    return found


@pytest.mark.slow
def test_acknowledged_writes_survive_sigkill(
    serve: Serve, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """Assigns of every kind, in place and whole, and runs, of real SavedModels, after SIGKILL.

    Meanwhile a second service on the directory is refused, and so is another model afterwards,
    until it is started with --state-reset, which moves the state aside.
    """
    state = ("--state-dir", str(tmp_path / "state"))
    with serve("counter", "embedding", arguments=state) as service:
        with varserve.connect(service.address) as client:
            counter, embedding = client.model("counter"), client.model("embedding")
            counter.variables["v"].assign(np.array([1, 2, 3], np.float32))
            counter.variables["v"][1:2].assign_add(np.full(1, 40, np.float32))
            counter.functions["add"](n=np.int64(5))
            counter.variables["count"].assign_add(1)
            table = embedding.variables["table"]
            table.scatter_update([7, 3], np.full((2, 4), 0.1, np.float32))
            table.scatter_add([7, 7], np.full((2, 4), 0.2, np.float32))
            table[10:12, 1:3].assign(np.full((2, 2), -1, np.float32))
            embedding.variables["dense"][0:2].assign_sub(np.full((2, 2), 0.3, np.float32))
            before = state_of(client)
        os.kill(service.pid, signal.SIGKILL)
        service.process.wait(60)
    assert [before[name][1] for name in ("counter", "embedding")] == [4, 4]
    with serve("counter", "embedding", arguments=state) as service:
        with varserve.connect(service.address) as client:
            assert state_of(client) == before
            commit = client.model("counter").variables["count"].assign_add(1)
            assert commit.revision == 5
        second = start("--model", f"counter={model_folder('counter')}", *state)
        assert (second.returncode, second.stdout) == (2, "")
        assert f"in use by another server (process {service.pid})" in second.stderr
        assert service.terminate() == 0
    other = start("--model", f"counter={model_folder('embedding')}", *state)
    assert (other.returncode, other.stdout) == (2, "")
    assert "model 'counter'" in other.stderr
    assert "variable 'count' is gone" in other.stderr
    assert "Traceback" not in other.stderr
    other_model = {"counter": model_folder("embedding")}
    with (
        service_process(other_model, tmp_path / "log", (*state, "--state-reset")) as service,
        varserve.connect(service.address) as client,
    ):
        assert client.model("counter").revision == 0
    (aside,) = (tmp_path / "state/aside").iterdir()
    assert (aside / "log.sqlite3").stat().st_size > 0


@pytest.mark.slow
def test_a_full_and_a_failing_disk(serve: Serve, tmp_path: Path) -> None:
    """A full disk refuses writes alone, and heals; a sync that fails once ends the process.

    What was acknowledged is there afterwards, and at most the one more that was in flight.
    """
    strace = which_strace()
    with small_disk(tmp_path / "disk") as disk:
        state = ("--state-dir", str(disk / "state"))
        with (
            serve("counter", arguments=state) as service,
            varserve.connect(service.address, retries=0) as client,
        ):
            count = client.model("counter").variables["count"]
            acknowledged = count.assign_add(1).revision
            fill(disk / "filler")
            acknowledged = add_until(varserve.StateStoreFull, count) or acknowledged
            assert count.numpy() == acknowledged
            assert healthy(service.address)
            (disk / "filler").unlink()
            assert count.assign_add(1).revision == acknowledged + 1
            acknowledged = fail_a_sync(strace, service, count, tmp_path / "trace")
            assert service.process.wait(60) == EXIT_DISK_FAILED
        with (
            serve("counter", arguments=state) as service,
            varserve.connect(service.address) as client,
        ):
            found = client.read_variable("counter", "count")
            assert found.revision == found.value
            assert acknowledged <= found.revision <= acknowledged + 1


def add_until(error: type[varserve.VarserveError], count: Any) -> int:
    """Add one again and again until that fails; the last revision that was acknowledged."""
    acknowledged = 0
    try:
        for _ in range(1000):
            acknowledged = count.assign_add(1).revision
    except error:
        return acknowledged
    raise AssertionError(f"no {error.__name__}")


def fail_a_sync(strace: str, service: ServiceProcess, count: Any, trace: Path) -> int:
    """Let the third sync from now on fail with EIO; the last revision that was acknowledged."""
    command = [strace, "-f", "-o", str(trace), "-p", str(service.pid), "-e", "trace=fdatasync"]
    tracer = subprocess.Popen(
        [*command, "-e", "inject=fdatasync:error=EIO:when=3"], stderr=subprocess.PIPE, text=True
    )
    assert tracer.stderr is not None
    with killed_after(tracer, 60):
        attached = tracer.stderr.readline()
    assert "attached" in attached
    # Syncs are counted for each thread, and several threads take calls.
    acknowledged = add_until(varserve.Unavailable, count)
    tracer.communicate(timeout=60)
    assert "INJECTED" in trace.read_text()
    assert acknowledged
    return acknowledged


def healthy(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        status = check(health_pb2.HealthCheckRequest(), timeout=30).status
    return bool(status == health_pb2.HealthCheckResponse.SERVING)
