"""A full disk: writes are refused with the reason, everything else goes on, and it heals."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import varserve
from tests.fakes import FakeModel, FakeVariable
from tests.faults.disks import fill, limited_disk, small_disk
from tests.journal.kept import kept, value_of
from tests.rpc.models import counter_model
from tests.serving import serve_here

MIB = 2**20


def model() -> FakeModel:
    return counter_model(
        FakeVariable("large", np.zeros(100_000, np.float32)),
        FakeVariable("words", np.array([b"a", b"b"], object)),
    )


def test_a_full_disk_refuses_writes_and_nothing_else(tmp_path: Path) -> None:
    """Small and large writes and runs are refused with STATE_STORE_FULL; reads, runs, health go on.

    When there is room again writes go through by themselves, and a restart has all of them.
    """
    with small_disk(tmp_path / "disk") as disk:
        full_and_not(disk)


def test_a_quota_that_is_used_up_is_a_full_disk(tmp_path: Path) -> None:
    """The same where a quota is in the way, which SQLite calls an error of the disk."""
    with limited_disk(tmp_path / "disk") as disk:
        full_and_not(disk)


def full_and_not(disk: Path) -> None:
    filler, large = disk / "filler", np.ones(100_000, np.float32)
    with kept(disk / "state", model) as (live, _), serve_here(live) as address:
        with varserve.connect(address) as client, grpc.insecure_channel(address) as channel:
            served = client.model("counter")
            variables, functions = served.variables, served.functions
            variables["large"].assign(large)
            functions["add"](n=np.int64(1))
            revision = variables["count"].assign_add(1).revision
            refused = 0
            for _ in range(3):
                fill(filler)
                # What is in the log already may have room for a little more.
                with suppress(varserve.StateStoreFull):
                    while True:
                        revision = variables["count"].assign_add(1).revision
                for write in (
                    lambda: variables["count"].assign_add(1),
                    lambda: functions["add"](n=np.int64(1)),
                    lambda: variables["words"].assign([b"x" * 100_000, b"y"]),
                    lambda: variables["large"].assign(large * 7),
                    lambda: client.assign_variables(
                        "counter",
                        [varserve.Write("large", large * 7), varserve.Write("count", np.int64(9))],
                    ),
                ):
                    with pytest.raises(varserve.StateStoreFull) as caught:
                        write()
                    assert caught.value.from_service
                    refused += 1
                count = variables["count"].numpy()
                assert count == revision - 1
                assert variables["large"].numpy().tolist() == large.tolist()
                assert functions["total"](x=np.ones(3, np.float32))["output_0"] == 3
                health = health_pb2_grpc.HealthStub(channel)
                status = health.Check(health_pb2.HealthCheckRequest(), timeout=10).status
                assert status == health_pb2.HealthCheckResponse.SERVING
                filler.unlink()
                revision = variables["count"].assign_add(1).revision
                assert variables["count"].numpy() == count + 1
            assert refused == 15
            variables["words"].assign([b"x" * 100_000, b"y"])
        header = live.header
        assert header.revision == revision + 1
    with kept(disk / "state", model) as (live, _):
        assert live.header == header
        assert value_of(live, "count") == revision - 1
        assert value_of(live, "words").tolist() == [b"x" * 100_000, b"y"]
        assert value_of(live, "large").tolist() == large.tolist()
        files = list((disk / "state/models/counter/1/payloads").iterdir())
        assert len(files) == 1  # nothing is left of the writes that were refused
