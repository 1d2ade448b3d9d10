"""basic-pitch, the demo's model (audio to notes): where it is, what it is given, what is probed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

PITCH = "basic_pitch"
FUNCTION = "serving_default"
FOLDER = Path(__file__).parents[1] / ".models" / PITCH / "1"
"""`make bench` fetches it."""

_PASSED_OVER = ("Const", "Placeholder", "ReadVariableOp")


def audio() -> dict[str, Any]:
    """Inputs: two seconds of noise."""
    import numpy as np  # not there in every side's environment

    noise = np.random.default_rng(3).normal(0, 0.1, (1, 43844, 1))
    return {"input_2": noise.astype(np.float32)}


def spread(tensors: Iterable[Any], count: int, start: int = 0) -> list[str]:
    """Names of so many of the inner tensors that are computed, evenly spread over the function."""
    names = [
        each.name
        for each in tensors
        if str(each.dtype) == "float32" and each.op not in _PASSED_OVER
    ]
    assert len(names) > count + start, f"{len(names)} inner tensors are computed"
    step = (len(names) - start) / count
    return [names[start + int(step * at)] for at in range(count)]
