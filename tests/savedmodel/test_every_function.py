"""Every function of every kind of model gives through the service what it gives in TensorFlow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.saved_models import BUILDERS

# What has functions, and few of them that take long.
# The graph of `two_graphs` is chosen by tags, `shapes` gives what numpy cannot hold, functions of
# `endless` never end, those of `files` write where they are told, `tf1_random` differs each time,
# and `tf1_references` takes a session of TensorFlow 1, which has a test of its own.
OTHERS = ("two_graphs", "shapes", "endless", "files", "tf1_random", "tf1_references")
# Those to look into, `inner`, are run by tests of their own.
LEFT_OUT = ("large", "inner")
MODELS = [name for name in BUILDERS if not name.startswith(LEFT_OUT) and name not in OTHERS]
# Hashes of names differ between processes, and with them the order of whatever has none.
SEEDS = ("0", "1", "4242")


@pytest.mark.parametrize("seed", SEEDS)
def test_bit_for_bit(model_folder: Callable[[str], Path], seed: str) -> None:
    """In a fresh process, each call gives the same bits under the same names in the same order."""
    folders = [str(model_folder(name)) for name in MODELS]
    result = subprocess.run(
        [sys.executable, "-m", "tests.savedmodel.comparison", *folders],
        env=os.environ | {"PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    found = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    assert [each["model"] for each in found] == MODELS
    assert {each["model"]: each["differences"] for each in found if each["differences"]} == {}
    assert sum(each["calls"] for each in found) > 80
