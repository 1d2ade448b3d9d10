"""Feeds bytes that a fuzzer makes to whatever reads what strangers send: `make fuzz`.

Anything but the contract's own refusals is a defect, and so is a value that does not read back, and
a chunk that the quick reader and the generated class do not take for the same.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

import atheris
import numpy as np

with atheris.instrument_imports(include=["varserve"]):
    from varserve import frames, tensors

from google.protobuf.message import DecodeError

from varserve.v1 import model_service_pb2 as pb
from varserve.v1 import tensor_pb2

REFUSALS = (tensors.TensorError, frames.FrameError, DecodeError)
MOST_BYTES = 2**16
STREAMS = (
    (frames.read_variables_response, pb.ReadVariablesResponse),
    (frames.assign_variables_request, pb.AssignVariablesRequest),
    (frames.stream_run_function_request, pb.StreamRunFunctionRequest),
    (frames.stream_run_function_response, pb.StreamRunFunctionResponse),
)


def tensor(data: bytes) -> None:
    """A Tensor message: what is taken is written as the same again."""
    array = tensors.from_tensor(tensor_pb2.Tensor.FromString(data))
    again = tensors.from_tensor(tensors.to_tensor(array))
    assert again.shape == array.shape
    assert again.tobytes() == array.tobytes() or array.dtype == object


def header(data: bytes) -> None:
    """A TensorHeader: what it claims is what its shape takes; strings are read from a body."""
    name, shape, nbytes = tensors.check_header(tensor_pb2.TensorHeader.FromString(data))
    assert nbytes >= 0
    if name == tensors.STRING and nbytes <= MOST_BYTES:
        tensors.strings_from_body(data[:nbytes].ljust(nbytes, b"\0"), shape)


def strings(data: bytes) -> None:
    """The body of strings: what is taken is written as the same bytes again."""
    count, body = data[0], data[1:]
    found = tensors.strings_from_body(body, (count,))
    assert tensors.strings_to_body(found) == body


def stream_message(data: bytes) -> None:
    """A message of a stream: the quick reader and the generated class agree."""
    read, cls = STREAMS[data[0] % len(STREAMS)]
    found: Any = read(data[1:])
    parsed: Any = cls.FromString(data[1:])
    if isinstance(found, frames.ChunkFrame):
        chunk = parsed.chunk
        assert (found.offset, found.crc32c, bytes(found.data)) == (
            chunk.offset,
            chunk.crc32c,
            chunk.data,
        )
    else:
        assert found == parsed


def body(data: bytes) -> None:
    """Chunks in any order and of any size: memory beside the tensors is never written."""
    provider = atheris.FuzzedDataProvider(data)
    memory = np.zeros(96, np.uint8)
    parts = [memory[8:24], memory[24:24], memory[24:88]]
    receiver = frames.BodyReceiver(parts, chunk_bytes=32)
    try:
        while provider.remaining_bytes():
            piece = provider.ConsumeBytes(provider.ConsumeIntInRange(0, 40)) or b"x"
            offset = provider.ConsumeIntInRange(0, 90)
            if provider.ConsumeBool():
                offset = receiver._received
            message = frames.chunk_message(offset, [memoryview(piece)])
            frame = frames.read_chunk(message)
            assert frame is not None
            receiver.take(frame)
        receiver.finish()
    finally:
        assert not memory[:8].any()
        assert not memory[88:].any()


TARGETS = (tensor, header, strings, stream_message, body)


def one(data: bytes) -> None:
    """The first byte chooses who reads the rest."""
    if len(data) < 2:
        return
    with suppress(*REFUSALS):
        TARGETS[data[0] % len(TARGETS)](data[1:])


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
