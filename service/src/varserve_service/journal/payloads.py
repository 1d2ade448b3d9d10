"""Where the bytes of values are: inline in a row, or in a safetensors file of its own.

A file is written and synced, with its folder, before any row names it; a file that no row names is
left over from a crash. Owns how a dtype that safetensors lacks is written: as plain bytes.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from crc32c import crc32c
from safetensors import SafetensorError, TensorSpec, serialize_file

from varserve import tensors
from varserve_service.core.arrays.buffers import aligned_empty
from varserve_service.core.arrays.shapes import dtype_name
from varserve_service.core.errors import JournalError, StateStoreFull

from .disk import end_process, log, sync_folder
from .failures import Cause, cause_of, refusal, unwritable
from .presence import is_gone
from .records import TensorRecord

Array = np.ndarray[Any, Any]

NATIVE = frozenset(
    {
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "bfloat16", "complex64"),
    }
)
"""Dtypes that safetensors writes, and reads into numpy."""

# The second is the name under which the library writes a file before it renames it.
_OWN_NAME = re.compile(r"[0-9a-f]{16}\.safetensors|\.tmp[A-Za-z0-9]{6}")
_SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")
# Two changes of a folder within one tick of the kernel's clock have one time.
_CLOCK_TICK_NS = 50_000_000


def bytes_of(array: Array) -> Array:
    """The elements as a contiguous uint8 array; shares memory with numbers."""
    if array.dtype.hasobject:
        return np.frombuffer(tensors.strings_to_body(array), np.uint8)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def array_of(data: Array, record: TensorRecord) -> Array:
    """The value of a record, of its bytes in aligned memory; shares memory with numbers."""
    shape = tuple(record["shape"])
    if record["dtype"] == tensors.STRING:
        return tensors.strings_from_body(data.data, shape)
    return data.view(tensors.numpy_dtype(record["dtype"])).reshape(shape)


def _describe(array: Array) -> TensorRecord:
    return {"dtype": dtype_name(array), "shape": list(array.shape)}


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
        data = bytes_of(array).tobytes()
        record = _describe(array) | {"at": self._nbytes, "bytes": len(data)}
        self._parts.append(data)
        self._nbytes += len(data)
        return record

    def payload(self) -> bytes:
        """All of it."""
        return b"".join(self._parts)


def read_inline(record: TensorRecord, payload: bytes) -> Array:
    """A value from the payload of its row, whose checksum was right."""
    data = np.frombuffer(payload, np.uint8, record["bytes"], record["at"])
    return array_of(_aligned(data), record)


class Payloads(Protocol):
    """Where values are that a row of a table names."""

    def read(self, record: TensorRecord, payload: bytes) -> Array:
        """The value of a record; `payload` is that of its row. Raises JournalError."""
        ...


class PayloadFiles:
    """The folder of one journal's safetensors files. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._needed: dict[str, int] = {}  # inodes by name; 0 until a file was looked at
        self._unchanged_since = 0  # the time of the folder when every needed file was there

    def write(self, arrays: Mapping[str, Array]) -> dict[str, TensorRecord]:
        """Write values into one new file, durably; the result says where each value is.

        Raises StateStoreFull or StateStoreUnavailable, with no file left behind. An error of the
        disk ends the process.
        """
        path = self._folder / f"{secrets.token_hex(8)}.safetensors"
        # Nothing is copied: the library writes from the arrays' own memory, which `data` holds.
        data = {name: bytes_of(array) for name, array in arrays.items()}
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
            _sync(path)
            sync_folder(self._folder)
        except (SafetensorError, OSError) as error:
            self.remove([path.name])
            raise _refusal(path, sum(each.nbytes for each in data.values()), error) from error
        return records

    def read(self, record: TensorRecord, payload: bytes) -> Array:
        """A value, from its file or from the payload of its row, whose checksum was right.

        Raises JournalError when the file is not what was written, StateUnavailable when it cannot
        be read.
        """
        if "file" not in record:
            return read_inline(record, payload)
        path = self._folder / record["file"]
        try:
            with path.open("rb", buffering=0) as file:
                value = _read_tensor(file.fileno(), record)
        except (OSError, ValueError, KeyError, TypeError, MemoryError) as error:
            raise refusal(path, error) from error
        if crc32c(value.data) != record["crc"]:
            raise JournalError(f"{path} is damaged: {record['key']} is not what was written")
        return array_of(value, record)

    def size(self, name: str) -> int:
        """Bytes of a file. Raises OSError."""
        return (self._folder / name).stat().st_size

    def need(self, names: Iterable[str]) -> None:
        """Rows name these files."""
        with self._lock:
            for name in names:
                self._needed.setdefault(name, 0)
            self._unchanged_since = 0

    def missing(self) -> list[Path]:
        """The files named by rows that were deleted or replaced."""
        with self._lock:
            try:
                changed = self._folder.stat().st_mtime_ns
                if changed == self._unchanged_since:
                    return []
                with os.scandir(self._folder) as entries:
                    inodes = {entry.name: entry.inode() for entry in entries}
            except OSError as error:
                return [self._folder] if is_gone(error) else []
            missing = [
                self._folder / name
                for name, inode in self._needed.items()
                if name not in inodes or inode not in (0, inodes[name])
            ]
            if not missing:
                self._needed = {name: inodes[name] for name in self._needed}
                settled = time.time_ns() - changed > _CLOCK_TICK_NS
                self._unchanged_since = changed if settled else 0
            return missing

    def clean_up(self) -> None:
        """Remove what a crash left: files of this service that no row names."""
        with self._lock:
            left = {path.name for path in self._folder.iterdir()} - self._needed.keys()
        foreign = sorted(name for name in left if not _OWN_NAME.fullmatch(name))
        if foreign:
            log.warning(
                "files that this service did not write are left alone",
                folder=str(self._folder),
                files=foreign[:10],
                number=len(foreign),
            )
        own = left.difference(foreign)
        if own:
            log.info(
                "removing files of unfinished writes", folder=str(self._folder), files=len(own)
            )
        self.remove(own)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files that no row names. The next start removes what cannot be removed now."""
        for name in names:
            with self._lock:
                self._needed.pop(name, None)
            try:
                (self._folder / name).unlink(missing_ok=True)
            except OSError as error:
                log.warning("a file is left over", path=str(self._folder / name), error=str(error))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refusal(path: Path, nbytes: int, error: Exception) -> Exception:
    """What a failed write means for its caller. An error of the disk ends the process."""
    if isinstance(error, SafetensorError):
        # The library tells the system's error in the text alone.
        match = _SYSTEM_ERROR.search(str(error))
        if match is None:
            return error
        error = OSError(int(match[1]), str(error))
    cause = cause_of(error)
    if cause is Cause.FULL:
        # Some file systems find out only at the sync that they have no room.
        return StateStoreFull(
            f"the disk that keeps the state has no room for {nbytes} bytes; nothing was changed; "
            "retry when it has room"
        )
    if cause is Cause.DISK_FAILED:
        end_process(str(path), error)
    return unwritable(path, error)


def _read_tensor(descriptor: int, record: TensorRecord) -> Array:
    """The bytes of a tensor, in aligned memory. Raises OSError, ValueError, KeyError, TypeError.

    With plain reads: the library maps the file, and a failing disk or a file that is cut short ends
    a process that reads a mapping.
    """
    header_bytes = int.from_bytes(os.pread(descriptor, 8, 0), "little")
    if not 0 < header_bytes <= os.fstat(descriptor).st_size:
        raise ValueError("the file is not a complete safetensors file")
    header = json.loads(os.pread(descriptor, header_bytes, 8))
    start, stop = header[record["key"]]["data_offsets"]
    if stop - start != record["bytes"]:
        raise ValueError(f"{record['key']}: expected {record['bytes']} bytes, found {stop - start}")
    value = aligned_empty((record["bytes"],), np.uint8)
    at, view = 8 + header_bytes + start, value.data
    while view.nbytes:
        count = os.preadv(descriptor, [view[: 2**30]], at)
        if not count:
            raise ValueError("the file is cut short")
        at, view = at + count, view[count:]
    return value


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
