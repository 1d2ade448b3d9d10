"""Files that Keras 2 and Keras 3 write, loaded into what each exported, without Keras."""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest

import varserve
import varserve.aio
from tests.cli.conftest import document, invoke
from tests.serving import serve_here
from varserve._client.stored import open_stored
from varserve_service import savedmodel
from varserve_service.core.model.live_model import LiveModel
from varserve_service.savedmodel import Placement

X = np.random.default_rng(7).normal(size=(2, 6, 4)).astype(np.float32)


def made(kind: str, seed: int) -> Any:
    """Layers in layers, layers of equal shapes, and weights that are not trained."""
    keras = importlib.import_module(kind)
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    x = layers.Input((6, 4))
    y = layers.Dense(4, name="first")(x)
    y = layers.Dense(4, name="second")(y)
    if kind == "keras":
        y = layers.MultiHeadAttention(2, 3, name="attention")(y, y)
    y = layers.Bidirectional(layers.LSTM(3), name="both_ways")(y)
    y = layers.BatchNormalization(name="norm")(y)
    inside = [layers.Input((6,)), layers.Dense(6), layers.Dense(5)]
    y = keras.Sequential(inside, name="inside")(y)
    y = layers.Dropout(0.5)(y)
    model = keras.Model(x, layers.Dense(2, name="out")(y))
    model.compile("adam", "mse")
    return model


class Served(NamedTuple):
    """A service of what a Keras exported; `trained` is the same model with other weights."""

    kind: str
    trained: Any
    address: str


