"""The real service with a state directory: killed, started again, and given another model."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import varserve
from tests.conftest import Serve
from tests.e2e.test_start import start


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

    Meanwhile a second service on the directory is refused, and so is another model afterwards.
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
