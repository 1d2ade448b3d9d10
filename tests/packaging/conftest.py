"""What is built once for all packaging tests: the wheels, and a small model to serve."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.packaging.tools import ROOT, run

# Run by a process of its own, so that the tests here hold no TensorFlow themselves.
SAVE_COUNTER = """
import sys
import tensorflow as tf

class Counter(tf.Module):
    def __init__(self):
        super().__init__()
        self.v = tf.Variable([1.0, 2.0, 3.0], name="v")

    @tf.function(input_signature=[tf.TensorSpec([], tf.float32, name="x")])
    def scale(self, x):
        return {"y": x * self.v}

counter = Counter()
tf.saved_model.save(counter, sys.argv[1], signatures=counter.scale)
"""


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel of each distribution, by the folder that it is built from."""
    folder = tmp_path_factory.mktemp("wheels")
    for name in ("client", "service"):
        build = [sys.executable, "-m", "build", "--wheel", "--no-isolation"]
        run([*build, "--outdir", folder / name, ROOT / name])
    return {path.parent.name: path for path in folder.glob("*/*.whl")}


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with one model, `counter`, that has one variable, `v` = [1, 2, 3]."""
    folder = tmp_path_factory.mktemp("repository")
    run([sys.executable, "-c", SAVE_COUNTER, folder / "counter" / "1"])
    return folder
