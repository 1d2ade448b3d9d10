"""Who knows only the .proto files can use the service: nothing on the wire is varserve's own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from tests.fakes import FakeFunction, FakeModel, FakeVariable
from tests.serving import serve_here
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import TensorSpec

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-proto" / "bin" / "python"
CLIENT = Path(__file__).with_name("third_party.py")


def test_a_client_that_knows_only_the_proto(tmp_path: Path) -> None:
    """It reads a variable of many chunks with their CRC32C, assigns and runs, all as it should be.

    Its stubs are made here from the .proto files; its environment has neither varserve nor numpy.
    """
    subprocess.run([PYTHON, ROOT / "proto" / "generate.py", tmp_path], check=True, timeout=120)
    small = np.array([1.5, -2], np.float32)
    large = np.random.default_rng(7).standard_normal(200_003)
    vector = TensorSpec("float64", (None,))

    def double(x: Any) -> dict[str, Any]:
        return {"y": x * 2}

    kept = FakeVariable("large", large)
    model = FakeModel(
        [FakeVariable("small", small), kept],
        [FakeFunction("double", double, inputs={"x": vector}, outputs={"y": vector})],
    )
    with serve_here(LiveModel(model)) as address:
        done = subprocess.run(
            [PYTHON, CLIENT, tmp_path, address],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["variables"] == {"small": 8, "large": large.nbytes}
    assert found["small"] == [1, [2], small.tobytes().hex()]
    assert found["large"] == [["small", [2], 8], ["large", [200_003], large.nbytes]]
    assert found["chunks"] == [2**20, 8 + large.nbytes - 2**20]
    assert (tmp_path / "body").read_bytes() == small.tobytes() + large.tobytes()
    assert found["revision"] == 1
    assert kept.array is not None
    np.testing.assert_array_equal(kept.array, large[::-1])
    assert found["refused"] == ["INVALID_ARGUMENT", "CHECKSUM_MISMATCH"]
    assert found["outputs"] == [["y", [200_003]]]
    assert (tmp_path / "doubled").read_bytes() == (large[::-1] * 2).tobytes()
