"""Disks that are small, full, or failing."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


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
        subprocess.run(["umount", str(path)], check=True, timeout=120)


def fill(path: Path) -> None:
    """Take all the room there is."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            if error.errno != errno.ENOSPC:
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
