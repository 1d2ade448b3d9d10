"""What a stream of responses says, put together as a client that knows only the proto would."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from crc32c import crc32c

from varserve.v1 import tensor_pb2

NUMPY = {
    tensor_pb2.DATA_TYPE_FLOAT32: "<f4",
    tensor_pb2.DATA_TYPE_FLOAT64: "<f8",
    tensor_pb2.DATA_TYPE_INT32: "<i4",
    tensor_pb2.DATA_TYPE_INT64: "<i8",
    tensor_pb2.DATA_TYPE_UINT8: "u1",
    tensor_pb2.DATA_TYPE_BOOL: "?",
}


def value_of(tensor: tensor_pb2.Tensor) -> Any:
    """A Tensor as nested lists."""
    if tensor.dtype == tensor_pb2.DATA_TYPE_STRING:
        return list(tensor.strings)
    return np.frombuffer(tensor.data, NUMPY[tensor.dtype]).reshape(tensor.shape).tolist()


def values_of(responses: Iterable[Any]) -> tuple[Any, list[Any]]:
    """The first message of a stream, and the values of its tensors as nested lists."""
    stream = iter(responses)
    first = next(stream)
    body = bytearray()
    for response in stream:
        chunk = response.chunk
        assert chunk.offset == len(body)
        assert chunk.crc32c == crc32c(chunk.data)
        assert chunk.data
        body += chunk.data
    values, start = [], 0
    if first.WhichOneof("message") == "manifest":
        headers = [entry.tensor for entry in first.manifest.entries]
    else:
        headers = [output.tensor for output in first.result.outputs]
    for header in headers:
        part = bytes(body[start : start + header.byte_length])
        start += header.byte_length
        if header.dtype == tensor_pb2.DATA_TYPE_STRING:
            values.append(_strings(part, int(np.prod(header.shape))))
        else:
            values.append(np.frombuffer(part, NUMPY[header.dtype]).reshape(header.shape).tolist())
    assert start == len(body)
    return first, values


def _strings(part: bytes, count: int) -> list[bytes]:
    found, start = [], 8 * count
    for index in range(count):
        length = int.from_bytes(part[8 * index : 8 * index + 8], "little")
        found.append(part[start : start + length])
        start += length
    assert start == len(part)
    return found
