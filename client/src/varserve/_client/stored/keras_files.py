"""Keras' own files: `.keras`, `.weights.h5` and the older `.h5`, read without Keras.

Owns what h5py does. The layers that it finds, `keras_layers` matches with variables.
"""

from __future__ import annotations

import itertools
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from varserve import tensors
from varserve.tensors import Array

from .keras_layers import Layer, keys_by_layer, keys_by_name, named_by_config
from .stored_tensors import Stored, StoredTensor, unusable

_WEIGHTS = "model.weights.h5"
_NOT_WEIGHTS = ("optimizer", "metrics", "_metrics", "optimizer_weights")
"""What beside weights is in these files, and is not read."""
_UNREADABLE = (
    AttributeError,  # a configuration of another form
    OSError,
    ValueError,
    KeyError,
    TypeError,
    RuntimeError,
    zipfile.BadZipFile,
)


def read_keras(path: Path) -> Stored:
    """The weights in a file of Keras. Raises InvalidRequest."""
    try:
        import h5py
    except ModuleNotFoundError:
        raise unusable(
            path, 'Keras\' files need h5py, which is not installed: pip install "varserve[files]"'
        ) from None
    try:
        if path.suffix != ".keras":
            return _read(path, h5py.File(path, "r"), None)
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
            return _read(path, h5py.File(_copied(archive), "r"), config)
    except _UNREADABLE as error:
        raise unusable(path, f"no file of Keras that can be read: {error}") from None


def _copied(archive: zipfile.ZipFile) -> IO[bytes]:
    """The weights in a file of their own: HDF5 goes back and forth, which archives do slowly."""
    copy = tempfile.TemporaryFile()  # noqa: SIM115  (for as long as it is read)
    with archive.open(_WEIGHTS) as weights:
        while part := weights.read(8 << 20):
            copy.write(part)
    copy.seek(0)
    return copy


def _read(path: Path, file: Any, config: Any) -> Stored:
    old = file.get("model_weights", file)
    if _names(old, "layer_names"):
        return _read_old(path, old)
    layers = list(_layers(file, (), ()))
    if config is not None:
        layers = list(named_by_config(layers, config))
    found = {
        key: StoredTensor(key, _loader(path, file[key])) for layer in layers for key in layer.keys
    }
    return Stored(
        path, "Keras file", found, keys_of=lambda variables: keys_by_layer(layers, variables)
    )


def _layers(group: Any, places: tuple[str, ...], names: tuple[str, ...]) -> Iterator[Layer]:
    """All layers with weights in a group and below it."""
    here = group.name.strip("/")
    weights = group.get("vars")
    if weights:
        numbers = [str(number) for number in range(len(weights))]
        yield Layer(
            places,
            names,
            tuple(weights[number].name.strip("/") for number in numbers),
            tuple(tuple(weights[number].shape) for number in numbers),
        )
    for key in group:
        inner = group[key]
        if key == "vars" or (not here and key in _NOT_WEIGHTS) or not hasattr(inner, "keys"):
            continue
        if "vars" in inner:
            name = _text(inner["vars"].attrs.get("name", ""))
            yield from _layers(inner, (*places, inner.name.strip("/")), (*names, name))
        else:  # a list of layers, and none itself
            yield from _layers(inner, places, names)


def _read_old(path: Path, group: Any) -> Stored:
    """Of a file where each weight has its variable's name, with or without `:0`."""
    found: dict[str, StoredTensor] = {}
    for layer in group:
        for name in _names(group[layer], "weight_names"):
            key = name.removesuffix(":0")
            if key in found:  # in two models inside this one
                key = f"{layer}/{key}"
            found[key] = StoredTensor(key, _loader(path, group[layer][name]))
    return Stored(
        path, "Keras file", found, keys_of=lambda variables: keys_by_name(found, variables)
    )


def _names(group: Any, attribute: str) -> list[str]:
    """What a group lists in an attribute, or where that was too long for one, in several."""
    parts = [attribute]
    if attribute not in group.attrs:
        numbered = (f"{attribute}{number}" for number in itertools.count())
        parts = list(itertools.takewhile(lambda name: name in group.attrs, numbered))
    return [_text(name) for part in parts for name in group.attrs[part]]


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _loader(path: Path, dataset: Any) -> Callable[[], Array]:
    def load() -> Array:
        try:
            # What numpy has no dtype for, Keras writes as bytes and says which dtype it is.
            dtype = dataset.attrs.get("dtype")
            array: Array = np.ascontiguousarray(dataset[()])
            if dtype is not None and array.dtype.kind == "V":
                array = array.view(tensors.numpy_dtype(_text(dtype)))
            return array.reshape(dataset.shape)
        except _UNREADABLE as error:
            raise unusable(path, f"{dataset.name!r} cannot be read: {error}") from None

    return load
