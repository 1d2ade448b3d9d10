"""A state as one safetensors file for other tools: values by the names of the variables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, TensorSpec, serialize_file

from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.ports.loaded_model import Value, VariableSpec
from varserve_service.core.ports.messages import Header

from .payloads import NATIVE

FILE = "model.safetensors"


def save_safetensors(
    folder: Path,
    values: Mapping[VariableSpec, Value],
    header: Header,
    source: Path | None,
    fingerprint: str,
) -> None:
    """Write `model.safetensors` into a folder, without the SavedModel.

    Its metadata name the state. Raises RequestError SAVE_UNSUPPORTED, OSError.
    """
    unsupported = [spec for spec in values if spec.dtype not in NATIVE]
    if unsupported:
        spec = unsupported[0]
        raise RequestError(
            Reason.SAVE_UNSUPPORTED,
            f"variable {spec.name!r}: safetensors does not carry {spec.dtype}; save the model as a "
            "SavedModel or a checkpoint",
            variable=spec.name,
        )
    arrays = {spec.name: value.numpy() for spec, value in values.items()}
    tensors = {
        name: TensorSpec(
            dtype=array.dtype.name,
            shape=list(array.shape),
            data_ptr=array.ctypes.data,
            data_len=array.nbytes,
        )
        for name, array in arrays.items()
    }
    metadata = {
        "model": header.model,
        "version": str(header.version),
        "epoch": header.epoch,
        "revision": str(header.revision),
    }
    try:
        serialize_file(tensors, str(folder / FILE), metadata)
    except SafetensorError as error:
        raise OSError(0, str(error)) from error
