"""Models of MLflow: what a version or a run has, as a SavedModel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from varserve.fetching.errors import FetchError

_EXPORT = """
import sys
import keras
keras.saving.load_model(sys.argv[1], safe_mode=True).export(sys.argv[2], verbose=False)
"""
_EXPORT_SECONDS = 600


def saved_model_of(uri: str, folder: Path) -> Path:
    """Download what a URI of MLflow names into a folder; the SavedModel in it. Raises FetchError.

    The tracking server is the one of MLFLOW_TRACKING_URI. A Keras 3 model is exported by a process
    of its own, which needs keras and TensorFlow: of this Python, or of VARSERVE_KERAS_PYTHON.
    """
    from mlflow.artifacts import download_artifacts

    try:
        downloaded = Path(download_artifacts(artifact_uri=uri, dst_path=str(folder / "model")))
    except Exception as error:
        raise FetchError(f"{uri}: {str(error).strip().splitlines()[0][:300]}") from None
    if (downloaded / "saved_model.pb").exists():
        return downloaded
    flavors = _flavors(downloaded)
    tensorflow = flavors.get("tensorflow", {})
    for candidate in (str(tensorflow.get("saved_model_dir", "")), "tf2model"):
        if (downloaded / candidate / "saved_model.pb").exists():
            return downloaded / candidate
    for path in sorted(downloaded.rglob("*.keras")):
        return _exported(path, folder / "exported")
    found = next(iter(sorted(downloaded.rglob("saved_model.pb"))), None)
    if found is not None:
        return found.parent
    raise FetchError(
        f"{uri}: expected a model of the flavor tensorflow or keras, found "
        f"{', '.join(flavors) or 'no MLmodel'}"
    )


def version_of(uri: str) -> int:
    """The number of the version that `models:/NAME@ALIAS` or `models:/NAME/VERSION` means now.

    Raises FetchError.
    """
    from mlflow import MlflowClient

    name, at, alias = uri.removeprefix("models:/").partition("@")
    try:
        if at:
            return int(MlflowClient().get_model_version_by_alias(name, alias).version)
        return int(uri.rpartition("/")[2])
    except Exception as error:
        raise FetchError(f"{uri}: {str(error).strip().splitlines()[0][:300]}") from None


def _flavors(folder: Path) -> dict[str, Any]:
    try:
        described = yaml.safe_load((folder / "MLmodel").read_text())
        flavors: dict[str, Any] = described["flavors"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return {}
    return flavors


def _exported(path: Path, folder: Path) -> Path:
    """The SavedModel that Keras makes of a file. Raises FetchError."""
    python = os.environ.get("VARSERVE_KERAS_PYTHON") or sys.executable
    try:
        result = subprocess.run(
            [python, "-c", _EXPORT, path, folder],
            capture_output=True,
            text=True,
            check=False,
            timeout=_EXPORT_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FetchError(f"{path.name}: {python} cannot export it: {error}") from None
    if result.returncode:
        cause = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        hint = (
            "; VARSERVE_KERAS_PYTHON names a Python that has keras and TensorFlow"
            if "No module named" in cause
            else ""
        )
        raise FetchError(f"{path.name}: Keras cannot export it: {cause[:300]}{hint}")
    return folder
