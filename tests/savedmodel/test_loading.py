"""What an operator is told when a SavedModel cannot be loaded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf

from tests import saved_models
from tests.serving import serve_here
from varserve import tensors
from varserve.v1 import model_service_pb2 as pb
from varserve.v1 import model_service_pb2_grpc
from varserve_service import savedmodel
from varserve_service.core.errors import ModelLoadError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import LoadedModel, Omission, OmissionKind
from varserve_service.repository import is_complete
from varserve_service.rpc import BatchOptions
from varserve_service.rpc.messages import translate
from varserve_service.savedmodel import Placement, configure_devices, loader

from .looking import run

Load = Callable[[str], LoadedModel]


def refused(path: Path, placement: Placement) -> str:
    with pytest.raises(ModelLoadError) as caught:
        savedmodel.load("m", path, placement=placement)
    return str(caught.value)


def test_no_folder(tmp_path: Path, placement: Placement) -> None:
    """A path that is no folder is said to be none."""
    path = tmp_path / "nothing"
    assert refused(path, placement) == f"model 'm': {path} is not a folder"


def test_no_saved_model(tmp_path: Path, placement: Placement) -> None:
    """A folder without a SavedModel is said to hold none."""
    assert refused(tmp_path, placement) == f"model 'm': {tmp_path} holds no saved_model.pb"


def test_damaged_model(tmp_path: Path, placement: Placement) -> None:
    """A damaged saved_model.pb is refused in one line."""
    (tmp_path / "saved_model.pb").write_bytes(b"\xff\x00 no protobuf")
    message = refused(tmp_path, placement)
    assert message.startswith("model 'm': ")
    assert str(tmp_path) in message
    assert "\n" not in message


def test_missing_values(tmp_path: Path, models_root: Path, placement: Placement) -> None:
    """A SavedModel without its variables' values is refused, not served without them."""
    path = tmp_path / "copy"
    shutil.copytree(saved_models.build("counter", models_root), path)
    shutil.rmtree(path / "variables")
    message = refused(path, placement)
    assert message.startswith(f"model 'm': TensorFlow cannot load {path}: ")
    assert "\n" not in message


def test_what_is_loaded(models_root: Path, placement: Placement) -> None:
    """A loaded model knows its name, its version and its device."""
    path = saved_models.build("counter", models_root)
    model = savedmodel.load("m", path, version=7, placement=placement)
    assert (model.name, model.version, model.device) == ("m", 7, "CPU:0")


@pytest.mark.parametrize("device", ["tpu", "gpu", "gpu:x", "cpu:1", ""])
def test_device_that_is_none(device: str) -> None:
    """A device that is not auto, cpu or gpu:N is refused by its name."""
    with pytest.raises(ValueError) as caught:
        configure_devices(device)
    assert str(caught.value) == f"device: expected auto, cpu or gpu:N, found {device!r}"


def test_gpu_that_is_not_there() -> None:
    """A GPU that this machine does not have is refused, saying what there is."""
    with pytest.raises(ModelLoadError) as caught:
        configure_devices("gpu:97")
    assert str(caught.value).startswith("device gpu:97 is not there; found ")


def test_tags(models_root: Path, placement: Placement) -> None:
    """The tags say which graph is loaded; where they are not clear, all that there are are told."""
    path = saved_models.build("two_graphs", models_root)
    message = refused(path, placement)
    assert "[gpu, serve], [train]" in message
    assert "`loading`" in message
    x = np.array([1], np.float32)
    model = savedmodel.load("m", path, placement=placement, tags=["serve", "gpu"])
    assert run(model, "serving_default", x=x)["y"].tolist() == [2]
    with pytest.raises(
        ModelLoadError, match=r"no graph with the tags \[tpu\]; it has \[gpu, serve\]"
    ):
        savedmodel.load("m", path, placement=placement, tags=["tpu"])


