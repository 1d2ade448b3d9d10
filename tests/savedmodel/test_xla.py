"""XLA by configuration: what is compiled, what is not, and what is refused at the start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest

from varserve_service.core.errors import ModelLoadError
from varserve_service.settings import Settings

from .looking import run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Functions that XLA can compile, and some that it cannot."""
    import tensorflow as tf

    class Module(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.scale = tf.Variable([1.0, 2.0], name="scale")
            self.count = tf.Variable(0, name="count")

        @tf.function(input_signature=[tf.TensorSpec([None, 2])])
        def score(self, x: Any) -> Any:
            return {"y": tf.tanh(x) * self.scale, "n": tf.shape(x)[0]}

        @tf.function(input_signature=[tf.TensorSpec([2])])
        def fixed(self, x: Any) -> Any:
            return x + self.scale

        @tf.function(input_signature=[tf.TensorSpec([], tf.int32)])
        def add(self, n: Any) -> Any:
            return self.count.assign_add(n)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def words(self, x: Any) -> Any:
            return tf.strings.length(x)

        @tf.function(input_signature=[tf.TensorSpec([None, None])])
        def wide(self, x: Any) -> Any:
            return x + 1.0

        @tf.function(input_signature=[tf.TensorSpec([2])])
        def shown(self, x: Any) -> Any:
            return tf.strings.as_string(x)

        @tf.function(input_signature=[tf.TensorSpec([2])])
        def digits(self, x: Any) -> Any:
            return tf.strings.length(tf.strings.as_string(x))

    path = tmp_path_factory.mktemp("xla") / "model"
    tf.saved_model.save(Module(), str(path))
    return path


def load(folder: Path, placement: Any, **xla: Sequence[int]) -> Any:
    from varserve_service import savedmodel

    return savedmodel.load("m", folder, placement=placement, xla=xla)


def function(model: Any, name: str) -> Any:
    return next(each for each in model.functions if each.spec.name == name)


def count_calls(found: Any) -> list[str]:
    """Which way each later call goes, as a list that grows."""
    went: list[str] = []

    def told(way: str, call: Any) -> Any:
        def count(inputs: Any, cancellation: Any = None) -> Any:
            went.append(way)
            return call(inputs, cancellation)

        return count

    from dataclasses import replace

    (callee,) = found.callees
    compiled = {
        shapes: replace(each, call=told("xla", each.call))
        for shapes, each in callee.compiled.items()
    }
    found.replace([replace(callee, call=told("plain", callee.call), compiled=compiled)])
    return went


def test_named_sizes_are_compiled_and_others_run_as_saved(folder: Path, placement: Any) -> None:
    """A call of a size that was named goes through XLA, another does not; the answers agree."""
    model, plain = load(folder, placement, score=[2, 5]), load(folder, placement)
    assert function(plain, "score").callees[0].compiled == {}
    went = count_calls(function(model, "score"))
    for rows in (2, 3, 5, 0, 2):
        x = np.random.default_rng(rows).standard_normal((rows, 2)).astype(np.float32)
        found, expected = (run(each, "score", x=x.copy()) for each in (model, plain))
        np.testing.assert_allclose(found["y"], expected["y"], rtol=1e-5)
        assert (int(found["n"]), found["y"].dtype) == (rows, np.float32)
    assert went == ["xla", "plain", "xla", "plain", "xla"]


def test_a_compiled_function_sees_what_is_assigned(folder: Path, placement: Any) -> None:
    """The variables that it reads are the live ones."""
    model = load(folder, placement, fixed=[])
    went = count_calls(function(model, "fixed"))
    x = np.ones(2, np.float32)
    (scale,) = (each for each in model.variables if each.spec.name == "scale")
    for value in ([1, 2], [5, 7]):
        scale.write(scale.stage(np.array(value, np.float32)))
        (y,) = run(model, "fixed", x=x.copy()).values()
        np.testing.assert_array_equal(y, np.array(value) + 1)
    assert went == ["xla", "xla"]


@pytest.mark.parametrize(
    ("name", "rows", "problem"),
    [
        ("add", [], "xla of 'add' of model 'm': it changes state"),
        ("words", [2], "its input 'x' is of strings"),
        ("wide", [2], "more than dimension 0 of 'x' is of any size"),
        ("score", [], "dimension 0 of 'x' is of any size; expected rows"),
        ("shown", [], "its output 'output_0' is of strings"),
        ("digits", [], "XLA says: .*AsString"),
        ("scores", [2], "there is no such function; expected one of: .*score"),
    ],
)
def test_what_cannot_be_compiled_is_refused_by_name(
    folder: Path, placement: Any, name: str, rows: list[int], problem: str
) -> None:
    """The load fails, and says which function and why."""
    with pytest.raises(ModelLoadError, match=problem):
        load(folder, placement, **{name: rows})


def test_sizes_are_checked() -> None:
    """A size below 1, and a setting that there is not, are refused with the settings."""
    good = Settings(xla={"m": {"f": {"rows": [1, 8]}}})
    assert good.xla["m"]["f"].rows == (1, 8)
    for wrong in ({"rows": [0]}, {"sizes": [1]}):
        with pytest.raises(pydantic.ValidationError):
            Settings(xla={"m": {"f": wrong}})
