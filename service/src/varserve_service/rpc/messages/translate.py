"""Messages into the core's types and back.

Functions that read a message trust nothing in it, and raise RequestError or TensorError.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from varserve import tensors
from varserve.v1 import model_pb2, model_service_pb2, tensor_pb2
from varserve_service.core.arrays.regions import Region, Rows, Slice, Slices
from varserve_service.core.arrays.shapes import PartialShape
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model.registry import Status
from varserve_service.core.ports.commits import Origin, WriteRequest
from varserve_service.core.ports.loaded_model import (
    Constant,
    FunctionKind,
    FunctionSpec,
    InputSpec,
    ModelState,
    OmissionKind,
    Operation,
    Overload,
    TensorSpec,
    Value,
)
from varserve_service.core.ports.messages import Conditions, Description, Header

MAX_REQUEST_ID_BYTES = 128
MAX_ORIGIN_MESSAGE_BYTES = 1024
MAX_LEASE_SECONDS = 86_400.0

PAGE = 4096
"""Elements that are worked through in one piece, while no other thread runs."""

_OPERATIONS = {
    model_service_pb2.ASSIGN_OPERATION_UNSPECIFIED: Operation.SET,
    model_service_pb2.ASSIGN_OPERATION_SET: Operation.SET,
    model_service_pb2.ASSIGN_OPERATION_ADD: Operation.ADD,
    model_service_pb2.ASSIGN_OPERATION_SUB: Operation.SUB,
}

_STATES = {
    ModelState.LOADING: model_pb2.MODEL_STATE_LOADING,
    ModelState.READY: model_pb2.MODEL_STATE_READY,
    ModelState.UNLOADING: model_pb2.MODEL_STATE_UNLOADING,
    ModelState.FAILED: model_pb2.MODEL_STATE_FAILED,
}

_KINDS = {
    FunctionKind.SIGNATURE: model_pb2.FUNCTION_KIND_SIGNATURE,
    FunctionKind.FUNCTION: model_pb2.FUNCTION_KIND_FUNCTION,
}

_OMITTED = {
    OmissionKind.VARIABLE: model_pb2.OMISSION_KIND_VARIABLE,
    OmissionKind.FUNCTION: model_pb2.OMISSION_KIND_FUNCTION,
}


def malformed(message: str) -> RequestError:
    """A request that is wrong in itself."""
    return RequestError(Reason.REQUEST_MALFORMED, message)


# Requests.


def operation(number: int) -> Operation:
    """The operation of an AssignOperation."""
    try:
        return _OPERATIONS[number]  # type: ignore[index]
    except KeyError:
        raise malformed(f"operation: expected SET, ADD or SUB, found number {number}") from None


def region(request: Any) -> Region | None:
    """The region in a request's field `region`; None when it asks for the whole variable."""
    if not request.HasField("region"):
        return None
    part = request.region.WhichOneof("part")
    if part == "rows":
        return Rows(_indices(request.region.rows.indices))
    if part == "slices":
        count = len(request.region.slices.dimensions)
        if count > tensors.MAX_RANK:
            raise RequestError(
                Reason.REGION_INVALID,
                f"region: expected at most {tensors.MAX_RANK} slices, found {count}",
            )
        return Slices(
            tuple(
                Slice(s.start, s.stop if s.HasField("stop") else None, s.step or 1)
                for s in request.region.slices.dimensions
            )
        )
    raise malformed("region: expected slices or rows, found neither")


def _indices(repeated: Sequence[int]) -> np.ndarray[Any, Any]:
    """Row indices as an array, a page at a time: numpy lets no other thread run meanwhile."""
    indices = np.empty(len(repeated), np.int64)
    for start in range(0, len(indices), PAGE):
        indices[start : start + PAGE] = repeated[start : start + PAGE]
    return indices


def dtype(request: Any) -> str | None:
    """The dtype that a value is to be sent as; None: its own."""
    return tensors.from_wire_dtype(request.dtype) if request.dtype else None


def optional(request: Any, field: str) -> int | None:
    """An optional integer field; None when it is not set."""
    return getattr(request, field) if request.HasField(field) else None


def conditions(request: Any) -> Conditions:
    """The conditions on the model that a write or run carries."""
    return Conditions(optional(request, "if_model_revision_match"), request.if_epoch_match)


def check_request_id(request_id: str) -> None:
    """Raises RequestError REQUEST_MALFORMED for one that is too long to be remembered."""
    if len(request_id.encode()) > MAX_REQUEST_ID_BYTES:
        raise malformed(f"request_id: expected at most {MAX_REQUEST_ID_BYTES} bytes")


