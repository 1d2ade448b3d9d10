"""Values in files: safetensors to and from, TensorFlow's checkpoints and SavedModels from.

Owns how a dtype that safetensors lacks is written: as bytes, with its dtype and shape in the file's
metadata. Files are read tensor by tensor.
"""

from __future__ import annotations

import json
import os
import secrets
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, TensorSpec, safe_open, serialize_file

from varserve import VariableSpec, tensors
from varserve._client.errors import suggestion
from varserve.tensors import Array

from .bundles import Bundle, BundleError
from .exits import Unusable

_AS_BYTES = "varserve.as_bytes"
"""Metadata key: JSON of dtype and shape of each tensor that the file has as U8."""

_LACKING = frozenset({"complex128", "float8_e4m3b11fnuz", tensors.STRING})

_FLOAT8 = {
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}
"""Dtypes that safetensors has and does not read into numpy."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a file. `load` reads it, and raises Unusable."""

    key: str
    load: Callable[[], Array]


@dataclass(frozen=True, slots=True)
class Stored:
    """The tensors of a file, by key, and which of them a variable is."""

    path: Path
    kind: str
    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    key_of: Callable[[VariableSpec], str | None] | None = None

    def renamed(self, names: Mapping[str, str], prefix: str = "") -> Stored:
        """The same with other keys: without a prefix, and each in `names` as it says there.

        Raises Unusable for a key that is not in the file.
        """
        absent = [key for key in names if key not in self.tensors]
        if absent:
            hint = suggestion(absent[0], self.tensors)
            raise Unusable(f"{self.path}: --map: there is no tensor {absent[0]!r}{hint}")
        called = {key: names.get(key, key.removeprefix(prefix)) for key in self.tensors}
        renamed = {
            called[key]: replace(tensor, key=called[key]) for key, tensor in self.tensors.items()
        }
        return replace(self, tensors=renamed)

    def find(self, spec: VariableSpec, key: str) -> StoredTensor | None:
        """The tensor of a variable, which is called `key`; None where there is none."""
        keys = [key, spec.path]
        own = None if self.key_of is None else self.key_of(spec)
        for each in [own, *keys] if own is not None else keys:
            if each in self.tensors:
                return self.tensors[each]
        return None


def is_copy(key: str) -> bool:
    """Whether a checkpoint's tensor is one that Keras 3 exports beside the variable itself."""
    return key.startswith("_all_variables/")


def open_stored(path: Path) -> Stored:
    """A safetensors file, a SavedModel's folder or a checkpoint's prefix. Raises Unusable."""
    index = path / "variables" / "variables.index"
    if path.is_dir():
        if not index.is_file():
            versions = sorted(each.name for each in path.iterdir() if each.name.isdecimal())
            hint = f"; expected the folder of a version: {path / versions[-1]}" if versions else ""
            raise Unusable(
                f"{path}: expected a SavedModel, found no {index.relative_to(path)}{hint}"
            )
        return _read_bundle(index, "SavedModel")
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if path.suffix == ".npz":
        return _read_npz(path)
    if path.suffix in _OTHERS:
        raise Unusable(f"{path}: {_OTHERS[path.suffix]}")
    index = path if path.suffix == ".index" else path.with_name(f"{path.name}.index")
    if index.is_file():
        return _read_bundle(index, "checkpoint")
    if path.is_file():
        raise Unusable(f"{path}: expected {_EXPECTED}; found a file of another kind")
    raise Unusable(f"{path}: expected {_EXPECTED}; found nothing there")


_EXPECTED = "a file .safetensors or .npz, a SavedModel's folder, or a checkpoint's prefix"
_KERAS = "Keras' own format is read by Keras alone; model.export(FOLDER) writes a SavedModel"
_TORCH = "PyTorch's pickles are not read; safetensors.torch.save_file(...) writes what is"
_OTHERS = {
    ".keras": _KERAS,
    ".h5": _KERAS,
    ".hdf5": _KERAS,
    ".pt": _TORCH,
    ".pth": _TORCH,
    ".npy": "one array without a name: `varserve assign MODEL VARIABLE @FILE` takes it",
    ".pb": "expected the SavedModel's folder, and not a file in it",
}
"""What other files are, and what to do with them."""


