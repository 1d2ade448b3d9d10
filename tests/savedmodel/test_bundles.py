"""Checkpoints as the command line reads them, against TensorFlow's own reading."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests import saved_models
from varserve import content_hash
from varserve._client.stored.bundles import Bundle, BundleError
from varserve_service.core.ports.loaded_model import LoadedModel

MODELS = ["counter", "every_dtype", "keras_2", "keras_3", "nested", "strings_and_ints", "tf1"]


def variables(root: Path, name: str) -> Path:
    return saved_models.build(name, root) / "variables" / "variables"


@pytest.mark.parametrize("name", MODELS)
def test_as_tensorflow_reads_it(name: str, models_root: Path) -> None:
    """Every tensor of a SavedModel is what TensorFlow finds there."""
    prefix = variables(models_root, name)
    reader = tf.train.load_checkpoint(str(prefix))
    bundle = Bundle(prefix.with_name("variables.index"))
    expected = set(reader.get_variable_to_dtype_map()) - {"_CHECKPOINTABLE_OBJECT_GRAPH"}
    assert set(bundle.keys) == expected
    for key in bundle.keys:
        found, there = bundle.read(key), reader.get_tensor(key)
        assert (found.shape, found.tolist()) == (np.shape(there), np.asarray(there).tolist())


@pytest.mark.parametrize("name", [name for name in MODELS if name != "tf1"])
def test_every_variable_is_found(
    name: str, models_root: Path, load: Callable[[str], LoadedModel]
) -> None:
    """A loaded model's variables are found by path or name, and have their first values."""
    bundle = Bundle(variables(models_root, name).with_name("variables.index"))
    graph = bundle.graph()
    assert graph is not None
    model = load(name)
    assert model.variables
    for variable in model.variables:
        key = graph.key_of(variable.spec.path, variable.spec.name)
        assert key is not None, variable.spec
        if variable.is_initialized():
            live = variable.read().numpy()
            assert content_hash(bundle.read(key)) == content_hash(live), variable.spec


def test_a_checkpoint_of_several_shards_and_blocks(tmp_path: Path) -> None:
    """A table of many blocks, and keys that share their beginnings."""
    module = tf.Module()
    module.v = [tf.Variable(tf.range(n, dtype=tf.int32)) for n in range(500)]
    path = tf.train.Checkpoint(module).write(str(tmp_path / "many"))
    bundle = Bundle(Path(f"{path}.index"))
    graph = bundle.graph()
    assert graph is not None
    for n in range(500):
        key = graph.key_of(f"v/{n}", "")
        assert key is not None
        assert bundle.read(key).tolist() == list(range(n))
    assert graph.key_of("v/500", "") is None
    assert graph.key_of("", "") is None


def test_damage_is_told(models_root: Path, tmp_path: Path) -> None:
    """Whatever byte is changed or missing, it is told, or what is read is what was written."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    choose = random.Random(seed)
    folder = tmp_path / "copy"
    shutil.copytree(variables(models_root, "every_dtype").parent, folder)
    index, data = folder / "variables.index", folder / "variables.data-00000-of-00001"
    good = Bundle(index)
    expected = {key: content_hash(good.read(key)) for key in good.keys}
    told = 0
    for turn in range(400):
        file = index if turn % 2 else data
        content = bytearray(whole := file.read_bytes())
        if choose.random() < 0.2:
            del content[choose.randrange(len(content)) :]
        else:
            content[choose.randrange(len(content))] ^= 1 << choose.randrange(8)
        file.write_bytes(content)
        try:
            bundle = Bundle(index)
            bundle.graph()
            found = {key: content_hash(bundle.read(key)) for key in bundle.keys}
            assert found == expected
        except BundleError as error:
            told += str(folder) in str(error)
        file.write_bytes(whole)
    assert told >= 200
