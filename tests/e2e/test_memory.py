"""A process with little memory refuses what does not fit, with the numbers, and goes on."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest

import varserve
from tests.conftest import Serve
from tests.waiting import until

MIB = 2**20


def test_what_does_not_fit_is_refused_with_the_numbers(serve: Serve) -> None:
    """Uploads, copies of regions and of earlier revisions that have no room change nothing."""
    with serve("large_64") as service:
        # What the service takes itself, and room for less than the variable once more.
        limit = service.rss_bytes() + 40 * MIB
    arguments = ("--memory-limit", str(limit), "--memory-reserve", str(8 * MIB))
    with (
        serve("large_64", arguments=arguments) as service,
        varserve.connect(service.address, retries=0) as client,
    ):
        big = client.model("large_64").variables["big"]
        before = big.numpy()
        assert before.nbytes == 64 * MIB
        rows = varserve.Rows(np.zeros(len(before), np.int64))
        for call in (
            lambda: big.assign(before + 1),
            lambda: big[rows].numpy(),
            lambda: big[1:3].assign(before[1:3] + 1),
        ):
            with pytest.raises(varserve.OutOfMemory, match="bytes of host memory") as caught:
                call()
            told = {key: int(caught.value.metadata[key]) for key in ("needed", "available")}
            assert told["needed"] > told["available"]
            assert int(caught.value.metadata["limit"]) == limit
        assert big.revision == 0
        np.testing.assert_array_equal(big.numpy(), before)
        assert service.terminate() == 0


@pytest.mark.slow
@pytest.mark.parametrize("onednn", ["0", "1"])
def test_a_large_table_takes_itself_once(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, onednn: str
) -> None:
    """At rest, whatever was done; and once more at the peak of an assign. It keeps no history.

    Also on processors for which TensorFlow uses oneDNN, which has an allocator of its own.
    """
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", onednn)
    arguments = ("--history-bytes", "1")
    with (
        serve("large_table_256", arguments=arguments) as service,
        varserve.connect(service.address) as client,
    ):
        model = client.model("large_table_256")
        table = model.variables["table"]
        value = table.numpy()
        nbytes = value.nbytes
        assert nbytes == 256 * MIB
        at_start = service.rss_bytes()
        for number in range(3):
            Path(f"/proc/{service.pid}/clear_refs").write_text("5")  # the peak begins anew
            value[...] = number
            table.assign(value)
            assert float(model.functions["lookup"](ids=np.array([7]))["output_0"][0, 0]) == number
            assert peak_bytes(service.pid) - at_start < nbytes + 100 * MIB
        table.scatter_add([3], np.ones((1, 256), np.float32))
        model.functions["add_row"](row=np.int64(3))
        Path(f"/proc/{service.pid}/clear_refs").write_text("5")
        table.assign_add(value)
        # What is added stays until the sum is there.
        assert peak_bytes(service.pid) - at_start < 2 * nbytes + 100 * MIB
        table.numpy(out=value)
        assert value[3, 0] == 6
        table.summary(content_hash=True)
        until(lambda: service.rss_bytes() - at_start < 100 * MIB, 30)


@pytest.mark.slow
def test_a_limit_of_one_and_a_half_times_a_table(serve: Serve) -> None:
    """All of it is read and summarized, and rows are written; another whole has no room."""
    with serve("large_table_256") as service:
        limit = service.rss_bytes() + 128 * MIB
    arguments = ("--memory-limit", str(limit), "--memory-reserve", str(8 * MIB))
    with (
        serve("large_table_256", arguments=arguments) as service,
        varserve.connect(service.address, retries=0) as client,
    ):
        table = client.model("large_table_256").variables["table"]
        value = table.numpy()
        assert table.summary(content_hash=True).content_hash == varserve.content_hash(value)
        with pytest.raises(varserve.OutOfMemory):
            table.assign(value)
        table.scatter_update([5], np.full((1, 256), 3, np.float32))
        table[10:20].assign(np.full((10, 256), 4, np.float32))
        table.numpy(out=value)
        assert (value[5, 0], value[10, 0], value[20, 0]) == (3, 4, 0)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc")
def test_messages_leave_their_memory_to_the_next_ones(serve: Serve) -> None:
    """Page faults of the service for assigns of 64 MiB, of which each has 16,384 pages."""
    with serve("large_64") as service, varserve.connect(service.address) as client:
        big = client.model("large_64").variables["big"]
        value = big.numpy()
        for _ in range(24):
            big.assign(value)
        before = page_faults(service.pid)
        for _ in range(24):
            big.assign(value)
        faults = (page_faults(service.pid) - before) / 24
        print({"page faults of an assign": faults})
        assert faults < 1_000


def peak_bytes(pid: int) -> int:
    """The most that the process had since its peak began."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def page_faults(pid: int) -> int:
    """Those that needed no disk; proc(5)."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])
