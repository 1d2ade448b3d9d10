"""Saving: the SavedModel that was loaded once more, with the values that its variables have now.

TensorFlow cannot save every object that it has loaded, so nothing is traced again: all files are as
they were, but for the checkpoint, which has the same keys with other values. Where a value belongs
is told by the paths in the checkpoint's own object graph.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

from varserve.checkpoint import ObjectGraph
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.ports.loaded_model import Value, VariableSpec
from varserve_service.core.ports.messages import Header

from .loader import fingerprint_of
from .values import as_tensor

_GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
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
    if not (found / "variables").is_dir():
        raise _unsupported(header, ["all"])
    _write(found, folder / "variables", values, header)


def _source(source: Path | None, header: Header, fingerprint: str) -> Path:
    if source is None or fingerprint_of(source) != fingerprint:
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
    keys = _keys(reader, dtypes)
    tensors: dict[str, tf.Tensor] = {}
    missing = []
    with tf.device("CPU:0"):
        for spec, value in values.items():
            key = keys.get(spec.path)
            if key is None or dtypes[key].name != value.dtype:
                missing.append(spec.name)
            else:
                tensors[key] = as_tensor(value, "CPU:0")
                copies = (keys.get(path) for path in spec.copies)
                tensors |= {copy: tensors[key] for copy in copies if copy is not None}
        if missing:
            raise _unsupported(header, missing)
        rest = sorted(dtypes.keys() - tensors.keys())
        if rest:
            kept = tf.raw_ops.RestoreV2(
                prefix=old,
                tensor_names=rest,
                shape_and_slices=[""] * len(rest),
                dtypes=[dtypes[key] for key in rest],
            )
            tensors |= dict(zip(rest, kept, strict=True))
        names = sorted(tensors)
        try:
            tf.raw_ops.SaveV2(
                prefix=str(prefix),
                tensor_names=names,
                shape_and_slices=[""] * len(names),
                tensors=[tensors[name] for name in names],
            )
        except tf.errors.OpError as error:
            raise OSError(0, str(error.message).splitlines()[0]) from error


def _keys(reader: Any, dtypes: Mapping[str, Any]) -> dict[str, str]:
    """Where the value of each variable is in the checkpoint, by the variable's path."""
    if _GRAPH_KEY not in dtypes:  # TensorFlow 1 format: by name
        return {key: key for key in dtypes}
    graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(
        reader.get_tensor(_GRAPH_KEY)
    )
    return _Paths(graph, dtypes)


class _Paths(dict[str, str]):
    """Looks paths up in the object graph: there may be more of them than can be listed."""

    def __init__(self, graph: Any, dtypes: Mapping[str, Any]) -> None:
        super().__init__()
        self._graph = ObjectGraph(graph)
        self._dtypes = dtypes

    def get(self, path: str, default: Any = None) -> Any:
        return next((key for key in self._graph.keys_at(path) if key in self._dtypes), default)


def _unsupported(header: Header, names: list[str]) -> RequestError:
    shown = ", ".join(repr(name) for name in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return RequestError(
        Reason.SAVE_UNSUPPORTED,
        f"model {header.model!r}: the SavedModel has no place for the values of {shown}{more}; "
        "save it as safetensors",
        model=header.model,
    )
