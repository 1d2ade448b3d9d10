"""Values as sealed memories that a client is given, and memories that it gave as arrays.

Knows the core's values and the layout of the lane; knows nothing of sockets.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from varserve import lane, tensors
from varserve.v1 import tensor_pb2
from varserve_service.core.arrays.buffers import aligned_copy
from varserve_service.core.arrays.sealed import SealedMemory
from varserve_service.core.errors import OutOfMemory, RequestError
from varserve_service.core.holdings import Holding
from varserve_service.core.memory import ModelReservation
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.ports.loaded_model import Value
from varserve_service.core.ports.messages import Entry, Read
from varserve_service.rpc.messages import translate
from varserve_service.rpc.messages.bodies import ClaimedTensor

Array = np.ndarray[Any, Any]

LEAST_BYTES = 64 * 2**10
"""A body of fewer comes sooner in a chunk."""
_STEP = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Lent:
    """Sealed memories with the values of one call, and what holds them for its subject."""

    headers: Sequence[tensor_pb2.TensorHeader]
    memories: Sequence[SealedMemory]
    nbytes: int
    holding: Holding


def lend_memory(
    live: LiveModel,
    reads: Sequence[Read],
    entries: Sequence[Entry],
    subject: str,
    copies: ModelReservation,
) -> Lent | None:
    """The values of a snapshot in sealed memories; None where they are better sent.

    They are sent where some are strings, where they are few bytes, or where there is no memory for
    copies or for what the subject keeps mapped. A whole value that its variable has now is copied
    once: the variable lives in that memory from then on. On a thread; may raise RequestError.
    """
    values = [entry.value for entry in entries if entry.value is not None]
    if any(value.dtype == tensors.STRING for value in values):
        return None
    lengths = [value.nbytes for value in values]
    found = lane.layout(lengths)
    nbytes = sum(lengths)
    if nbytes < LEAST_BYTES:
        return None
    memories: list[SealedMemory | None] = [None] * len(found.sizes)
    for value, place, length in zip(values, found.places, lengths, strict=True):
        sealed = _sealed(value)
        if (
            sealed is not None
            and length >= lane.OWN_BYTES
            and sealed.size == found.sizes[place.memory]
            and _is_alone(place, found)
        ):
            memories[place.memory] = sealed
    missing = sum(s for s, m in zip(found.sizes, memories, strict=True) if m is None)
    host = live.memory.host
    with suppress(RequestError):  # there is no memory: the values are sent
        holding = host.holdings.hold(subject, nbytes, "what the client has mapped", None)
        try:
            copies.host.add(missing, "the memory that is handed over")
            for memory, size in enumerate(found.sizes):
                if memories[memory] is None:
                    memories[memory] = _copied(size, values, found.places, memory)
                    copies.host.used(size)
                    _move(live, reads, entries, found.places, memory, memories[memory])
        except BaseException:
            holding.release()
            raise
        return Lent(
            [_header(value) for value in values],
            [memory for memory in memories if memory is not None],
            nbytes,
            holding,
        )
    return None


def _sealed(value: Value) -> SealedMemory | None:
    # Not every kind of value can be in such memory.
    return getattr(value, "sealed", None)


def _is_alone(place: lane.Place, found: lane.Layout) -> bool:
    return sum(each.memory == place.memory for each in found.places) == 1


def _header(value: Value) -> tensor_pb2.TensorHeader:
    return tensor_pb2.TensorHeader(
        dtype=tensors.wire_dtype(value.dtype), shape=value.shape, byte_length=value.nbytes
    )


def _copied(
    size: int, values: Sequence[Value], places: Sequence[lane.Place], memory: int
) -> SealedMemory:
    """A new memory with the values that lie in it. Raises OutOfMemory."""
    try:
        fd = lane.new_memory(size)
        try:
            for value, place in zip(values, places, strict=True):
                if place.memory == memory:
                    lane.write(fd, _pieces(value), place.start)
            lane.seal(fd)
        except BaseException:
            os.close(fd)
            raise
    except OSError as error:
        raise OutOfMemory(f"no memory for {size} bytes to be handed over") from error
    return SealedMemory(fd, size)


def _pieces(value: Value) -> Iterator[memoryview]:
    for start in range(0, value.nbytes, _STEP):
        yield value.buffer(start, min(value.nbytes, start + _STEP))


def _move(
    live: LiveModel,
    reads: Sequence[Read],
    entries: Sequence[Entry],
    places: Sequence[lane.Place],
    memory: int,
    sealed: SealedMemory | None,
) -> None:
    """Let the variable whose value alone lies in a memory live there."""
    inside = [index for index, place in enumerate(places) if place.memory == memory]
    read, entry = reads[inside[0]], entries[inside[0]]
    if len(inside) != 1 or read.region is not None or read.dtype or entry.value is None:
        return
    if sealed is None or entry.value.nbytes < lane.OWN_BYTES or not live.is_movable(read.variable):
        return
    dtype = tensors.numpy_dtype(entry.value.dtype)
    array = sealed.array()[: entry.value.nbytes].view(dtype).reshape(entry.value.shape)
    live.move(read.variable, entry.revision, array)


@dataclass(eq=False)
class Received:
    """Memories that a client gave in place of the chunks of a body."""

    claimed: Sequence[ClaimedTensor]
    memories: Sequence[SealedMemory]
    checksums: Sequence[int] = field(default=())
    """None were made: see `translate.fingerprint`."""

    def arrays(self) -> list[Array]:
        """The tensors: one that has a memory of its own is that memory. Raises RequestError."""
        found = lane.layout([claim.nbytes for claim in self.claimed])
        alone = {each.memory for each in found.places if _is_alone(each, found)}
        mapped = [memory.array() for memory in self.memories]
        arrays = []
        for claim, place in zip(self.claimed, found.places, strict=True):
            if claim.nbytes == 0:
                array = np.empty(0, np.uint8)
            else:
                array = mapped[place.memory][place.start : place.start + claim.nbytes]
                if place.memory not in alone:  # or each would keep the memory of all others
                    array = aligned_copy(array)
            value = array.view(tensors.numpy_dtype(claim.dtype)).reshape(claim.shape)
            try:
                tensors.check_bool(value)
            except tensors.TensorError as error:
                raise translate.named(error, claim.thing) from None
            arrays.append(value)
        return arrays