def _read_npz(path: Path) -> Stored:
    try:
        file = np.load(path, allow_pickle=False)
        keys = list(file.files)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise Unusable(f"{path}: {error}") from None

    def loader(key: str) -> Callable[[], Array]:
        def load() -> Array:
            try:
                array: Array = file[key]
                return array
            except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
                raise Unusable(f"{path}: {key!r} cannot be read: {error}") from None

        return load

    return Stored(path, "npz file", {key: StoredTensor(key, loader(key)) for key in keys})


# ---- safetensors ----


def write_safetensors(path: Path, arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write a file whole or not at all: under another name first. Raises Unusable."""
    data: dict[str, Array] = {}
    specs: dict[str, TensorSpec] = {}
    as_bytes: dict[str, dict[str, Any]] = {}
    for name, array in arrays.items():
        dtype, shape = tensors.dtype_name(array.dtype), list(array.shape)
        if dtype == tensors.STRING:
            data[name] = np.frombuffer(tensors.strings_to_body(array), np.uint8)
        else:
            data[name] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        if dtype in _LACKING:
            as_bytes[name] = {"dtype": dtype, "shape": shape}
            dtype, shape = "uint8", [data[name].nbytes]
        # `data` holds the memory that this points to.
        specs[name] = TensorSpec(
            dtype=dtype,
            shape=shape,
            data_ptr=data[name].ctypes.data,
            data_len=data[name].nbytes,
        )
    if as_bytes:
        metadata = {**metadata, _AS_BYTES: json.dumps(as_bytes)}
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        serialize_file(specs, unfinished, dict(metadata))
        os.replace(unfinished, path)  # noqa: PTH105  (Path.replace says nothing of atomicity)
    except (SafetensorError, OSError) as error:
        raise Unusable(f"{path}: {error}") from None
    finally:
        unfinished.unlink(missing_ok=True)  # also after Ctrl-C


def read_safetensors(path: Path) -> Stored:
    """The tensors of a safetensors file. Raises Unusable."""
    try:
        # Once for all tensors: opening reads the header of all of them.
        file: Any = safe_open(path, framework="numpy")
        keys, metadata = list(file.keys()), dict(file.metadata() or {})
        as_bytes = json.loads(metadata.get(_AS_BYTES, "{}"))
        if not isinstance(as_bytes, dict):
            raise ValueError(f"{_AS_BYTES} is no object")
    except (SafetensorError, OSError, ValueError) as error:
        raise Unusable(f"{path}: {error}") from None
    tensors_by_key = {
        key: StoredTensor(key, _loader(path, file, key, as_bytes.get(key))) for key in keys
    }
    return Stored(path, "safetensors file", tensors_by_key, metadata)


def _loader(path: Path, file: Any, key: str, own: Any) -> Callable[[], Array]:
    def load() -> Array:
        try:
            dtype = file.get_slice(key).get_dtype()
            if dtype in _FLOAT8:
                return _raw(path, key).view(tensors.numpy_dtype(_FLOAT8[dtype]))
            array: Array = file.get_tensor(key)
            if own is None:
                return array
            shape = tuple(int(size) for size in own["shape"])
            if own["dtype"] == tensors.STRING:
                return tensors.strings_from_body(array.data, shape)
            return array.view(tensors.numpy_dtype(own["dtype"])).reshape(shape)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise Unusable(f"{path}: {key!r} cannot be read: {error}") from None

    return load


def _raw(path: Path, key: str) -> Array:
    """The bytes of a tensor of one byte an element; the library has checked the header."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))[key]
        begin, end = header["data_offsets"]
        file.seek(8 + length + begin)
        return np.frombuffer(file.read(end - begin), np.uint8).reshape(header["shape"])


# ---- TensorFlow ----


def _read_bundle(index: Path, kind: str) -> Stored:
    def loader(key: str) -> Callable[[], Array]:
        def load() -> Array:
            try:
                return bundle.read(key)
            except BundleError as error:
                raise Unusable(str(error)) from None

        return load

    try:
        bundle = Bundle(index)
        graph = bundle.graph()
    except BundleError as error:
        raise Unusable(str(error)) from None
    tensors_by_key = {key: StoredTensor(key, loader(key)) for key in bundle.keys}
    return Stored(
        index,
        kind,
        tensors_by_key,
        key_of=None if graph is None else lambda spec: graph.key_of(spec.path, spec.name),
    )
