"""How much host memory this process may still take: what the machine has, or its control group.

Reads /proc and /sys/fs/cgroup of Linux.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .core.arrays.buffers import idle_bytes
from .core.memory import Room

# Control groups of version 1 without a limit have a little less than this.
_UNLIMITED = 2**62


@dataclass(frozen=True, slots=True)
class _Group:
    """The files of one control group that may have a limit, of version 1 or 2."""

    limit: Path
    usage: Path
    stat: Path
    cache: str

    def room(self) -> Room | None:
        """None without a limit."""
        try:
            text = self.limit.read_text().strip()
            if not text.isdecimal() or int(text) >= _UNLIMITED:  # "max", or as good as that
                return None
            usage = int(self.usage.read_text())
            cached = _field(self.stat.read_text(), self.cache)
        except (OSError, ValueError):
            return None
        limit = int(text)
        # Inactive pages of files are dropped before anything fails.
        return Room(max(0, limit - usage + cached), limit)


class HostMemory:
    """Reads the host's memory at each call: limits can change while a process runs.

    `limit`: bytes that this process may have in all, where it is less than the system gives.
    `root`: of the file system that is read. `idle`: bytes that the process has and does not use.
    """

    def __init__(
        self,
        limit: int | None = None,
        *,
        root: Path = Path("/"),
        idle: Callable[[], int] = idle_bytes,
    ) -> None:
        self._limit = limit
        self._root = root
        self._idle = idle
        self._groups = list(_groups(root))

    def __call__(self) -> Room | None:
        """The least that the machine, each control group and the own limit leave.

        None if the system does not tell.
        """
        looks: list[Callable[[], Room | None]] = [self._machine, self._own]
        looks += [group.room for group in self._groups]
        rooms = [room for look in looks if (room := look()) is not None]
        if not rooms:
            return None
        least = min(rooms, key=lambda room: room.available)
        # Memory that is kept for the next large value belongs to the process and is free.
        return Room(least.available + self._idle(), least.limit)

    def _machine(self) -> Room | None:
        try:
            text = (self._root / "proc/meminfo").read_text()
            return Room(1024 * _field(text, "MemAvailable:"), 1024 * _field(text, "MemTotal:"))
        except (OSError, ValueError):
            return None

    def _own(self) -> Room | None:
        if self._limit is None:
            return None
        try:
            pages = int((self._root / "proc/self/statm").read_text().split()[1])
        except (OSError, ValueError, IndexError):
            return None
        used = pages * os.sysconf("SC_PAGE_SIZE")
        return Room(max(0, self._limit - used), self._limit)


def _field(text: str, name: str) -> int:
    """The number after a name, of lines of names and numbers. Raises ValueError."""
    for line in text.splitlines():
        words = line.split()
        if words and words[0] == name:
            return int(words[1])
    raise ValueError(f"no {name}")


def _groups(root: Path) -> Iterator[_Group]:
    """The control groups of this process that may limit its memory, the innermost first."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    mounted = root / "sys/fs/cgroup"
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "memory" in controllers.split(","):
            for folder in _upwards(mounted / "memory", path):
                yield _Group(
                    folder / "memory.limit_in_bytes",
                    folder / "memory.usage_in_bytes",
                    folder / "memory.stat",
                    "total_inactive_file",
                )
        elif not controllers:
            for folder in _upwards(mounted, path):
                yield _Group(
                    folder / "memory.max",
                    folder / "memory.current",
                    folder / "memory.stat",
                    "inactive_file",
                )


def _upwards(mounted: Path, path: str) -> Iterator[Path]:
    # Inside a container the group's own path may not be there: the mount then is that group.
    folder = mounted / path.strip("/")
    while folder != mounted:
        if folder.is_dir():
            yield folder
        folder = folder.parent
    yield mounted
