"""A process with little memory refuses what does not fit, with the numbers, and goes on."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest

import varserve
from tests.conftest import Serve

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


def page_faults(pid: int) -> int:
    """Those that needed no disk; proc(5)."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])
