"""Values and parts of variables as arguments have them: `kernel[0:3,:]`, `[1, 2]`, `@x.npy`."""

from __future__ import annotations

import base64
import binascii
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (numpy knows bfloat16 by it)
import numpy as np

from varserve import Index, InvalidRequest, Rows, tensors
from varserve._client.stored import open_stored
from varserve.tensors import Array

from .exits import Unusable
from .output import jsonable

_PART = re.compile(r"(?P<name>.+?)\[(?P<part>\[[^\[\]]*\]|[^\[\]]*)\]", re.DOTALL)


def split_part(text: str, names: Any) -> tuple[str, Index | Rows | None]:
    """The variable and the part of it: `kernel[0:3,:]`, `table[[2,5]]` for rows, or all of it.

    `names` are those of variables, one of which may look like this itself. Raises Unusable.
    """
    match = None if text in names else _PART.fullmatch(text)
    if match is None:
        return text, None
    part = match["part"].strip()
    if part.startswith("["):
        return match["name"], Rows([_integer(each, text) for each in _items(part[1:-1])])
    indices = tuple(_item(each, text) for each in _items(part))
    if not indices:
        raise Unusable(f"{text!r}: expected a part between the brackets, found none")
    return match["name"], indices


def _items(text: str) -> list[str]:
    parts = [each.strip() for each in text.split(",")]
    return parts[:-1] if parts[-1] == "" else parts


def _item(text: str, whole: str) -> Any:
    if text == "...":
        return Ellipsis
    if ":" not in text:
        return _integer(text, whole)
    bounds = [None if not each.strip() else _integer(each, whole) for each in text.split(":")]
    if len(bounds) > 3:
        raise Unusable(f"{whole!r}: expected start:stop:step, found {text!r}")
    return slice(*bounds)


