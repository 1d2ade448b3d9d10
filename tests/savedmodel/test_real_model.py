"""basic-pitch, a real Keras 2 model with its optimizer; where `make` has fetched it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from varserve_service import savedmodel
from varserve_service.core.ports.loaded_model import FunctionKind, TensorSpec
from varserve_service.savedmodel import Placement

from .looking import function, names, run, variable

MODEL = Path(__file__).parents[2] / ".models" / "basic_pitch" / "1"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MODEL.is_dir(), reason="basic-pitch has not been fetched"),
]


def test_basic_pitch(placement: Placement) -> None:
    """All variables are there under distinct names; a kernel changed and put back changes notes."""
    pytest.importorskip("tf_keras")
    model = savedmodel.load("basic_pitch", MODEL, version=1, placement=placement)
    found = names(model)
    assert len(set(found.values())) == len(found)
    assert found["layer_with_weights-1/kernel"] == "conv2d_1/kernel"

    spec = function(model, "serving_default").spec
    (overload,) = spec.overloads
    assert spec.kind is FunctionKind.SIGNATURE
    assert [(i.name, i.kind) for i in overload.inputs] == [
        ("input_2", TensorSpec("float32", (None, 43844, 1)))
    ]
    assert sorted(o.name for o in overload.outputs) == ["contour", "note", "onset"]
    assert overload.writes == ()
    assert "layer_with_weights-1/kernel" in overload.reads

    audio = np.sin(np.arange(43844, dtype=np.float32) * (2 * np.pi * 440 / 22050))
    audio = audio.astype(np.float32).reshape(1, 43844, 1)
    before = run(model, "serving_default", input_2=audio)["note"]
    kernel = variable(model, "layer_with_weights-1/kernel")
    held = kernel.read()
    kernel.write(kernel.stage(np.zeros(held.shape, np.float32)))
    assert not np.array_equal(run(model, "serving_default", input_2=audio)["note"], before)
    kernel.write(held)
    again = run(model, "serving_default", input_2=audio)["note"]
    np.testing.assert_array_equal(again, before)