def fingerprint(message: Any, checksums: Sequence[int] = ()) -> bytes:
    """A digest of everything that a write asks for; `checksums` are of its body's chunks."""
    if not message.request_id:
        return b""
    digest = hashlib.blake2b(message.SerializeToString(deterministic=True), digest_size=16)
    digest.update(struct.pack(f"<{len(checksums)}I", *checksums))
    return digest.digest()


def write_request(request_id: str, fingerprint: bytes) -> WriteRequest | None:
    """What makes this write the same write when it comes again; None when it has no id."""
    check_request_id(request_id)
    return WriteRequest(request_id, fingerprint) if request_id else None


def origin(request: Any, subject: str) -> Origin:
    """Who makes a write, and why."""
    if len(request.message.encode()) > MAX_ORIGIN_MESSAGE_BYTES:
        raise malformed(f"message: expected at most {MAX_ORIGIN_MESSAGE_BYTES} bytes")
    return Origin(subject, request.message)


def lease_seconds(request: Any) -> float | None:
    """How long the write's lease lasts; None when it comes without one."""
    seconds: float = request.lease_seconds
    if not 0 <= seconds <= MAX_LEASE_SECONDS:
        raise malformed(
            f"lease_seconds: expected 0 to {MAX_LEASE_SECONDS:g} seconds, found {seconds}"
        )
    return seconds or None


def constants(messages: Mapping[str, Any]) -> dict[str, Constant]:
    """Constants by flat name."""
    found = {}
    for name, message in messages.items():
        kind = message.WhichOneof("value")
        if kind is None:
            raise malformed(f"constant {name[:200]!r}: expected a value, found none")
        if kind == "none_value":
            found[name] = Constant(None)
        else:
            found[name] = Constant(getattr(message, kind), is_repr=kind == "repr_value")
    return found


