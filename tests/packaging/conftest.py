"""What is built once for all packaging tests.

This folder has no __init__.py: to a program that is started from tests/ it would be `packaging`,
the distribution that TensorFlow imports.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.packaging.tools import ROOT, run


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel of each distribution, by the folder that it is built from."""
    folder = tmp_path_factory.mktemp("wheels")
    for name in ("client", "service"):
        build = [sys.executable, "-m", "build", "--wheel", "--no-isolation"]
        run([*build, "--outdir", folder / name, ROOT / name])
    return {path.parent.name: path for path in folder.glob("*/*.whl")}
