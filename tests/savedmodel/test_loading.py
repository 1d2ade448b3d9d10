"""What an operator is told when a SavedModel cannot be loaded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import saved_models
from varserve_service import savedmodel
from varserve_service.core.errors import ModelLoadError
from varserve_service.core.ports.loaded_model import LoadedModel
from varserve_service.savedmodel import Placement, configure_devices

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