def test_the_only_graph_is_loaded_whatever_its_tags(tmp_path: Path, placement: Placement) -> None:
    """A SavedModel with one graph needs no tags, also where these are not `serve`."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        saver = v1.saved_model.Builder(str(tmp_path / "m"))
        saver.add_meta_graph_and_variables(session, ["odd"], signature_def_map={})
        saver.save()
    assert savedmodel.load("m", tmp_path / "m", placement=placement).functions == ()


def test_an_op_library_that_is_not_there(models_root: Path, placement: Placement) -> None:
    """A library of operations that cannot be loaded is named."""
    path = saved_models.build("counter", models_root)
    library = Path("/nowhere/ops.so")
    with pytest.raises(ModelLoadError, match=r"op library /nowhere/ops\.so cannot be loaded: "):
        savedmodel.load("m", path, placement=placement, op_libraries=[library])


def test_the_cause_is_told(tmp_path: Path, placement: Placement) -> None:
    """What fails while loading runs the model's own code is told with its cause."""

    asset = tmp_path / "words.txt"
    asset.write_text("a\nb\n")
    module = tf.Module()
    module.table = tf.lookup.StaticHashTable(
        tf.lookup.TextFileInitializer(
            str(asset),
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        ),
        -1,
    )
    tf.saved_model.save(module, str(tmp_path / "m"))
    (tmp_path / "m" / "assets" / "words.txt").unlink()
    message = refused(tmp_path / "m", placement)
    assert "words.txt" in message
    assert not message.endswith("error:")


def test_outputs_of_any_shape(models_root: Path, placement: Placement) -> None:
    """A tensor without elements becomes bytes, also of sizes that no array of numpy can have."""
    model = savedmodel.load("m", saved_models.build("shapes", models_root), placement=placement)
    for name in ("empty", "words"):
        stage = next(f for f in model.functions if f.spec.name == name).stage
        value = stage(0, {"n": np.array(2**31 - 1, np.int64)})()["output_0"]
        assert value.shape == (0, 2**31 - 1, 2**31 - 1, 2**31 - 1)
        assert list(translate.tensor(value).shape) == list(value.shape)
        assert value.nbytes == 0


def test_batched_outputs_of_any_shape(load: Callable[[str], LoadedModel]) -> None:
    """Each call of a batch gets its own rows of what has none to copy, as it would alone."""
    live = LiveModel(load("shapes"))
    batching = {(live.name, "rows"): BatchOptions(max_rows=8, max_delay=0.2)}
    with (
        serve_here(live, batching=batching) as address,
        grpc.insecure_channel(address) as channel,
    ):
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        calls = []
        for rows in (1, 2):
            x = tensors.to_tensor(np.full(rows, rows, np.float32))
            request = pb.RunFunctionRequest(model=live.name, function="rows", inputs={"x": x})
            calls.append(stub.RunFunction.future(request, timeout=60))
        for rows, call in zip((1, 2), calls, strict=True):
            outputs = {output.name: output.tensor for output in call.result().outputs}
            assert list(outputs["empty"].shape) == [rows, 0, 2**31 - 1, 2**31 - 1]
            assert list(outputs["words"].shape) == [rows, 0, 2**31 - 1]
            assert tensors.from_tensor(outputs["x"]).tolist() == [rows] * rows


def test_the_index_says_how_many_shards_there_are(tmp_path: Path, models_root: Path) -> None:
    """Shards that an earlier checkpoint left are none of it; a missing one is missed."""
    path = tmp_path / "m"
    shutil.copytree(saved_models.build("counter", models_root), path)
    assert is_complete(path)
    (path / "variables" / "variables.data-00000-of-00003").write_bytes(b"stale")
    assert is_complete(path)
    (path / "variables" / "variables.data-00000-of-00001").unlink()
    assert not is_complete(path)


def test_what_is_left_out_is_summed_up(caplog: pytest.LogCaptureFixture) -> None:
    """Of many copies of variables the log has a few lines, and their number."""
    copies = [Omission(OmissionKind.VARIABLE, f"all/{n}", "it is a copy") for n in range(40)]
    with caplog.at_level("INFO", logger=loader.__name__):
        loader.tell_omissions("m", [*copies, Omission(OmissionKind.FUNCTION, "f", "a variant")])
    assert [record.getMessage() for record in caplog.records] == [
        *(f"model 'm': variable all/{n} is left out: it is a copy" for n in range(3)),
        "model 'm': 37 more variables are left out; `varserve ls m --json` lists them",
        "model 'm': function f is left out: a variant",
    ]
