"""The tool that counts what a call visits."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_each_kind_of_call_is_counted() -> None:
    """Every call visits functions in several files of the client and the service."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.walks", "--files"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    counts = re.findall(r"(\d+) functions +(\d+) files +(\d+) returns", done.stdout)
    assert len(counts) == 5
    assert all(int(functions) > int(files) > 10 for functions, files, _ in counts)
    assert "varserve/frames.py" in done.stdout
    assert "varserve_service/journal/journal.py" in done.stdout
