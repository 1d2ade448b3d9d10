"""A model whose values are made anew each time that it is loaded, with a state that is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

import varserve
from tests.serving import service_process


def test_what_was_made_at_random_stays(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """After a restart the variables have the values that callers saw, and the commits stand."""
    model = model_folder("tf1_random")

    def look(*, change: bool = False) -> tuple[float, float, str, int]:
        state = ("--state-dir", str(tmp_path / "state"))
        with (
            service_process({"m": model}, tmp_path / "log", state) as service,
            varserve.connect(service.address) as client,
        ):
            served = client.model("m")
            if change:
                served.variables["v"].assign(np.float32(7))
            snapshot = served.read(["v", "w"])
            return float(snapshot["v"]), float(snapshot["w"]), snapshot.epoch, snapshot.revision

    first = look()
    assert first[0] == 2
    assert first[3] == 1
    changed = look(change=True)
    assert changed == (7, first[1], first[2], 2)
    assert look() == changed
