"""Clients in forked children."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_clients_in_forked_children() -> None:
    """The tests in `forking.py` pass in a process of their own, which has never had a server."""
    command = [sys.executable, "-m", "pytest", HERE / "forking.py", f"--confcutdir={HERE}", "-q"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider"],
        cwd=HERE.parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "13 passed" in done.stdout
