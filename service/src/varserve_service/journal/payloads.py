"""Where the bytes of values are: inline in a row, or in a safetensors file of its own.

A file is written and synced, with its folder, before any row names it; a file that no row names is
left over from a crash. Owns how a dtype that safetensors lacks is written: as plain bytes.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from crc32c import crc32c
from safetensors import SafetensorError, TensorSpec, safe_open, serialize_file

from varserve import tensors
from varserve_service.core.arrays.buffers import aligned_empty
from varserve_service.core.errors import JournalError, StateStoreFull

from .disk import NO_ROOM, end_process, log, sync_folder
from .records import TensorRecord

Array = np.ndarray[Any, Any]

NATIVE = frozenset(
    {
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "bfloat16", "complex64"),
    }
)
"""Dtypes that safetensors writes, and reads into numpy."""


def _bytes_of(array: Array) -> Array:
    """The elements as a contiguous uint8 array; shares memory with numbers."""
    if array.dtype.hasobject:
        return np.frombuffer(tensors.strings_to_body(array), np.uint8)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _array_of(data: Array, record: TensorRecord) -> Array:
    shape = tuple(record["shape"])
    if record["dtype"] == tensors.STRING:
        return tensors.strings_from_body(data.data, shape)
    return data.view(tensors.numpy_dtype(record["dtype"])).reshape(shape)


def _describe(array: Array) -> TensorRecord:
    dtype = tensors.STRING if array.dtype.hasobject else array.dtype.name
    return {"dtype": dtype, "shape": list(array.shape)}


def stored_bytes(array: Array) -> int:
    """Bytes that a value takes on disk."""
    if array.dtype.hasobject:
        return sum(len(element) + 8 for element in array.flat)
    return array.nbytes


class Inline:
    """A payload that is being put together for a row."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._nbytes = 0

    def add(self, array: Array) -> TensorRecord:
        """Append a value; the result says where it is."""
        data = _bytes_of(array).tobytes()
        record = _describe(array) | {"at": self._nbytes, "bytes": len(data)}
        self._parts.append(data)
        self._nbytes += len(data)
        return record

    def payload(self) -> bytes:
        """All of it."""
        return b"".join(self._parts)


class PayloadFiles:
    """The folder of one journal's safetensors files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, arrays: Mapping[str, Array]) -> dict[str, TensorRecord]:
        """Write values into one new file, durably; the result says where each value is.

        Raises StateStoreFull, with nothing left behind. A sync that fails ends the process.
        """
        path = self._folder / f"{secrets.token_hex(8)}.safetensors"
        # Nothing is copied: the library writes from the arrays' own memory, which `data` holds.
        data = {name: _bytes_of(array) for name, array in arrays.items()}
        records = {
            name: _describe(array)
            | {
                "file": path.name,
                "key": name,
                "bytes": data[name].nbytes,
                "crc": int(crc32c(data[name].data)),
            }
            for name, array in arrays.items()
        }
        specs = {name: _tensor_spec(data[name], records[name]) for name in arrays}
        try:
            serialize_file(specs, path)
        except (SafetensorError, OSError) as error:
            # Nothing depends on this file yet: whatever the reason, it is as if it never was.
            self.remove([path.name])
            log.warning("a payload could not be written", path=str(path), error=str(error))
            nbytes = sum(each.nbytes for each in data.values())
            raise StateStoreFull(
                f"the disk that keeps the state takes no {nbytes} bytes more; nothing was changed; "
                "retry when it has room"
            ) from error
        self._sync(path)
        return records

    def _sync(self, path: Path) -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            sync_folder(self._folder)
        except OSError as error:
            if error.errno not in NO_ROOM:
                end_process(str(path), error)
            # File systems that find room only at the sync. The file is not used either.
            self.remove([path.name])
            raise StateStoreFull(
                "the disk that keeps the state is full; nothing was changed; retry when it has room"
            ) from error

    def read(self, record: TensorRecord, payload: bytes) -> Array:
        """A value, from its file or from the payload of its row, whose checksum was right.

        Raises JournalError when the file is not what was written.
        """
        if "file" not in record:
            data = np.frombuffer(payload, np.uint8, record["bytes"], record["at"])
            return _array_of(_aligned(data), record)
        path = self._folder / record["file"]
        try:
            with safe_open(path, framework="numpy") as file:
                found = _bytes_of(file.get_tensor(record["key"]))
        except (SafetensorError, OSError, ValueError, KeyError, AttributeError) as error:
            raise JournalError(f"{path} is damaged or not there: {error}") from error
        if found.nbytes != record["bytes"] or crc32c(found.data) != record["crc"]:
            raise JournalError(f"{path} is damaged: {record['key']} is not what was written")
        return _array_of(_aligned(found), record)

    def size(self, name: str) -> int:
        """Bytes of a file."""
        return (self._folder / name).stat().st_size

    def names(self) -> set[str]:
        """All files there are, those that were not finished included."""
        return {path.name for path in self._folder.iterdir()}

    def remove(self, names: Iterable[str]) -> None:
        """Remove files that no row names; what cannot be removed now is at the next start."""
        for name in names:
            try:
                (self._folder / name).unlink(missing_ok=True)
            except OSError as error:
                log.warning("a file is left over", path=str(self._folder / name), error=str(error))


def _tensor_spec(data: Array, record: TensorRecord) -> TensorSpec:
    native = record["dtype"] in NATIVE
    return TensorSpec(
        dtype=record["dtype"] if native else "uint8",
        shape=record["shape"] if native else [data.nbytes],
        data_ptr=data.ctypes.data,
        data_len=data.nbytes,
    )


def _aligned(data: Array) -> Array:
    copy = aligned_empty(data.shape, np.uint8)
    np.copyto(copy, data)
    return copy
