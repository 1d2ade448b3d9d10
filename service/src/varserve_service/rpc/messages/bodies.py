"""Bodies of streaming calls: received into memory that a model can take over, sent from values.

Knows the contract's frames and tensors, and the core's values and buffers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np

from varserve import frames, tensors
from varserve.v1 import tensor_pb2
from varserve_service.core.arrays.buffers import aligned_empty
from varserve_service.core.arrays.shapes import outline
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.ports.loaded_model import Value
from varserve_service.rpc.calls.call import RpcCall
from varserve_service.rpc.calls.transfers import Transfer

from . import translate

Array = np.ndarray[Any, Any]


class ClaimedTensor:
    """A tensor as a manifest describes it: checked, with nothing allocated yet."""

    def __init__(self, thing: str, header: tensor_pb2.TensorHeader) -> None:
        try:
            self.dtype, self.shape, self.nbytes = tensors.check_header(header)
        except tensors.TensorError as error:
            raise translate.named(error, thing) from None
        self.thing = thing
        self.memory: Callable[[], Array] = lambda: aligned_empty((self.nbytes,), np.uint8)
        """Gives writable memory for the tensor, aligned: an array of as many bytes."""

    def placeholder(self) -> Array:
        """An array of this dtype and shape that takes no memory, to check a request with."""
        return outline(tensors.numpy_dtype(self.dtype), self.shape)


def total_bytes(claimed: Sequence[ClaimedTensor], limit: int) -> int:
    """Bytes of a whole body. Raises RequestError VALUE_TOO_LARGE beyond the limit."""
    total = sum(claim.nbytes for claim in claimed)
    if total > limit:
        raise RequestError(
            Reason.VALUE_TOO_LARGE,
            f"the body has {total} bytes; expected at most {limit} in one request",
            nbytes=total,
            limit=limit,
        )
    return total


class Upload:
    """The memory of a body's tensors while its chunks arrive."""

    def __init__(self, claimed: Sequence[ClaimedTensor], chunk_bytes: int) -> None:
        self._claimed = claimed
        self._chunk_bytes = chunk_bytes
        # A numeric array can become its variable's own memory without a copy.
        self._memory = [claim.memory().reshape(-1).view(np.uint8) for claim in claimed]
        self._receiver = frames.BodyReceiver(self._memory, chunk_bytes)
        self.checksums: list[int] = []

    def take(self, frame: frames.ChunkFrame) -> int:
        """Check and keep one chunk; its bytes. Raises FrameError. One at a time, on any thread."""
        self._receiver.take(frame)
        self.checksums.append(frame.crc32c)
        return len(frame.data)

    def arrays(self) -> list[Array]:
        """The tensors, once all chunks are there; called once. Raises FrameError, RequestError."""
        self._receiver.finish()
        memories, self._memory = self._memory, []
        # It refers to them as well, and what takes them over may have to be the only one.
        del self._receiver
        return [
            self._array(claim, memory)
            for claim, memory in zip(self._claimed, memories, strict=True)
        ]

    @property
    def memories(self) -> list[Array]:
        """The memory of each tensor, uint8, to be filled another way than by chunks."""
        return self._memory

    def filled(self) -> None:
        """It was filled so."""
        self._receiver = frames.BodyReceiver([], self._chunk_bytes)

    def _array(self, claim: ClaimedTensor, memory: Array) -> Array:
        try:
            if claim.dtype == tensors.STRING:
                return tensors.strings_from_body(memory.data, claim.shape)
            array = memory.view(tensors.numpy_dtype(claim.dtype)).reshape(claim.shape)
            tensors.check_bool(array)
            return array
        except tensors.TensorError as error:
            raise translate.named(error, claim.thing) from None


class Download:
    """Values that are sent: their headers, and their bytes in chunks.

    Made on a thread, where it encodes its first chunk: most bodies have no other.
    """

    def __init__(self, values: Sequence[Value], chunk_bytes: int) -> None:
        parts, self.headers = parts_of(values)
        self._count = -(-sum(part.nbytes for part in parts) // chunk_bytes)
        self._messages = frames.body_messages(_dropping(parts), chunk_bytes)
        self._first = next(self._messages, None)

    @property
    def nbytes(self) -> int:
        """Bytes of the body."""
        return sum(header.byte_length for header in self.headers)

    async def send(self, call: RpcCall, executor: Executor, transfer: Transfer) -> None:
        """Write the body's chunks: while one travels, the next is made ready on a thread."""
        loop = asyncio.get_running_loop()
        message, self._first = self._first, None
        upcoming: asyncio.Future[bytes] | None = None
        try:
            for _ in range(self._count - 1):
                upcoming = loop.run_in_executor(executor, next, self._messages)
                assert message is not None
                await call.judge_again()
                await call.write(message)
                transfer.moved(len(message))
                message = await upcoming
                await transfer.give_way()
            if message is not None:
                await call.write(message)
        finally:
            if upcoming is not None:
                upcoming.cancel()


def parts_of(
    values: Sequence[Value],
) -> tuple[list[frames.BodyPart], list[tensor_pb2.TensorHeader]]:
    """The bodies of values, and their headers."""
    parts: list[frames.BodyPart] = [
        frames.BytesPart(tensors.strings_to_body(value.numpy()))
        if value.dtype == tensors.STRING
        else value
        for value in values
    ]
    headers = [
        tensor_pb2.TensorHeader(
            dtype=tensors.wire_dtype(value.dtype), shape=value.shape, byte_length=part.nbytes
        )
        for value, part in zip(values, parts, strict=True)
    ]
    return parts, headers


class Beside:
    """Values that are sent beside gRPC: their headers, and their bodies, by so many connections."""

    def __init__(self, values: Sequence[Value], connections: int) -> None:
        self.connections = connections
        self.parts, self.headers = parts_of(values)
        self.nbytes = sum(part.nbytes for part in self.parts)


def _dropping(parts: list[frames.BodyPart]) -> Iterator[frames.BodyPart]:
    """Yields the values and drops each one after it was sent.

    Not a method: an iterator that refers to the Download would keep the values alive.
    """
    while parts:
        yield parts.pop(0)