@pytest.fixture(scope="module", params=["keras", "tf_keras"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, placement: Placement
) -> Iterator[Served]:
    import tensorflow as tf

    kind = request.param
    folder = tmp_path_factory.mktemp(kind)
    if kind == "keras":
        made(kind, 1).export(str(folder / "m"), verbose=False)
    else:
        tf.saved_model.save(made(kind, 1), str(folder / "m"))
    trained = made(kind, 2)
    trained.fit(X, np.ones((2, 2)), epochs=2, verbose=0)
    loaded = savedmodel.load("m", folder / "m", placement=placement)
    with serve_here(LiveModel(loaded)) as address:
        yield Served(kind, trained, address)


@pytest.fixture
def model(served: Served) -> Iterator[varserve.Model]:
    with varserve.connect(served.address) as client:
        model = client.model("m")
        first = model.revision
        yield model
        model.refresh()
        if model.revision != first:
            model.revert(first)


def saved(served: Served, folder: Path, name: str) -> Path:
    path = folder / name
    if name.endswith(".weights.h5"):
        served.trained.save_weights(path)
    else:
        served.trained.save(path)
    return path


def predicted(model: varserve.Model) -> Any:
    (outputs,) = model.functions["serving_default"](X).values()
    return outputs


@pytest.mark.parametrize("name", ["m.keras", "m.h5", "m.weights.h5"])
def test_the_service_predicts_as_the_model_that_was_saved(
    served: Served, model: varserve.Model, tmp_path: Path, name: str
) -> None:
    """One commit sets all weights, and the optimizer's are left alone; nothing differs any more."""
    path = saved(served, tmp_path, name)
    if (served.kind, name) == ("tf_keras", "m.weights.h5"):
        with pytest.raises(varserve.InvalidRequest, match="layers/bidirectional"):
            model.load(path)  # it says no names: see below
        return
    expected = served.trained.predict(X, verbose=0)
    assert not np.allclose(predicted(model), expected, atol=1e-3)
    count = len(served.trained.weights)
    before = model.revision
    own = [n for n in model.variables if not n.lower().startswith("adam")]
    differ = model.diff(path, own)
    assert len([each for each in differ.variables if each.what == "value"]) >= count // 2
    commit = model.load(path)
    assert commit.revision == before + 1
    assert model.commits(limit=1)[0].variable_count == count
    np.testing.assert_allclose(predicted(model), expected, rtol=1e-4, atol=1e-5)
    assert {each.what for each in model.diff(path, own).variables} <= {"absent"}


def test_files_that_say_no_names_are_loaded_by_shapes_that_are_unique(
    served: Served, model: varserve.Model, tmp_path: Path
) -> None:
    """A layer of which no other has the shapes is told by them; the refusal names the others."""
    path = saved(served, tmp_path, "m.weights.h5")
    with h5py.File(path, "r+") as file:

        def forget(_: str, group: Any) -> None:
            group.attrs.pop("name", None)

        file.visititems(forget)
    matched = open_stored(path).match({name: v.spec for name, v in model.variables.items()})
    assert matched["out/kernel"].key.startswith("layers/dense")
    assert "norm/moving_variance" in matched
    assert not {"first/kernel", "second/bias"} & matched.keys()
    with pytest.raises(varserve.InvalidRequest, match=r"no variable fits 1[06] tensors") as caught:
        model.load(path)
    assert "names" in caught.value.message
    names = {
        f"layers/{layer}/vars/{number}": f"{name}/{leaf}"
        for layer, name in (("dense", "first"), ("dense_1", "second"))
        for number, leaf in enumerate(("kernel", "bias"))
    }
    model.load(path, names=names, ignore_unknown=True)
    second = served.trained.get_layer("second").get_weights()
    assert np.array_equal(model.variables["second/kernel"].numpy(), second[0])


def test_files_of_older_keras_3_are_named_by_their_configuration(
    served: Served, model: varserve.Model, tmp_path: Path
) -> None:
    """Layers of the model, and of a model in it, have their names in `config.json`."""
    path = saved(served, tmp_path, "m.keras")
    older = tmp_path / "older.keras"
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(older, "w") as written:
        for name in ("config.json", "metadata.json"):
            written.writestr(name, archive.read(name))
        (tmp_path / "w.h5").write_bytes(archive.read("model.weights.h5"))
        with h5py.File(tmp_path / "w.h5", "r+") as file:
            file.visititems(lambda _, group: group.attrs.pop("name", None) and None)
        written.write(tmp_path / "w.h5", "model.weights.h5")
    matched = open_stored(older).match({name: v.spec for name, v in model.variables.items()})
    kernels = {name: tensor.load() for name, tensor in matched.items() if "dense" in name}
    inner = served.trained.get_layer("inside").get_weights()
    assert sorted(map(np.shape, kernels.values())) == sorted(map(np.shape, inner))
    for name in ("first", "second", "out", "norm"):
        own = served.trained.get_layer(name).get_weights()
        found = [tensor.load() for key, tensor in matched.items() if key.startswith(f"{name}/")]
        assert sorted(map(np.sum, found)) == sorted(map(np.sum, own))
    assert np.array_equal(
        matched["second/kernel"].load(), served.trained.get_layer("second").get_weights()[0]
    )


def test_lists_of_names_may_be_in_parts(
    served: Served, model: varserve.Model, tmp_path: Path
) -> None:
    """HDF5 has no room for long lists in one attribute: Keras numbers the parts of them."""
    path = saved(served, tmp_path, "m.h5")
    with h5py.File(path, "r+") as file:
        for group in [file["model_weights"], *file["model_weights"].values()]:
            for name in ("layer_names", "weight_names"):
                listed = group.attrs.pop(name, None)
                for number in range(0 if listed is None else len(listed)):
                    group.attrs[f"{name}{number}"] = listed[number : number + 1]
    assert model.load(path)
    np.testing.assert_allclose(
        predicted(model), served.trained.predict(X, verbose=0), rtol=1e-4, atol=1e-5
    )


async def test_awaited_and_by_command(served: Served, tmp_path: Path) -> None:
    """`save`, `load` and `diff` with `await`, and `pull`, `push` and `diff`, do the same."""
    path = saved(served, tmp_path, "m.h5")
    kept, again = tmp_path / "kept.safetensors", tmp_path / "again.safetensors"
    async with varserve.aio.connect(served.address) as client:
        model = await client.model("m")
        snapshot = await model.save(kept)
        assert not await model.diff(kept)
        commit = await model.load(path, message="trained")
        since = await model.diff(snapshot)
        assert {each.what for each in since.variables} == {"value"}
        assert len(since.variables) == len(served.trained.weights)
        assert (await model.diff(commit.revision)).equal == len(snapshot)
    invoke("-s", served.address, "pull", "m", str(again))
    told = document(invoke("-s", served.address, "diff", "m", str(kept), "--json", code=1))
    assert {each["variable"] for each in told["different"]} == {
        each.variable for each in since.variables
    }
    invoke("-s", served.address, "push", "m", str(kept))
    async with varserve.aio.connect(served.address) as client:
        model = await client.model("m")
        assert not await model.diff(snapshot)
        assert {each.variable for each in (await model.diff(again)).variables} == {
            each.variable for each in since.variables
        }


def test_a_file_that_is_none_of_keras_is_named(model: varserve.Model, tmp_path: Path) -> None:
    """Whatever is wrong with it, the refusal names the file, and nothing changes."""
    before = model.revision
    for name in ("no.keras", "no.h5", "no.weights.h5"):
        (tmp_path / name).write_bytes(b"nothing")
    with zipfile.ZipFile(tmp_path / "empty.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file["layers/dense/vars/0"] = np.ones(77)
    with zipfile.ZipFile(tmp_path / "other.keras", "w") as archive:
        archive.writestr("config.json", '{"config": {"layers": ["dense"]}}')
        archive.write(tmp_path / "weights.h5", "model.weights.h5")
    for path in tmp_path.iterdir():
        with pytest.raises(varserve.InvalidRequest, match=path.name):
            model.load(path)
    model.refresh()
    assert model.revision == before
