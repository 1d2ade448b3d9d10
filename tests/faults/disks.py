"""Disks that are small, full, or failing."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.waiting import until


@contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    """A file system of 8 MiB; the test is skipped where none can be mounted."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(path)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield path
    finally:
        unmount(path)


@contextmanager
def limited_disk(path: Path) -> Iterator[Path]:
    """A btrfs file system with a quota of 8 MiB; the test is skipped where there can be none."""
    image = path.with_name(f"{path.name}.image")
    path.mkdir()
    with image.open("wb") as file:
        file.truncate(128 * 2**20)
    steps = [
        ["mkfs.btrfs", "-q", str(image)],
        ["mount", "-o", "loop", str(image), str(path)],
        ["btrfs", "quota", "enable", str(path)],
        ["btrfs", "qgroup", "limit", "8M", str(path)],
    ]
    try:
        for step in steps:
            _run(step)
        yield path
    finally:
        if path.is_mount():
            unmount(path)


def _run(step: list[str]) -> None:
    """Run a program; the test is skipped where it is not installed or may not do this."""
    try:
        subprocess.run(step, check=True, capture_output=True, timeout=60)
    except FileNotFoundError as error:
        pytest.skip(f"{error.filename} is not installed")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"a file system with a quota cannot be made here: {error.stderr.decode()}")


def unmount(path: Path) -> None:
    """Unmount a file system, which may be busy for a moment after a process in it was killed."""

    def unmounted() -> bool:
        done = subprocess.run(["umount", str(path)], capture_output=True, check=False, timeout=60)
        return done.returncode == 0

    try:
        until(unmounted, seconds=60, pause=0.2)
    except AssertionError:
        # Nothing is left in the way of the next test, whoever keeps this one busy.
        subprocess.run(["umount", "--lazy", str(path)], check=True, timeout=60)
        raise


class LoopDisk:
    """An ext4 file system in a file, whose power can be cut; skipped where it cannot be mounted."""

    _SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN
    _NO_LOG_FLUSH = struct.pack("I", 2)

    def __init__(self, path: Path) -> None:
        self._image, self.path = path.with_name(f"{path.name}.image"), path
        path.mkdir()
        with self._image.open("wb") as file:
            file.truncate(64 * 2**20)
        make = ["mkfs.ext4", "-q", "-F", str(self._image)]
        try:
            subprocess.run(make, check=True, capture_output=True, timeout=60)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"an ext4 file system cannot be made here: {error}")

    def __enter__(self) -> LoopDisk:
        # What is not synced stays in memory: the kernel would write it after some seconds.
        mount = ["mount", "-o", "loop,commit=300", str(self._image), str(self.path)]
        done = subprocess.run(mount, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode:
            pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
        return self

    def __exit__(self, *_: object) -> None:
        unmount(self.path)

    def cut_power(self) -> None:
        """From now on nothing is written; what was not synced is lost with the next mount."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, self._SHUTDOWN, self._NO_LOG_FLUSH)
        finally:
            os.close(descriptor)


def fill(path: Path) -> None:
    """Take all the room there is."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
        os.fsync(file.fileno())


def which_strace() -> str:
    """Where it is; the test is skipped where it is not, or may not trace."""
    path = shutil.which("strace")
    if path is None:
        pytest.skip("strace is not installed: it makes the Nth call of a process fail")
    if subprocess.run(
        [path, "-qq", "true"], capture_output=True, check=False, timeout=120
    ).returncode:
        pytest.skip("strace may not trace here")
    return path
