"""What a path holds that somebody wants to serve, and what to type where that is no SavedModel.

Looks at names of files; opens none.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

_SAVED_MODEL = ("saved_model.pb", "saved_model.pbtxt")
_OTHER_FRAMEWORKS = {
    ".onnx": "an ONNX model",
    ".pt": "a PyTorch file",
    ".pth": "a PyTorch file",
    ".tflite": "a TensorFlow Lite model, which has no variables",
    ".mlmodel": "a Core ML model",
    ".pkl": "a pickle",
}
_SHOWN = 3


def is_saved_model(path: Path) -> bool:
    """Whether a folder is a SavedModel."""
    return any((path / name).is_file() for name in _SAVED_MODEL)


def versions_in(path: Path) -> list[int]:
    """Versions that a folder of one model has, in order."""
    return sorted(
        int(each.name) for each in _folders(path) if each.name.isdecimal() and is_saved_model(each)
    )


def models_in(path: Path) -> list[str]:
    """Models that a model repository has, in order; none where it is no repository."""
    return sorted(each.name for each in _folders(path) if versions_in(each))


def model_name(path: Path) -> str:
    """What a SavedModel's folder is called: of NAME/VERSION the name."""
    path = path.resolve()
    return path.parent.name if path.name.isdecimal() else path.name


def problem(path: Path) -> str | None:
    """Why a path cannot be served as a SavedModel, and what to type; None when it is one."""
    if is_saved_model(path):
        return None
    if not path.exists():
        return (
            f"{path} is not there; expected the folder of a SavedModel, or one of models, "
            f"NAME/VERSION/saved_model.pb{_similar(path)}"
        )
    return _file_problem(path) if path.is_file() else _folder_problem(path)


def _file_problem(path: Path) -> str:
    suffix = path.suffix.lower()
    if path.name in _SAVED_MODEL:
        return f"{path} is a file of a SavedModel; give its folder, {path.parent}"
    if path.name.endswith(".weights.h5"):
        return (
            f"{path} has the weights of a Keras model and no functions; in Python, load it into "
            "the model with model.load_weights(...), and write a SavedModel with "
            "model.export(FOLDER)"
        )
    if suffix in (".keras", ".h5", ".hdf5"):
        return (
            f"{path} is a Keras model file; write a SavedModel of it in Python: "
            f"keras.saving.load_model({str(path)!r}).export(FOLDER)"
        )
    if suffix == ".safetensors":
        return (
            f"{path} has values and no functions; serve a SavedModel, and load the values into it "
            f"with varserve push MODEL {path}"
        )
    if suffix in _OTHER_FRAMEWORKS:
        return f"{path} is {_OTHER_FRAMEWORKS[suffix]}; only TensorFlow SavedModels can be served"
    return f"{path} is a file; expected the folder of a SavedModel, which has a saved_model.pb"


def _folder_problem(path: Path) -> str:
    names = sorted(each.name for each in path.iterdir())
    if path.name == "variables" and is_saved_model(path.parent):
        return f"{path} is a part of a SavedModel; give its folder, {path.parent}"
    if versions := versions_in(path):
        return (
            f"{path} has versions of a model ({_listed(map(str, versions))}); give one of them, "
            f"{path / str(versions[-1])}, or all models beside it with --model-repository "
            f"{path.parent}"
        )
    if models := models_in(path):
        return f"{path} is a model repository ({_listed(models)}); use --model-repository {path}"
    if inner := [each for each in _folders(path) if is_saved_model(each)]:
        return f"{path} holds no saved_model.pb; {inner[0]} is a SavedModel"
    if "checkpoint" in names or any(name.endswith(".index") for name in names):
        return (
            f"{path} is a checkpoint, which has values and no functions; restore it into the model "
            "in Python and write a SavedModel with tf.saved_model.save(model, FOLDER), or load its "
            f"values into a model that is served with varserve push MODEL {path}"
        )
    if files := [each for each in path.iterdir() if each.suffix in (".keras", ".h5")]:
        return f"{path} holds no saved_model.pb; {_file_problem(files[0])}"
    if not names:
        return f"{path} is empty; expected a SavedModel, which has a saved_model.pb"
    return f"{path} holds no saved_model.pb; found {_listed(names)}"


def _folders(path: Path) -> list[Path]:
    try:
        return sorted(each for each in path.iterdir() if each.is_dir())
    except OSError:
        return []


def _listed(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more


def _similar(path: Path) -> str:
    names = [each.name for each in _folders(path.parent)]
    close = difflib.get_close_matches(path.name, names, 1)
    return f"; did you mean {path.parent / close[0]}?" if close else ""
