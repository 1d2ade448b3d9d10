"""Weights that are pushed to a real service while Keras 2 and Keras 3 train."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import varserve
from tests.serving import ServiceProcess
from varserve._training.pushing import Pusher

pytestmark = pytest.mark.slow

KINDS = ["keras", "tf_keras"]


def made(kind: str) -> Any:
    """A compiled model of that Keras, with layers that have state of their own."""
    keras = importlib.import_module(kind)
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.layers.Input((4,)),
            keras.layers.Dense(3, name="hidden"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dense(1, name="out"),
        ]
    )
    model.compile(optimizer="adam", loss="mse", metrics=["mae"])
    return model


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """Serves an export of each Keras."""
    import tensorflow as tf

    root = tmp_path_factory.mktemp("exports")
    made("keras").export(str(root / "keras" / "1"), verbose=False)
    tf.saved_model.save(made("tf_keras"), str(root / "tf_keras" / "1"))
    process = ServiceProcess(
        f"--model-repository={root}", log=tmp_path_factory.mktemp("service") / "log"
    )
    yield process
    process.close()


@pytest.fixture
def served(service: ServiceProcess) -> Iterator[varserve.Client]:
    with varserve.connect(service.address) as client:
        yield client


def data() -> tuple[Any, Any]:
    x = np.random.default_rng(5).normal(size=(64, 4)).astype(np.float32)
    return x, x.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("kind", KINDS)
def test_the_service_predicts_as_the_trained_model(kind: str, served: varserve.Client) -> None:
    """After the training the served function gives what the trained model gives."""
    module = importlib.import_module(f"varserve.{kind}")
    # Another model of the same layers: Keras 3 counts its name anew.
    trained = made(kind)
    model = served.model(kind)
    push = module.PushWeights(model, wait=30)
    x, y = data()
    before = model.revision
    trained.fit(x, y, epochs=3, batch_size=16, verbose=0, callbacks=[push])
    assert push.pusher.error is None
    assert push.pusher.pushed == 3
    model.refresh()
    assert model.revision == before + 3
    newest = model.commits(limit=1)[0]
    assert newest.info.message.startswith("epoch 3: loss ")
    (outputs,) = model.functions["serving_default"](x).values()
    np.testing.assert_allclose(outputs, trained.predict(x, verbose=0), rtol=1e-4, atol=1e-5)


def test_steps_and_trainable_weights_alone(served: varserve.Client) -> None:
    """Every so many batches; moving averages stay what they were served as."""
    from varserve.keras import PushWeights

    model = served.model("keras")
    push = PushWeights(model, every=2, trainable_only=True, wait=30, message="warm")
    before = model.revision
    x, y = data()
    made("keras").fit(x, y, epochs=1, batch_size=16, verbose=0, callbacks=[push])
    model.refresh()
    assert model.revision == before + 2
    commit = model.commits(limit=1)[0]
    assert commit.info.message == "warm"
    assert not any("moving" in name for name in commit.variables)
    assert commit.variable_count == 6


def test_a_model_that_is_not_the_served_one_is_refused_before_it_trains(
    served: varserve.Client,
) -> None:
    """Another shape is named at the beginning of the training, and nothing was pushed."""
    import keras

    from varserve.keras import PushWeights

    other = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(7, name="hidden")])
    other.compile(optimizer="sgd", loss="mse")
    model = served.model("keras")
    before = model.revision
    with pytest.raises(varserve.InvalidRequest, match=r"hidden/kernel has the shape \[4, 7\]"):
        other.fit(*data(), verbose=0, callbacks=[PushWeights(model)])
    model.refresh()
    assert model.revision == before


def test_a_service_that_is_away_does_not_end_the_training(service: ServiceProcess) -> None:
    """Pushes that fail are logged, and kept as `error`; the model trains to its end."""
    import keras

    from varserve.keras import PushWeights

    client = varserve.connect(service.address, retries=0)
    push = PushWeights(client.model("keras"), wait=30)
    cut = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: client.close())
    history = made("keras").fit(*data(), epochs=2, verbose=0, callbacks=[push, cut])
    assert len(history.history["loss"]) == 2
    assert isinstance(push.pusher.error, varserve.ClientClosed)
    assert push.pusher.pushed == 0


def test_only_the_newest_values_are_pushed(served: varserve.Client) -> None:
    """Values that come while a push is on its way replace those that wait."""
    model = served.model("keras")
    name = next(name for name in model.variables if name.endswith("out/bias"))
    pusher = Pusher(model)
    before = model.revision
    for value in range(200):
        pusher.push({name: np.array([value], np.float32)})
    pusher.close(60)
    model.refresh()
    assert model.variables[name].numpy() == 199
    assert pusher.pushed + pusher.skipped == 200
    assert model.revision == before + pusher.pushed


def test_somebody_elses_write_stops_a_push_that_wants_none(served: varserve.Client) -> None:
    """With `if_unchanged` the write of another is kept, and the push says so."""
    model = served.model("keras")
    name = next(name for name in model.variables if name.endswith("out/bias"))
    pusher = Pusher(model, if_unchanged=True)
    pusher.push({name: np.array([1], np.float32)})
    assert pusher.wait(30)
    model.variables[name].assign([5])
    pusher.push({name: np.array([2], np.float32)})
    pusher.close(30)
    assert isinstance(pusher.error, varserve.RevisionMismatch)
    assert model.variables[name].numpy() == 5
