"""What the tests of several files here need."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where the socket of a lane can be."""
    return str(tmp_path / "lane")
