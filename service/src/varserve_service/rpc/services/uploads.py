"""The request side of streaming calls: a manifest, then the chunks of its body.

Or, in place of the chunks, what the client hands over or sends on the lane.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

from varserve import frames, lane, tensors
from varserve_service.core.memory import SMALL_BYTES, MemoryBudget, Reservation
from varserve_service.rpc.calls.call import RpcCall
from varserve_service.rpc.calls.transfers import UPLOAD
from varserve_service.rpc.lane import Received, Receiving
from varserve_service.rpc.messages import translate
from varserve_service.rpc.messages.bodies import ClaimedTensor, Upload

from .backend import Backend

_LARGE_CHUNK_BYTES = 128 * 1024
"""The way to a thread and back is worth it."""


class Ways(NamedTuple):
    """By which ways of the lane a client can come with a body: as memory, or to its port.

    `connections`: with so many at most to the port.
    """

    memory: bool = False
    port: bool = False
    connections: int = 1


class _Beside(NamedTuple):
    """A body that may come by the lane: the ticket for it, and what has come so, if all of it."""

    ticket: bytes
    body: Callable[[], Upload | Received | None]


async def receive(
    backend: Backend,
    call: RpcCall,
    claimed: Sequence[ClaimedTensor],
    read: Callable[[bytes], Any],
    memory: MemoryBudget,
    ways: Ways = Ways(),  # noqa: B008  # it is immutable
) -> Upload | Received:
    """Accept a manifest and receive its body; then judge the call again, which may have lasted.

    Raises RequestError, FrameError.
    """
    nbytes = sum(claim.nbytes for claim in claimed)
    chunk_bytes = backend.limits.chunk_bytes
    async with backend.transfers.begin(UPLOAD) as transfer:
        transfer.hold(memory, call.subject, nbytes)
        with ExitStack() as meanwhile:
            reserved = meanwhile.enter_context(await _reserve(memory, nbytes))

            def moved(count: int) -> None:
                reserved.used(count)
                transfer.moved(count)

            beside = _memories(backend, call, claimed, meanwhile) if ways.memory else None
            if beside is None and ways.port:
                beside = _port(backend, claimed, ways.connections, moved, meanwhile)
            metadata: list[tuple[str, str | bytes]] = [(frames.ACCEPTED_KEY, "1")]
            if beside is not None:
                metadata.append((lane.TICKET_KEY, beside.ticket))
            await call.accept(*metadata)
            upload: Upload | None = None
            taken: asyncio.Future[int] | None = None
            try:
                async for data in call:
                    message = read(data)
                    if not isinstance(message, frames.ChunkFrame):
                        raise translate.malformed("expected a chunk, found another message")
                    if taken is not None:
                        moved(await taken)
                        await transfer.give_way()
                    upload = upload or await _upload(backend, claimed, nbytes)
                    taken = _take(backend, upload, message)
                    if taken is None:
                        moved(len(message.data))
                if taken is not None:
                    moved(await taken)
            finally:
                if taken is not None:  # Nobody waits for it, where the call has ended.
                    taken.cancel()
            body: Upload | Received | None = upload
            if body is None and beside is not None:
                body = beside.body()
    await call.judge_again(at_once=True)
    return body or Upload(claimed, chunk_bytes)


async def _upload(backend: Backend, claimed: Sequence[ClaimedTensor], nbytes: int) -> Upload:
    """Its memory is allocated: on a thread, if it is much."""
    chunk_bytes = backend.limits.chunk_bytes
    if nbytes < SMALL_BYTES:
        return Upload(claimed, chunk_bytes)
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(backend.receivers, Upload, claimed, chunk_bytes)


def _take(backend: Backend, upload: Upload, chunk: frames.ChunkFrame) -> asyncio.Future[int] | None:
    """Check and keep a chunk: on a thread, if it is large, while the next one arrives.

    Of fresh memory the first touch takes longer than the copy, and others would wait for both.
    """
    if len(chunk.data) < _LARGE_CHUNK_BYTES:
        upload.take(chunk)
        return None
    return asyncio.get_running_loop().run_in_executor(backend.receivers, upload.take, chunk)


def _memories(
    backend: Backend, call: RpcCall, claimed: Sequence[ClaimedTensor], meanwhile: ExitStack
) -> _Beside | None:
    """A ticket for memories; None where the body has to come in chunks."""
    found = backend.lane
    if found is None or not found.has_room(call.subject):
        return None
    if any(claim.dtype == tensors.STRING for claim in claimed):
        return None
    sizes = lane.layout([claim.nbytes for claim in claimed]).sizes
    if not sizes:
        return None
    deposit = meanwhile.enter_context(found.expect(sizes))

    def body() -> Received | None:
        return None if deposit.memories is None else Received(claimed, deposit.memories)

    return _Beside(deposit.message.SerializeToString(), body)


def _port(
    backend: Backend,
    claimed: Sequence[ClaimedTensor],
    wanted: int,
    moved: Callable[[int], None],
    meanwhile: ExitStack,
) -> _Beside | None:
    """Tickets for the port; None where the body has to come in chunks."""
    found = backend.port
    connections = 0 if found is None else found.connections(wanted)
    if found is None or not connections:
        return None

    def make() -> Upload:  # on a thread of the port's, which TensorFlow does not know
        made = backend.receivers.submit(Upload, claimed, backend.limits.chunk_bytes)
        return made.result()

    receiving = Receiving(make, moved, backend.small_calls, connections)
    meanwhile.enter_context(found.offer(receiving))
    return _Beside(receiving.message.SerializeToString(), lambda: receiving.upload)


async def _reserve(memory: MemoryBudget, nbytes: int) -> Reservation:
    """Reserve memory. Where it is short, others are waited for that give theirs up: on a thread."""
    if nbytes < SMALL_BYTES:
        return memory.reserve(nbytes, "the body")
    return await asyncio.to_thread(memory.reserve, nbytes, "the body")