def inputs(messages: Mapping[str, tensor_pb2.Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    """Input arrays by flat name."""
    found = {}
    for name, message in messages.items():
        try:
            found[name] = tensors.from_tensor(message)
        except tensors.TensorError as error:
            raise named(error, f"input {name[:200]!r}") from None
    return found


def input_outlines(messages: Mapping[str, tensor_pb2.Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    """Arrays of the inputs' dtypes and shapes, by flat name, without their values."""
    outlines = {}
    for name, message in messages.items():
        try:
            outlines[name] = outline(message)
        except tensors.TensorError as error:
            raise named(error, f"input {name[:200]!r}") from None
    return outlines


def outline(message: tensor_pb2.Tensor | tensor_pb2.TensorHeader) -> np.ndarray[Any, Any]:
    """An array of a tensor's dtype and shape that takes no memory. Raises TensorError."""
    dtype = tensors.from_wire_dtype(message.dtype)
    tensors.element_count(message.shape)
    tensors.check_numpy_rank(message.shape)
    return np.broadcast_to(np.empty((), tensors.numpy_dtype(dtype)), tuple(message.shape))


def too_large(thing: str, nbytes: int, limit: int) -> RequestError:
    """A value that does not fit into one message."""
    return RequestError(
        Reason.MESSAGE_TOO_LARGE,
        f"{thing} takes {nbytes} bytes; expected at most {limit} in one message; "
        "use the streaming call",
        nbytes=nbytes,
    )


def named(error: tensors.TensorError, thing: str) -> RequestError:
    """A TensorError as the core's error, with the thing that it speaks of."""
    return RequestError(Reason(error.reason), f"{thing}: {error.message}")


# Responses.


def header(found: Header) -> model_pb2.StateHeader:
    """A StateHeader."""
    return model_pb2.StateHeader(
        model=found.model, version=found.version, epoch=found.epoch, revision=found.revision
    )


def tensor(value: Value) -> tensor_pb2.Tensor:
    """A Tensor of a value that fits into one message."""
    message = tensor_pb2.Tensor(dtype=tensors.wire_dtype(value.dtype), shape=value.shape)
    if value.dtype == tensors.STRING:
        strings = value.numpy().reshape(-1)
        for start in range(0, len(strings), PAGE):
            message.strings.extend(strings[start : start + PAGE].tolist())
    else:
        message.data = bytes(value.buffer(0, value.nbytes))
    return message


def region_message(found: Region) -> tensor_pb2.Region:
    """A Region."""
    if isinstance(found, Rows):
        return tensor_pb2.Region(rows=tensor_pb2.Rows(indices=found.indices.tolist()))
    slices = [
        tensor_pb2.Slice(start=part.start, stop=part.stop, step=part.step)
        for part in found.dimensions
    ]
    return tensor_pb2.Region(slices=tensor_pb2.Slices(dimensions=slices))


def state(found: ModelState) -> model_pb2.ModelState:
    """A ModelState."""
    return _STATES[found]


def summary(status: Status, found: Description | None) -> model_pb2.ModelSummary:
    """A ModelSummary; `found` is None for what is not in memory."""
    message = model_pb2.ModelSummary(state=_STATES[status.state], labels=status.labels)
    if found is None:
        message.header.MergeFrom(model_pb2.StateHeader(model=status.name, version=status.version))
        return message
    message.header.MergeFrom(header(found.header))
    message.device = found.device
    message.variable_count = len(found.variables)
    message.variable_bytes = sum(_nbytes(v.spec.dtype, v.shape) for v in found.variables)
    return message


def model(
    status: Status, found: Description, limits: model_service_pb2.TransferLimits
) -> model_service_pb2.GetModelResponse:
    """A GetModelResponse."""
    names = {variable.spec.path: variable.spec.name for variable in found.variables}
    return model_service_pb2.GetModelResponse(
        header=header(found.header),
        summary=summary(status, found),
        variables=[
            model_pb2.VariableSpec(
                name=v.spec.name,
                path=v.spec.path,
                dtype=tensors.wire_dtype(v.spec.dtype),
                shape=partial_shape(v.spec.shape),
                trainable=v.spec.trainable,
                device=v.spec.device,
                initialized=v.shape is not None,
                byte_length=_nbytes(v.spec.dtype, v.shape),
                revision=v.revision,
            )
            for v in found.variables
        ],
        functions=[_function(spec, names) for spec in found.functions],
        omissions=[
            model_pb2.Omission(kind=_OMITTED[each.kind], path=each.path, reason=each.reason)
            for each in found.omissions
        ],
        limits=limits,
    )


def least_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes that a value of this dtype and shape takes at least: strings may take more."""
    itemsize = 8 if dtype == tensors.STRING else tensors.numpy_dtype(dtype).itemsize
    return tensors.element_count(shape) * itemsize


def _nbytes(dtype: str, shape: tuple[int, ...] | None) -> int:
    if shape is None or dtype == tensors.STRING:
        return 0
    return tensors.element_count(shape) * tensors.numpy_dtype(dtype).itemsize


def partial_shape(shape: PartialShape) -> model_pb2.PartialShape:
    """A PartialShape."""
    if shape is None:
        return model_pb2.PartialShape(unknown_rank=True)
    return model_pb2.PartialShape(dimensions=[-1 if size is None else size for size in shape])


def _function(spec: FunctionSpec, names: Mapping[str, str]) -> model_pb2.FunctionSpec:
    return model_pb2.FunctionSpec(
        name=spec.name,
        path=spec.path,
        kind=_KINDS[spec.kind],
        overloads=[_overload(overload, names) for overload in spec.overloads],
    )


def _overload(overload: Overload, names: Mapping[str, str]) -> model_pb2.Overload:
    return model_pb2.Overload(
        inputs=[_input(spec) for spec in overload.inputs],
        outputs=[
            model_pb2.OutputSpec(name=output.name, tensor=_tensor_spec(output.tensor))
            for output in overload.outputs
        ],
        reads=_sorted_names(overload.reads, names),
        writes=_sorted_names(overload.writes, names),
        changes_other_state=overload.changes_other_state,
    )


def _sorted_names(paths: Iterable[str], names: Mapping[str, str]) -> list[str]:
    return sorted(names[path] for path in paths if path in names)


def _input(spec: InputSpec) -> model_pb2.InputSpec:
    if isinstance(spec.kind, TensorSpec):
        return model_pb2.InputSpec(
            name=spec.name, tensor=_tensor_spec(spec.kind), optional=spec.optional
        )
    return model_pb2.InputSpec(
        name=spec.name, constant=_constant(spec.kind), optional=spec.optional
    )


def _constant(constant: Constant) -> model_pb2.Constant:
    value = constant.value
    match value:
        case str() if constant.is_repr:
            return model_pb2.Constant(repr_value=value)
        case None:
            return model_pb2.Constant(none_value=True)
        case bool():
            return model_pb2.Constant(bool_value=value)
        case int():
            return model_pb2.Constant(int_value=value)
        case float():
            return model_pb2.Constant(float_value=value)
        case str():
            return model_pb2.Constant(string_value=value)


def _tensor_spec(spec: TensorSpec) -> model_pb2.TensorSpec:
    return model_pb2.TensorSpec(
        dtype=tensors.wire_dtype(spec.dtype), shape=partial_shape(spec.shape)
    )
