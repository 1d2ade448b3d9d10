"""Saving: the SavedModel that was loaded once more, with the values that its variables have now.

TensorFlow cannot save every object that it has loaded, so nothing is traced again: all files are as
they were, but for the checkpoint, which has the same keys with other values. Where a value belongs
is told by the paths in the checkpoint's own object graph.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf

from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.ports.loaded_model import Value, VariableSpec
from varserve_service.core.ports.messages import Header

from .loader import fingerprint_of
from .places import Place, Places, set_at_load
from .values import as_tensor

_SHOWN = 5


def save_saved_model(
    folder: Path,
    values: Mapping[VariableSpec, Value],
    header: Header,
    source: Path | None,
    fingerprint: str,
) -> None:
    """Write a SavedModel into an empty folder. Raises RequestError SAVE_UNSUPPORTED, OSError."""
    found = _source(source, header, fingerprint)
    fleeting = [spec.name for spec in values if spec.path in set_at_load(header.model, found)]
    if fleeting:
        raise RequestError(
            Reason.SAVE_UNSUPPORTED,
            f"model {header.model!r}: what the SavedModel runs when it is loaded sets "
            f"{_shown(fleeting)}, so that a copy of it would lose their values; "
            "save it as safetensors",
            model=header.model,
        )
    for path in found.iterdir():
        # The fingerprint is of the values that were.
        if path.name in ("variables", "fingerprint.pb"):
            continue
        if path.is_dir():
            shutil.copytree(path, folder / path.name)
        else:
            shutil.copyfile(path, folder / path.name)
    if (found / "variables" / "variables.index").is_file():
        (folder / "variables").mkdir()
        _write(found, folder / "variables" / "variables", values, header)
    elif values:
        raise _unsupported(header, [spec.name for spec in values])


def save_checkpoint(
    folder: Path,
    values: Mapping[VariableSpec, Value],
    header: Header,
    source: Path | None,
    fingerprint: str,
) -> None:
    """Write `variables.index` and its data into a folder. Raises as `save_saved_model`."""
    found = _source(source, header, fingerprint)
    if not (found / "variables" / "variables.index").is_file():
        raise _unsupported(header, [spec.name for spec in values] or ["a checkpoint"])
    _write(found, folder / "variables", values, header)


def _source(source: Path | None, header: Header, fingerprint: str) -> Path:
    if source is None or fingerprint_of(source) != fingerprint.partition("-")[0]:
        raise RequestError(
            Reason.SAVE_UNSUPPORTED,
            f"model {header.model!r}: the SavedModel that it was loaded from is gone or has been "
            "changed; save it as safetensors",
            model=header.model,
        )
    return source


def _write(
    source: Path, prefix: Path, values: Mapping[VariableSpec, Value], header: Header
) -> None:
    old = str(source / "variables" / "variables")
    reader = tf.train.load_checkpoint(old)
    dtypes: Mapping[str, tf.DType] = reader.get_variable_to_dtype_map()
    places = Places(source, reader)
    tensors: dict[Place, tf.Tensor] = {}
    missing = []
    with tf.device("CPU:0"):
        for spec, value in values.items():
            place = places.of(spec.path)
            if place is None or dtypes[place.key].name != value.dtype:
                missing.append(spec.name)
                continue
            tensors[place] = as_tensor(value, "CPU:0")
            copies = (places.of(path) for path in spec.copies)
            tensors |= {copy: tensors[place] for copy in copies if copy is not None}
        if missing:
            raise _unsupported(header, missing)
        rest = sorted(dtypes.keys() - {place.key for place in tensors})
        if rest:
            kept = tf.raw_ops.RestoreV2(
                prefix=old,
                tensor_names=rest,
                shape_and_slices=[""] * len(rest),
                dtypes=[dtypes[key] for key in rest],
            )
            tensors |= dict(zip(map(Place, rest), kept, strict=True))
        written = sorted(tensors)
        try:
            tf.raw_ops.SaveV2(
                prefix=str(prefix),
                tensor_names=[place.key for place in written],
                shape_and_slices=[place.slice for place in written],
                tensors=[tensors[place] for place in written],
            )
        except tf.errors.OpError as error:
            raise OSError(0, str(error.message).splitlines()[0]) from error


def _unsupported(header: Header, names: list[str]) -> RequestError:
    return RequestError(
        Reason.SAVE_UNSUPPORTED,
        f"model {header.model!r}: the SavedModel has no place for the values of {_shown(names)}; "
        "save it as safetensors",
        model=header.model,
    )


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(repr(name) for name in names[:_SHOWN]) + more
