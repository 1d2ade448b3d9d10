"""Loaded models for the tests of the TensorFlow room: built once a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import saved_models
from varserve_service import savedmodel
from varserve_service.core.ports.loaded_model import LoadedModel
from varserve_service.savedmodel import Placement, configure_devices


@pytest.fixture(scope="session")
def placement() -> Placement:
    return configure_devices("cpu")


@pytest.fixture(scope="session")
def models_root(tmp_path_factory: pytest.TempPathFactory, placement: Placement) -> Path:
    # After the placement: building a model is a first use of TensorFlow.
    return tmp_path_factory.mktemp("saved_models")


@pytest.fixture
def load(models_root: Path, placement: Placement) -> Callable[[str], LoadedModel]:
    """Build a model of tests.saved_models by name, and load it afresh."""

    def loaded(name: str) -> LoadedModel:
        path = saved_models.build(name, models_root)
        return savedmodel.load(name, path, placement=placement)

    return loaded
