"""safetensors files, to and from.

Owns how a dtype that safetensors lacks is written: as bytes, with its dtype and shape in the file's
metadata. Files are read tensor by tensor.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from varserve import tensors
from varserve._client.errors import InvalidRequest
from varserve.tensors import Array

from .stored_tensors import Stored, StoredTensor, unusable

try:
    from safetensors import SafetensorError, TensorSpec, safe_open, serialize_file
except ModuleNotFoundError:
    raise InvalidRequest(
        'files of values need safetensors, which is not installed: pip install "varserve[files]"'
    ) from None

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


def write_safetensors(path: Path, arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write a file whole or not at all: under another name first. Raises InvalidRequest."""
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
        raise unusable(path, error) from None
    finally:
        unfinished.unlink(missing_ok=True)  # also after Ctrl-C


def read_safetensors(path: Path) -> Stored:
    """The tensors of a safetensors file. Raises InvalidRequest."""
    try:
        # Once for all tensors: opening reads the header of all of them.
        file: Any = safe_open(path, framework="numpy")
        keys, metadata = list(file.keys()), dict(file.metadata() or {})
        as_bytes = json.loads(metadata.get(_AS_BYTES, "{}"))
        if not isinstance(as_bytes, dict):
            raise ValueError(f"{_AS_BYTES} is no object")
    except (SafetensorError, OSError, ValueError) as error:
        raise unusable(path, error) from None
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
            raise unusable(path, f"{key!r} cannot be read: {error}") from None

    return load


def _raw(path: Path, key: str) -> Array:
    """The bytes of a tensor of one byte an element; the library has checked the header."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))[key]
        begin, end = header["data_offsets"]
        file.seek(8 + length + begin)
        return np.frombuffer(file.read(end - begin), np.uint8).reshape(header["shape"])
