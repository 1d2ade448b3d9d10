"""basic-pitch from the inside; where `make` has fetched it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from varserve_service import savedmodel
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.inspection.ports import Patch, PatchKind
from varserve_service.core.ports.loaded_model import LoadedModel
from varserve_service.savedmodel import Placement
from varserve_service.savedmodel.inspection import SavedInspector

from .looking import run, variable
from .looking_inside import catalogue, look

MODEL = Path(__file__).parents[2] / ".models" / "basic_pitch" / "1"
KERNEL = "layer_with_weights-1/kernel"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MODEL.is_dir(), reason="basic-pitch has not been fetched"),
]


@pytest.fixture(scope="module")
def model(placement: Placement) -> LoadedModel:
    pytest.importorskip("tf_keras")
    return savedmodel.load("basic_pitch", MODEL, version=1, placement=placement)


@pytest.fixture(scope="module")
def audio() -> dict[str, Any]:
    noise = np.random.default_rng(3).normal(0, 0.1, (1, 43844, 1))
    return {"input_2": noise.astype(np.float32)}


def test_names(model: LoadedModel) -> None:
    """Layers are found by the names that Keras gave them."""
    found = catalogue(model, "serving_default")
    bias = found.tensors[found.find("model_1/conv2d_1/BiasAdd")]
    assert (bias.op, bias.dtype, bias.shape) == ("BiasAdd", "float32", (None, 172, 264, 8))
    assert bias.variables == ("layer_with_weights-1/bias",)


def test_what_a_kernel_leaves_unwritten_is_not_listed(model: LoadedModel) -> None:
    """Outputs that are for a gradient alone have what the memory had: they would always differ."""
    found = catalogue(model, "serving_default")
    norms = [each.name for each in found.tensors if each.op == "FusedBatchNormV3"]
    assert "model_1/batch_normalization_2/FusedBatchNormV3" in norms
    assert "model_1/batch_normalization_2/FusedBatchNormV3:1" in norms
    assert [name for name in norms if name[-2:] in (":3", ":4", ":5")] == []


def test_what_if_is_what_an_assign_would_do(model: LoadedModel, audio: dict[str, Any]) -> None:
    """Outputs with an assumed kernel equal those after really assigning it, bit for bit."""
    before = run(model, "serving_default", **audio)
    kernel = variable(model, KERNEL)
    held = kernel.read()
    half = np.asarray(held.numpy() * np.float32(0.5))
    assumed = look(model, "serving_default", audio, assume={KERNEL: half}).outputs
    np.testing.assert_array_equal(kernel.read().numpy(), held.numpy())
    for name, value in run(model, "serving_default", **audio).items():
        np.testing.assert_array_equal(value, before[name])
    kernel.write(kernel.stage(half.copy()))
    assigned = run(model, "serving_default", **audio)
    kernel.write(held)
    for name, value in assigned.items():
        np.testing.assert_array_equal(assumed[name].numpy(), value)


def test_the_gradient_is_that_of_tensorflow(model: LoadedModel, audio: dict[str, Any]) -> None:
    """The gradient of the contour's sum by the input, as TensorFlow's own tape has it."""
    import tensorflow as tf

    seen = look(model, "serving_default", audio, gradients_of="contour", wrt=["input_2"])
    value = seen.gradients[0].value
    assert value is not None
    loaded = tf.saved_model.load(str(MODEL))
    signature = loaded.signatures["serving_default"]
    x = tf.constant(audio["input_2"])
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(signature(input_2=x)["contour"])
    expected = tape.gradient(total, x).numpy()
    largest = float(np.abs(expected).max())
    assert largest == pytest.approx(1246.8, abs=0.1)
    np.testing.assert_allclose(value.numpy(), expected, atol=1e-3 * largest)


def test_a_patch_of_another_rank_ends_nothing(model: LoadedModel, audio: dict[str, Any]) -> None:
    """A patch of rank 3 into a convolution is refused, and the next run is right."""
    relu = "model_1/re_lu_1/Relu"
    patch = Patch(PatchKind.VALUE, value=np.zeros((172, 264, 8), np.float32))
    with pytest.raises(RequestError) as failed:
        look(model, "serving_default", audio, patches={relu: patch})
    assert failed.value.reason is Reason.SHAPE_MISMATCH
    half = look(model, "serving_default", audio, patches={relu: Patch(PatchKind.SCALE, 0.5)})
    assert not np.array_equal(
        half.outputs["note"].numpy(), run(model, "serving_default", **audio)["note"]
    )


def test_probes_that_come_again(
    model: LoadedModel, audio: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third time a rebuilt function gives them, without the interpreter, and alike.

    What both take beside a plain run is measured in `benchmarks/families/inspecting.py`.
    """
    tensors = catalogue(model, "serving_default").tensors
    floats = [each.name for each in tensors if each.dtype == "float32" and each.op != "Const"]
    asked = floats[:: len(floats) // 47][:47]
    first = look(model, "serving_default", audio, probes=asked)
    look(model, "serving_default", audio, probes=asked)

    def interpreted(*_: Any) -> Any:
        raise AssertionError("the interpreter ran")

    monkeypatch.setattr(SavedInspector, "_interpret", interpreted)
    again = look(model, "serving_default", audio, probes=asked)
    assert [probe.name for probe in again.probes] == [probe.name for probe in first.probes]
    assert len(again.probes) == 47
    plain = run(model, "serving_default", **audio)
    for name, value in plain.items():
        np.testing.assert_allclose(again.outputs[name].numpy(), value, atol=1e-6)
    for one, other in zip(first.probes, again.probes, strict=True):
        assert one.value is not None
        assert other.value is not None
        np.testing.assert_allclose(one.value.numpy(), other.value.numpy(), rtol=1e-3, atol=1e-4)


def test_everything_is_probed(model: LoadedModel, audio: dict[str, Any]) -> None:
    """A pattern gives all that the model computes, once each, in an order of computation."""
    seen = look(model, "serving_default", audio, probes=["*"])
    expected = [each.name for each in catalogue(model, "serving_default").tensors]
    assert [probe.name for probe in seen.probes] == expected
    assert len(expected) > 600