def _integer(text: str, whole: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise Unusable(f"{whole!r}: expected an integer, found {text!r}") from None


def part_text(part: Index | Rows | None) -> str | None:
    """A part as it is written in an argument."""
    if part is None:
        return None
    if isinstance(part, Rows):
        return f"[{','.join(str(each) for each in np.asarray(part.indices).tolist())}]"
    items = part if isinstance(part, tuple) else (part,)
    return ",".join(_item_text(each) for each in items)


def _item_text(item: Any) -> str:
    if item is Ellipsis:
        return "..."
    if not isinstance(item, slice):
        return str(item)
    bounds = [item.start, item.stop, *([] if item.step is None else [item.step])]
    return ":".join("" if bound is None else str(bound) for bound in bounds)


# ---- values ----

_SHOWN = 60  # characters of a value that a message repeats


def read_value(text: str, dtype: str | None = None, *, cast: bool = False) -> Any:
    """A value from an argument: JSON, or `@FILE` of .npy, .json or .safetensors with one tensor.

    `dtype` is what the value is for: what JSON cannot write (NaN, bytes, complex numbers) is read
    for it as `jsonable` writes it, and `cast` makes an array of a file one of it. Raises Unusable.
    """
    if text.startswith("@"):
        value = _from_file(Path(text[1:]), dtype)
    else:
        try:
            value = _from_json(json.loads(text), dtype)
        except ValueError as error:
            word = dtype == tensors.STRING or (dtype is None and text.isidentifier())
            number = _float(text) if _is_float(dtype) else None
            if number is None and not word:
                shown = f"{text[:_SHOWN]!r}{'...' if len(text) > _SHOWN else ''}"
                raise Unusable(
                    f"{shown} is neither JSON, as 0.5 or [1, 2], nor @FILE: {error}"
                ) from None
            value = text if word else number
        except RecursionError:
            raise Unusable(f"{text[:_SHOWN]!r}... has too many lists in lists") from None
    if dtype is None or not isinstance(value, np.ndarray):
        return value
    wanted = tensors.numpy_dtype(dtype)
    if cast:
        with np.errstate(all="ignore"):
            return value.astype(wanted)
    if value.dtype != wanted and "O" not in (value.dtype.kind, wanted.kind):
        found = tensors.dtype_name(value.dtype)
        raise Unusable(f"{text}: expected {dtype}, found {found}; --cast makes it {dtype}")
    return value


def _from_file(path: Path, dtype: str | None) -> Any:
    try:
        if path.suffix == ".npy":
            array = _load_npy(path)
            kind = None if dtype is None else tensors.numpy_dtype(dtype)
            # A dtype that numpy lacks is plain bytes of its size in such a file.
            if kind is not None and array.dtype.kind == "V" and array.itemsize == kind.itemsize:
                return array.view(kind)
            return array
        if path.suffix == ".safetensors":
            stored = open_stored(path)
            if len(stored.tensors) != 1:
                raise Unusable(f"{path}: expected one tensor, found {len(stored.tensors)}")
            (tensor,) = stored.tensors.values()
            return tensor.load()
        if path.suffix == ".json":
            return _from_json(json.loads(path.read_bytes()), dtype)
    except InvalidRequest:
        raise
    except RecursionError:
        raise Unusable(f"{path}: too many lists in lists") from None
    except (OSError, ValueError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise Unusable(f"{path}: {reason}") from None
    raise Unusable(f"{path}: expected a file .npy, .json or .safetensors")


def _load_npy(path: Path) -> Array:
    with path.open("rb") as file:
        if file.read(6) != np.lib.format.MAGIC_PREFIX:
            raise Unusable(f"{path}: expected a file of numpy.save, found another")
    array: Array = np.load(path, allow_pickle=False)
    return array


def _from_json(content: Any, dtype: str | None) -> Any:
    shape = None
    if isinstance(content, Mapping) and "value" in content:  # what `read --json` prints
        shape, content = content.get("shape"), content["value"]
    value = _plain(content, dtype)
    if dtype in ("complex64", "complex128"):
        parts = np.ascontiguousarray(value, np.float64)
        if parts.size and (parts.ndim == 0 or parts.shape[-1] != 2):
            raise ValueError("expected [real, imaginary] for each complex number")
        whole = parts.view(np.complex128)[..., 0] if parts.size else parts
        value = whole.astype(tensors.numpy_dtype(dtype))
    if shape is not None:
        array = tensors.as_array(value, None if isinstance(value, np.ndarray) else dtype)
        if not isinstance(shape, list) or any(type(size) is not int for size in shape):
            raise ValueError(f"expected a shape, found {shape!r}")
        return array.reshape(shape)
    return value


def _plain(content: Any, dtype: str | None) -> Any:
    if isinstance(content, list):
        return [_plain(each, dtype) for each in content]
    if isinstance(content, Mapping):
        if set(content) != {"base64"}:
            raise ValueError("expected a value, found an object")
        try:
            return base64.b64decode(content["base64"], validate=True)
        except (binascii.Error, TypeError, ValueError) as error:
            raise ValueError(f"base64: {error}") from None
    if isinstance(content, str) and _is_float(dtype):
        number = _float(content)
        return content if number is None else number
    return content


def _is_float(dtype: str | None) -> bool:
    return dtype is not None and ("float" in dtype or "complex" in dtype)


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def write_values(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write one array (.npy, .json) or any number (.npz, .safetensors, .json). Raises Unusable."""
    try:
        if path.suffix == ".safetensors":
            from varserve._client.stored.safetensors_files import write_safetensors

            write_safetensors(path, arrays, {})
        elif path.suffix == ".json":
            described = {name: _described(array) for name, array in arrays.items()}
            path.write_text(
                json.dumps(next(iter(described.values())) if len(described) == 1 else described)
                + "\n"
            )
        elif path.suffix in (".npy", ".npz"):
            for name, array in arrays.items():
                # What another package adds to numpy can be written there, and not read.
                if array.dtype.kind not in "biufc" or array.dtype.isbuiltin != 1:
                    raise Unusable(
                        f"{path}: numpy's files have no {tensors.dtype_name(array.dtype)} "
                        f"({name!r}); expected .safetensors or .json"
                    )
            if path.suffix == ".npz":
                _save_npz(path, arrays)
            elif len(arrays) == 1:
                np.save(path, next(iter(arrays.values())), allow_pickle=False)
            else:
                raise Unusable(f"{path}: expected .npz or .safetensors for {len(arrays)} values")
        else:
            check_file(path)
    except OSError as error:
        raise Unusable(f"{path}: {error.strerror or error}") from None


def check_file(path: Path) -> None:
    """Raises Unusable for a file that values cannot be written to, whatever they are."""
    if path.suffix not in (".npy", ".npz", ".json", ".safetensors"):
        raise Unusable(f"{path}: expected .npy, .npz, .json or .safetensors")
    if not path.parent.is_dir():
        raise Unusable(f"{path}: there is no folder {path.parent}")


def _save_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    # As numpy.savez, which has arguments of its own that a name may be.
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _described(array: Array) -> dict[str, Any]:
    return {
        "dtype": tensors.dtype_name(array.dtype),
        "shape": list(array.shape),
        "value": jsonable(array),
    }
