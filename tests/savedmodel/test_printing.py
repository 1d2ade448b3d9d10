"""What functions print in plain runs: to the caller that asks, and to nobody else."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests import saved_models
from varserve_service import savedmodel
from varserve_service.core.ports.function_messages import FunctionMessage
from varserve_service.core.ports.loaded_model import LoadedModel
from varserve_service.savedmodel import Placement

from .looking import function, run

Load = Callable[[str], LoadedModel]


def lines(model: LoadedModel, name: str, **inputs: np.ndarray) -> list[FunctionMessage]:  # type: ignore[type-arg]
    said: list[FunctionMessage] = []
    function(model, name).stage(0, inputs, said.append)()
    return said


def test_a_run_gives_its_lines(load: Load, capfd: pytest.CaptureFixture[str]) -> None:
    """Text, stream and end of each line, in order; nothing is written anywhere."""
    said = lines(load("inner"), "printer", x=np.array([1, 2], np.int32))
    assert [(m.text, m.stream, m.end) for m in said] == [
        ("x is [1 2] sum 3", "stderr", "\n"),
        ("y: [2 4]", "stdout", "\n"),
        ("plain constant message", "stderr", "\n"),
        ("{'k': [2 4]}", "stderr", "<END>"),
    ]
    written = capfd.readouterr()
    assert "x is" not in written.out + written.err


def test_a_run_that_does_not_ask_prints_nothing(
    load: Load, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without a listener the lines are dropped, and the outputs are the same."""
    model = load("inner")
    assert run(model, "loop", n=np.int32(4))["s"] == 14
    assert run(model, "branch", x=np.float32(2))["y"] == 4
    assert run(model, "add", n=np.int64(2))["after"] == 2
    written = capfd.readouterr()
    assert "step" not in written.err
    assert "then" not in written.err


def test_the_operator_may_have_them_on_stderr(
    models_root: Path, placement: Placement, capfd: pytest.CaptureFixture[str]
) -> None:
    """With print_to_stderr TensorFlow prints as it always does."""
    path = saved_models.build("inner", models_root)
    model = savedmodel.load("inner", path, placement=placement, print_to_stderr=True)
    run(model, "loop", n=np.int32(2))
    assert "step 1 square 1" in capfd.readouterr().err


def test_runs_at_once_get_their_own_lines(load: Load) -> None:
    """More runs at once than there are versions of the function: each gets just its lines."""
    model = load("inner")
    counts = [n % 7 for n in range(60)]
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda n: lines(model, "loop", n=np.int32(n)), counts))
    for n, said in zip(counts, found, strict=True):
        assert [m.text for m in said] == [f"step {i} square {i * i}" for i in range(n)]


def test_a_run_that_says_too_much_is_cut_short(load: Load) -> None:
    """Of a run that prints without end the first lines are kept, and that there are more."""
    said = lines(load("inner"), "loop", n=np.int32(10_050))
    assert len(said) == 10_001
    assert "more was printed" in said[-1].text
