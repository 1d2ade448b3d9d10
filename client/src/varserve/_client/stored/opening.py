"""What a path is, and how it is read."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from varserve._client.errors import InvalidRequest
from varserve.tensors import Array

from .bundles import Bundle, BundleError
from .stored_tensors import Keys, Stored, StoredTensor, Variables, unusable

_EXPECTED = (
    "a file .safetensors, .npz, .keras or .h5, a SavedModel's folder, or a checkpoint's prefix"
)
_TORCH = "PyTorch's pickles are not read; safetensors.torch.save_file(...) writes what is"
_OTHERS = {
    ".pt": _TORCH,
    ".pth": _TORCH,
    ".npy": "one array without a name: `varserve assign MODEL VARIABLE @FILE` takes it",
    ".pb": "expected the SavedModel's folder, and not a file in it",
}
"""What other files are, and what to do with them."""


def open_stored(given: str | os.PathLike[str]) -> Stored:
    """A file of values, a SavedModel's folder or a checkpoint's prefix. Raises InvalidRequest."""
    path = Path(given)
    if path.is_dir():
        return _open_folder(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if path.suffix == ".npz":
        return _read_npz(path)
    if path.suffix in (".keras", ".h5", ".hdf5"):
        from .keras_files import read_keras

        return read_keras(path)
    if path.suffix in _OTHERS:
        raise unusable(path, _OTHERS[path.suffix])
    index = path if path.suffix == ".index" else path.with_name(f"{path.name}.index")
    if index.is_file():
        return _read_bundle(index, "checkpoint")
    found = "a file of another kind" if path.is_file() else "nothing there"
    raise unusable(path, f"expected {_EXPECTED}; found {found}")


def read_safetensors(path: Path) -> Stored:
    """The tensors of a safetensors file. Raises InvalidRequest."""
    from .safetensors_files import read_safetensors

    return read_safetensors(path)


def _open_folder(path: Path) -> Stored:
    index = path / "variables" / "variables.index"
    if not index.is_file():
        versions = sorted(each.name for each in path.iterdir() if each.name.isdecimal())
        hint = f"; expected the folder of a version: {path / versions[-1]}" if versions else ""
        raise unusable(path, f"expected a SavedModel, found no {index.relative_to(path)}{hint}")
    return _read_bundle(index, "SavedModel")


def _read_npz(path: Path) -> Stored:
    try:
        file = np.load(path, allow_pickle=False)
        keys = list(file.files)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise unusable(path, error) from None

    def loader(key: str) -> Callable[[], Array]:
        def load() -> Array:
            try:
                array: Array = file[key]
                return array
            except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
                raise unusable(path, f"{key!r} cannot be read: {error}") from None

        return load

    return Stored(path, "npz file", {key: StoredTensor(key, loader(key)) for key in keys})


def _read_bundle(index: Path, kind: str) -> Stored:
    def loader(key: str) -> Callable[[], Array]:
        def load() -> Array:
            try:
                return bundle.read(key)
            except BundleError as error:
                raise InvalidRequest(str(error)) from None

        return load

    try:
        bundle = Bundle(index)
        graph = bundle.graph()
    except BundleError as error:
        raise InvalidRequest(str(error)) from None

    def keys_of(variables: Variables) -> Keys:
        assert graph is not None
        found = {name: graph.key_of(spec.path, spec.name) for name, spec in variables.items()}
        return {name: key for name, key in found.items() if key is not None}

    tensors = {key: StoredTensor(key, loader(key)) for key in bundle.keys}
    if graph is None:
        return Stored(index, kind, tensors)
    return Stored(index, kind, tensors, keys_of=keys_of, partial=True)
