"""How much memory the system has left."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

from tests.core.test_memory import MIB
from tests.waiting import until
from varserve_service.core import memory as memory_module
from varserve_service.core.arrays.buffers import idle_bytes
from varserve_service.core.memory import MemoryBudget, Room
from varserve_service.host_memory import HostMemory

MEMINFO = "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 800 kB\n"


def system(root: Path, files: dict[str, str]) -> HostMemory:
    for name, text in {"proc/meminfo": MEMINFO, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return HostMemory(root=root, idle=lambda: 0)


def group(folder: str, limit: str, usage: int, inactive: int) -> dict[str, str]:
    return {
        f"sys/fs/cgroup/{folder}/memory.max": f"{limit}\n",
        f"sys/fs/cgroup/{folder}/memory.current": f"{usage}\n",
        f"sys/fs/cgroup/{folder}/memory.stat": f"anon 5\nfile 9\ninactive_file {inactive}\n",
    }


def old_group(folder: str, limit: int, usage: int, inactive: int) -> dict[str, str]:
    return {
        f"sys/fs/cgroup/memory/{folder}/memory.limit_in_bytes": f"{limit}\n",
        f"sys/fs/cgroup/memory/{folder}/memory.usage_in_bytes": f"{usage}\n",
        f"sys/fs/cgroup/memory/{folder}/memory.stat": (
            f"cache 9\ninactive_file 1\ntotal_inactive_file {inactive}\n"
        ),
    }


@pytest.mark.parametrize(
    ("files", "room"),
    [
        ({}, Room(800 * 1024, 1000 * 1024)),
        ({"proc/self/cgroup": "0::/\n", **group(".", "max", 9, 3)}, Room(800 * 1024, 1000 * 1024)),
        ({"proc/self/cgroup": "0::/\n", **group(".", "5000", 4000, 100)}, Room(1100, 5000)),
        (
            {
                "proc/self/cgroup": "0::/pod/c\n",
                **group("pod/c", "max", 10, 0),
                **group("pod", "900", 500, 0),
            },
            Room(400, 900),
        ),
        # The path is of outside the container: the mount is the group itself.
        ({"proc/self/cgroup": "0::/../x\n", **group(".", "5000", 6000, 0)}, Room(0, 5000)),
        (
            {
                "proc/self/cgroup": "4:memory:/pod\n1:cpu:/\n0::/\n",
                **old_group("pod", 7000, 6000, 50),
                **old_group(".", 2**63 - 4096, 10**9, 0),
            },
            Room(1050, 7000),
        ),
    ],
)
def test_the_least_of_all_limits_counts(files: dict[str, str], room: Room, tmp_path: Path) -> None:
    """The machine's memory, and that of each control group of either kind that has a limit."""
    assert system(tmp_path, files)() == room


def test_a_limit_that_changes_is_seen(tmp_path: Path) -> None:
    """A container's limit may be moved while it runs."""
    found = system(tmp_path, {"proc/self/cgroup": "0::/\n", **group(".", "5000", 4000, 0)})
    assert found() == Room(1000, 5000)
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("6000\n")
    assert found() == Room(2000, 6000)


def test_memory_that_is_kept_for_the_next_value_is_free(tmp_path: Path) -> None:
    """What the process has and does not use may be taken, whatever the system counts."""
    system(tmp_path, {})
    assert HostMemory(root=tmp_path, idle=lambda: 7)() == Room(800 * 1024 + 7, 1000 * 1024)


def test_a_system_that_tells_nothing(tmp_path: Path) -> None:
    """Without any figures nothing is refused."""
    assert HostMemory(root=tmp_path)() is None
    MemoryBudget("host", HostMemory(root=tmp_path)).reserve(2**60, "much")


def test_memory_that_is_used_is_seen() -> None:
    """On this machine, 64 MiB that are written to are gone from what the process may take."""
    gc.collect()
    until(lambda: idle_bytes() == 0)  # what other tests left is given back in the meantime
    memory_module.trim()
    limit = HostMemory(2**40)
    before = limit._own()
    array = np.ones(64 * MIB, np.uint8)  # not of memory that is kept for the next value
    after = limit._own()
    assert before is not None
    assert after is not None
    assert before.limit == after.limit == 2**40
    assert 60 * MIB < before.available - after.available < 80 * MIB
    assert array[-1] == 1
