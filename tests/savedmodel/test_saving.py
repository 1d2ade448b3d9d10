"""Saving: what is loaded again has the values of the moment, for every kind of model there is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.saved_models import BUILDERS
from varserve_service import savedmodel
from varserve_service.core.change.writes import Write
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.administration import SaveFormat
from varserve_service.core.ports.loaded_model import Operation
from varserve_service.core.ports.messages import Read
from varserve_service.lifecycle import SaveRoom
from varserve_service.settings import DENIED_OPERATIONS

KINDS = [
    name
    for name in BUILDERS
    if not name.startswith("large") and name not in ("tf1_random", "tf1_set_at_load", "two_graphs")
]


def live_of(folder: Path, placement: savedmodel.Placement) -> LiveModel:
    return LiveModel(savedmodel.load("m", folder, version=3, placement=placement))


def room_of(folder: Path) -> SaveRoom:
    return SaveRoom(
        folder,
        {
            SaveFormat.SAVED_MODEL: savedmodel.save_saved_model,
            SaveFormat.CHECKPOINT: savedmodel.save_checkpoint,
        },
    )


def values_of(live: LiveModel) -> dict[str, np.ndarray]:
    states = [state.spec for state in live.describe().variables if state.shape is not None]
    snapshot = live.read([Read(spec.path) for spec in states])
    return {
        spec.path: entry.value.numpy()  # type: ignore[union-attr]
        for spec, entry in zip(states, snapshot.entries, strict=True)
    }


def change_everything(live: LiveModel) -> None:
    """Each value becomes another one, as far as its dtype has another."""
    for path, value in values_of(live).items():
        if value.dtype.hasobject:
            changed = np.array([b"new" + each for each in value.flat], object).reshape(value.shape)
        elif value.dtype == bool:
            changed = ~value
        else:
            changed = value.astype(np.float64 if value.dtype.kind != "c" else value.dtype) + 1
            changed = changed.astype(value.dtype)
        live.assign([Write(path, Operation.SET, np.array(changed, order="C"))])


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_has_the_live_values(
    kind: str,
    model_folder: Callable[[str], Path],
    placement: savedmodel.Placement,
    tmp_path: Path,
) -> None:
    """A model of each kind, changed and saved, is the same again when it is loaded from there."""
    folder = model_folder(kind)
    live = live_of(folder, placement)
    change_everything(live)
    expected = values_of(live)
    saved = room_of(tmp_path).save(live, folder, "m/4", SaveFormat.SAVED_MODEL)
    assert saved.header == live.header
    assert saved.variables == len(expected)
    again = live_of(tmp_path / "m" / "4", placement)
    found = values_of(again)
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        assert found[path].dtype == value.dtype
        assert found[path].tobytes() == value.tobytes() or found[path].tolist() == value.tolist()
    assert [f.name for f in again.describe().functions] == [
        f.name for f in live.describe().functions
    ]
    note = json.loads((tmp_path / "m" / "4" / "varserve.json").read_text())
    assert (note["revision"], note["epoch"]) == (live.header.revision, live.header.epoch)


def test_a_checkpoint_has_the_keys_of_the_saved_model(
    model_folder: Callable[[str], Path], placement: savedmodel.Placement, tmp_path: Path
) -> None:
    """TensorFlow reads it, under the keys that the SavedModel's own checkpoint has."""
    folder = model_folder("counter")
    live = live_of(folder, placement)
    change_everything(live)
    room_of(tmp_path).save(live, folder, "ckpt", SaveFormat.CHECKPOINT)
    reader = tf.train.load_checkpoint(str(tmp_path / "ckpt" / "variables"))
    before = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    shapes = reader.get_variable_to_shape_map()
    assert shapes == before.get_variable_to_shape_map()
    for path, value in values_of(live).items():
        found = reader.get_tensor(f"{path}/.ATTRIBUTES/VARIABLE_VALUE")
        assert np.array_equal(found, value)


def test_without_the_saved_model_it_cannot_be_saved_as_one(
    model_folder: Callable[[str], Path], placement: savedmodel.Placement, tmp_path: Path
) -> None:
    """One that is gone, or is another one by now, is told, and nothing is left behind."""
    live = live_of(model_folder("counter"), placement)
    for source in (None, model_folder("embedding"), tmp_path / "nothing"):
        with pytest.raises(RequestError) as caught:
            room_of(tmp_path).save(live, source, "m", SaveFormat.SAVED_MODEL)
        assert caught.value.reason is Reason.SAVE_UNSUPPORTED
    assert list(tmp_path.iterdir()) == []


