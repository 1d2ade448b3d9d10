"""The lane of the service as a process, with clients in others."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import varserve
from tests.conftest import Serve
from tests.waiting import read_line, until
from varserve_service.addresses import open_connections

MIB = 2**20

CLIENT = """
import sys, numpy as np, varserve
target, what = sys.argv[1:]
client = varserve.connect(target)
model = client.model("large_64")
big = model.variables["big"]
if what == "keep":
    kept = big.numpy(copy=False)
    print(kept[0], flush=True)
    sys.stdin.read()
else:
    while True:
        buffer = model.buffer(big.shape, big.dtype)
        buffer[:] = 5
        print("ready", flush=True)
        big.assign(buffer)
"""


@pytest.mark.parametrize("what", ["keep", "assign"])
def test_a_client_that_is_killed_leaves_nothing(serve: Serve, tmp_path: Path, what: str) -> None:
    """The service lets go of what it had mapped or was giving, and goes on; over `unix:`."""
    lane, place = tmp_path / "lane", f"unix:{tmp_path}/grpc"
    arguments = ("--host", place, "--lane-socket", str(lane))
    with serve("large_64", arguments=arguments) as service, varserve.connect(place) as client:
        big = client.model("large_64").variables["big"]
        for number in range(3):
            with subprocess.Popen(
                [sys.executable, "-c", CLIENT, place, what],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            ) as process:
                read_line(process)
                if what == "keep":
                    assert open_connections(f"unix:{lane}") == 1
                process.kill()
            until(lambda: open_connections(f"unix:{lane}") == 0)
            value = big.numpy(copy=False)
            assert len(np.unique(value)) == 1 or number == 0
            big.assign(np.full(value.shape, number, value.dtype))
            assert (big.numpy() == number).all()
            del value
        assert service.terminate() == 0
    assert not lane.exists()


def test_a_policy_holds_on_the_lane(serve: Serve, tmp_path: Path) -> None:
    """Who may not read or assign gets no memory; who may is audited, with the value's hash."""
    tokens, policy, audit = (tmp_path / name for name in ("tokens.yaml", "policy.yaml", "audit"))
    secret = {"ann": "a" * 40, "bob": "b" * 40}
    digests = {name: hashlib.sha256(token.encode()).hexdigest() for name, token in secret.items()}
    tokens.write_text(
        json.dumps({"tokens": [{"subject": n, "sha256": d} for n, d in digests.items()]})
    )
    rule = {"models": ["*"], "variables": ["*"]}
    rules = [
        rule | {"subjects": ["ann"], "verbs": ["list", "read", "assign"]},
        rule | {"subjects": ["bob"], "verbs": ["list", "read"]},
    ]
    policy.write_text(json.dumps({"rules": rules}))
    arguments = (
        f"--token-file={tokens}",
        f"--policy={policy}",
        f"--audit-log={audit}",
        f"--lane-socket={tmp_path}/lane",
    )
    with serve("large_64", arguments=arguments) as service:
        clients = {
            name: varserve.connect(service.address, token=token) for name, token in secret.items()
        }
        models = {name: client.model("large_64") for name, client in clients.items()}
        buffer = models["bob"].buffer(models["bob"].variables["big"].shape, np.float32)
        buffer[:] = 5
        with pytest.raises(varserve.AccessDenied):
            models["bob"].variables["big"].assign(buffer)
        commit = models["ann"].variables["big"].assign(buffer)
        mapped = models["bob"].variables["big"].numpy(copy=False)
        assert (mapped == 5).all()
        assert open_connections(f"unix:{tmp_path}/lane") == 1
        lines = [json.loads(line) for line in audit.read_text().splitlines()]
        done = lines[-1]
        assert (done["outcome"], done["subject"]) == ("OK", "ann")
        assert done["revision_after"] == commit.revision
        assert done["changes"][0]["content_hash"] == varserve.content_hash(buffer)
        for client in clients.values():
            client.close()


def test_where_the_lane_cannot_be(serve: Serve, tmp_path: Path) -> None:
    """The service says at once which setting is wrong, and what is there."""
    taken = tmp_path / "taken"
    taken.write_text("a file")
    for path, problem in (
        (taken, "a file that is no socket"),
        (tmp_path / "nowhere" / "lane", "there is no folder"),
        (tmp_path / ("x" * 120), "expected at most 107 bytes"),
    ):
        with (
            pytest.raises(RuntimeError) as caught,
            serve("counter", arguments=(f"--lane-socket={path}",)),
        ):
            pass
        assert "lane_socket" in str(caught.value)
        assert problem in str(caught.value)
    again = (f"--lane-socket={tmp_path}/lane",)
    with (
        serve("counter", arguments=again),
        pytest.raises(RuntimeError, match="another process listens"),
        serve("counter", arguments=again),
    ):
        pass
