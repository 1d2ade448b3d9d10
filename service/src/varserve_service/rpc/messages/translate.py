"""Messages into the core's types and back.

Functions that read a message trust nothing in it, and raise RequestError or TensorError.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from varserve import tensors
from varserve.v1 import model_pb2, model_service_pb2, tensor_pb2
from varserve_service.core.arrays import shapes
from varserve_service.core.arrays.regions import Region, Rows, Slice, Slices
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.ports.commits import Origin, WriteRequest
from varserve_service.core.ports.loaded_model import (
    Constant,
    Operation,
    Value,
)
from varserve_service.core.ports.messages import Conditions, Header

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
    """A digest of everything that a write asks for, and one of the body where it came in chunks.

    `checksums` are those of its chunks.
    """
    if not message.request_id:
        return b""
    if "consistency" in message.DESCRIPTOR.fields_by_name and message.HasField("consistency"):
        # What its caller has seen meanwhile does not make it another write.
        whole, message = message, type(message)()
        message.CopyFrom(whole)
        message.ClearField("consistency")
    written = message.SerializeToString(deterministic=True)
    found = hashlib.blake2b(written, digest_size=16).digest()
    if checksums:
        body = struct.pack(f"<{len(checksums)}I", *checksums)
        found += hashlib.blake2b(body, digest_size=16).digest()
    return found


def write_request(request_id: str, fingerprint: bytes, subject: str) -> WriteRequest | None:
    """What makes this write the same write when it comes again; None when it has no id."""
    check_request_id(request_id)
    return WriteRequest(request_id, fingerprint, subject) if request_id else None


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
    constants_by_name = {}
    for name, message in messages.items():
        kind = message.WhichOneof("value")
        if kind is None:
            raise malformed(f"constant {name[:200]!r}: expected a value, found none")
        if kind == "none_value":
            constants_by_name[name] = Constant(None)
        else:
            constants_by_name[name] = Constant(getattr(message, kind), is_repr=kind == "repr_value")
    return constants_by_name


def inputs(messages: Mapping[str, tensor_pb2.Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    """Input arrays by flat name."""
    arrays = {}
    for name, message in messages.items():
        try:
            arrays[name] = tensors.from_tensor(message)
        except tensors.TensorError as error:
            raise named(error, f"input {name[:200]!r}") from None
    return arrays


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
    tensors.check_numpy_rank(message.shape)  # before it is copied: there is room for millions
    shape = tuple(message.shape)
    tensors.element_count(shape)
    return shapes.outline(tensors.numpy_dtype(dtype), shape)


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


def header(state: Header) -> model_pb2.StateHeader:
    """A StateHeader."""
    return model_pb2.StateHeader(
        model=state.model, version=state.version, epoch=state.epoch, revision=state.revision
    )


def tensor(value: Value) -> tensor_pb2.Tensor:
    """A Tensor of a value that fits into one message."""
    dtype = value.dtype
    message = tensor_pb2.Tensor(dtype=tensors.wire_dtype(dtype), shape=value.shape)
    if dtype == tensors.STRING:
        if 0 not in value.shape:  # else of sizes, maybe, that no array of numpy can have
            strings = value.numpy().reshape(-1)
            for start in range(0, len(strings), PAGE):
                message.strings.extend(strings[start : start + PAGE].tolist())
    else:
        message.data = bytes(value.buffer(0, value.nbytes))
    return message


def region_message(region: Region) -> tensor_pb2.Region:
    """A Region."""
    if isinstance(region, Rows):
        return tensor_pb2.Region(rows=tensor_pb2.Rows(indices=region.indices.tolist()))
    slices = [
        tensor_pb2.Slice(start=part.start, stop=part.stop, step=part.step)
        for part in region.dimensions
    ]
    return tensor_pb2.Region(slices=tensor_pb2.Slices(dimensions=slices))


def least_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes that a value of this dtype and shape takes at least: strings may take more."""
    itemsize = 8 if dtype == tensors.STRING else tensors.numpy_dtype(dtype).itemsize
    return tensors.element_count(shape) * itemsize