def test_a_value_that_the_saved_model_has_no_place_for_is_named(
    model_folder: Callable[[str], Path], placement: savedmodel.Placement, tmp_path: Path
) -> None:
    """A variable that got its first value while it was served is not in the checkpoint."""
    folder = model_folder("tf1_uninitialized")
    live = live_of(folder, placement)
    (unset,) = [state.spec for state in live.describe().variables if state.shape is None][:1]
    shape = [size or 1 for size in unset.shape or ()]
    live.assign([Write(unset.path, Operation.SET, np.zeros(shape, unset.dtype))])
    with pytest.raises(RequestError, match=f"no place for the values of {unset.name!r}"):
        room_of(tmp_path).save(live, folder, "m", SaveFormat.SAVED_MODEL)


@pytest.mark.parametrize("kind", KINDS)
def test_good_models_have_no_operation_that_is_denied(
    kind: str, model_folder: Callable[[str], Path]
) -> None:
    """The list that holds by default lets models of every kind pass."""
    if kind == "files":
        pytest.skip("its functions touch files on purpose")
    savedmodel.check_operations(kind, model_folder(kind), denied=DENIED_OPERATIONS)


def test_operations_are_found_before_anything_is_loaded(tmp_path: Path) -> None:
    """A model that writes a file, also in a function that another calls, is refused."""
    written = tmp_path / "written"

    class Writes(tf.Module):
        @tf.function(input_signature=[])
        def write(self) -> tf.Tensor:
            return self.inner()

        @tf.function(input_signature=[])
        def inner(self) -> tf.Tensor:
            tf.io.write_file(str(written), "x")
            tf.print("x", output_stream=f"file://{written}")
            return tf.constant(1)

    tf.saved_model.save(Writes(), str(tmp_path / "model"))
    with pytest.raises(
        RequestError, match=r"PrintV2:file \(in function '\w+'\), WriteFile"
    ) as caught:
        savedmodel.check_operations("m", tmp_path / "model", denied=DENIED_OPERATIONS)
    assert caught.value.reason is Reason.MODEL_NOT_ALLOWED
    with pytest.raises(RequestError, match="PrintV2:file"):
        savedmodel.check_operations("m", tmp_path / "model", allowed=["Const", "Identity", "NoOp"])
    assert not written.exists()


def test_what_touches_files_is_denied_by_name_of_the_setting(
    model_folder: Callable[[str], Path],
) -> None:
    """Each operation of files in a function that can be called is named, with the setting."""
    folder = model_folder("files")
    with pytest.raises(RequestError, match="the setting denied_operations") as caught:
        savedmodel.check_operations("m", folder, denied=DENIED_OPERATIONS)
    for op, function in (("Save", "save"), ("Restore", "restore"), ("CacheDatasetV2", "cached")):
        assert f"{op} (in function {function!r})" in caught.value.message
    allowed = [f"-{op}" for op in ("Save", "Restore", "CacheDatasetV2", "MatchingFiles")]
    savedmodel.check_operations("m", folder, denied=[*DENIED_OPERATIONS, *allowed])


def test_a_pipeline_that_nobody_can_call_does_not_count(tmp_path: Path) -> None:
    """Of a graph in TensorFlow 1 format, only what signatures and loading need counts."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None])
        read = tf.io.matching_files("/nowhere/*")
        y = x * 2
        saver = v1.saved_model.Builder(str(tmp_path / "model"))
        info = v1.saved_model.build_tensor_info
        signature = v1.saved_model.build_signature_def({"x": info(x)}, {"y": info(y)}, "p")
        listed = v1.saved_model.build_signature_def({}, {"files": info(read)}, "p")
        saver.add_meta_graph_and_variables(
            session, ["serve"], signature_def_map={"serving_default": signature}
        )
        saver.save()
        other = v1.saved_model.Builder(str(tmp_path / "other"))
        other.add_meta_graph_and_variables(session, ["serve"], signature_def_map={"ls": listed})
        other.save()
    savedmodel.check_operations("m", tmp_path / "model", denied=DENIED_OPERATIONS)
    with pytest.raises(RequestError, match=r"MatchingFiles \(in signature 'ls'\)"):
        savedmodel.check_operations("m", tmp_path / "other", denied=DENIED_OPERATIONS)


def test_what_loading_sets_is_not_lost_in_silence(
    model_folder: Callable[[str], Path], placement: savedmodel.Placement, tmp_path: Path
) -> None:
    """A variable that the model sets when it is loaded is named; the fingerprint has the graph."""
    folder = model_folder("tf1_set_at_load")
    live = live_of(folder, placement)
    assert values_of(live)["w"] == 5
    with pytest.raises(RequestError, match="sets 'w', so that a copy of it would lose"):
        room_of(tmp_path).save(live, folder, "m", SaveFormat.SAVED_MODEL)
    assert room_of(tmp_path).save(live, folder, "c", SaveFormat.CHECKPOINT).variables == 2
    assert live.fingerprint == live_of(folder, placement).fingerprint
    assert live.fingerprint.partition("-")[2]
