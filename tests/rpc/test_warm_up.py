"""What is run before the service is ready."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format

from tests.fakes import FakeFunction, FakeModel, FakeVariable
from varserve import tensors
from varserve.v1 import model_service_pb2 as pb
from varserve_service.core.errors import ModelLoadError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.registry import Models
from varserve_service.core.ports.loaded_model import TensorSpec
from varserve_service.rpc import BatchOptions, run_everything, run_requests

Array = np.ndarray[Any, Any]


class Seen:
    """Functions that remember what they were run on."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.wrote = 0
        v = FakeVariable("v", np.zeros(2, np.float32))
        rows = TensorSpec("float32", (None, 2))
        any_rank = TensorSpec("float32", None)
        self.live = LiveModel(
            FakeModel(
                [v],
                [
                    FakeFunction("look", self.look, inputs={"x": rows}),
                    FakeFunction("words", self.look, inputs={"x": TensorSpec("string", ())}),
                    FakeFunction("picky", self.picky, inputs={"x": rows}),
                    FakeFunction("any", self.look, inputs={"x": any_rank}),
                    FakeFunction("write", self.write, inputs={"x": rows}, writes=("v",)),
                ],
                name="m",
            )
        )
        self.models = Models([self.live])

    def look(self, x: Array) -> dict[str, Array]:
        self.shapes.append(x.shape)
        return {}

    def picky(self, x: Array) -> dict[str, Array]:
        raise ArithmeticError("not zeros")

    def write(self, x: Array) -> dict[str, Array]:
        self.wrote += 1
        return {}


def line(function: str, x: Array) -> str:
    request = pb.RunFunctionRequest(
        model="m", function=function, inputs={"x": tensors.to_tensor(x)}
    )
    return json_format.MessageToJson(request, indent=None)


LATER = ('"n"', '"m@canary"')


def test_everything_that_changes_nothing_is_run() -> None:
    """On zeros, at each size of a batch; what fails on them is no reason not to serve."""
    seen = Seen()
    batching = {("m", "look"): BatchOptions(max_rows=8, allowed_rows=(2, 8))}
    assert run_everything(seen.models, batching) == 3
    assert sorted(seen.shapes) == [(), (2, 2), (8, 2)]
    assert (seen.wrote, seen.live.header.revision) == (0, 0)


def test_requests_of_a_file_are_run(tmp_path: Path) -> None:
    """Each line is a RunFunctionRequest in JSON; empty lines are none."""
    seen, file = Seen(), tmp_path / "requests"
    file.write_text(f"{line('look', np.ones((3, 2), np.float32))}\n\n")
    assert run_requests(seen.models, file) == 1
    assert seen.shapes == [(3, 2)]


def test_requests_of_a_model_that_comes_later_are_left_for_then(tmp_path: Path) -> None:
    """Where models may come while the service runs; else the name is a mistake of the operator."""
    seen, file = Seen(), tmp_path / "requests"
    later = [line("look", np.ones((1, 2), np.float32)).replace('"m"', name) for name in LATER]
    file.write_text("\n".join([*later, line("look", np.ones((3, 2), np.float32))]))
    with pytest.raises(ModelLoadError, match=r"line 1: no model 'n'"):
        run_requests(seen.models, file)
    assert run_requests(seen.models, file, coming=True) == 1
    assert seen.shapes == [(3, 2)]
    assert run_requests(seen.models, file, only="m") == 2  # what a version is warmed with


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "line 1"),
        ('{"model": "m", "functoin": "look"}', "functoin"),
        ('{"model": "m", "function": "nothing"}', "nothing"),
        (line("look", np.ones(3, np.float32)), "expected float32"),
        (line("picky", np.ones((1, 2), np.float32)), "not zeros"),
        (line("write", np.ones((1, 2), np.float32)), "may change state"),
    ],
)
def test_a_wrong_request_is_told(tmp_path: Path, text: str, problem: str) -> None:
    """The operator wrote it for this model, and learns which line is wrong and why."""
    seen, file = Seen(), tmp_path / "requests"
    file.write_text(text)
    with pytest.raises(ModelLoadError, match=problem) as caught:
        run_requests(seen.models, file)
    assert f"{file}, line 1" in str(caught.value)
    assert seen.wrote == 0


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="cannot be read"):
        run_requests(Seen().models, tmp_path / "none")
