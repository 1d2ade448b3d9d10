"""The request side of streaming calls: a manifest, then the chunks of its body.

Or, in place of the chunks, the memories that the client hands over on the lane.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from varserve import frames, lane, tensors
from varserve_service.core.memory import SMALL_BYTES, MemoryBudget, Reservation
from varserve_service.rpc.calls.call import RpcCall
from varserve_service.rpc.calls.transfers import UPLOAD
from varserve_service.rpc.lane import Deposit, Received
from varserve_service.rpc.messages import translate
from varserve_service.rpc.messages.bodies import ClaimedTensor, Upload

from .backend import Backend


async def receive(
    backend: Backend,
    call: RpcCall,
    claimed: Sequence[ClaimedTensor],
    read: Callable[[bytes], Any],
    memory: MemoryBudget,
    *,
    by_lane: bool = False,
) -> Upload | Received:
    """Accept a manifest and receive its body; then judge the call again, which may have lasted.

    `by_lane`: the client can come to the lane with it. Raises RequestError, FrameError.
    """
    nbytes = sum(claim.nbytes for claim in claimed)
    async with backend.transfers.begin(UPLOAD) as transfer:
        transfer.hold(memory, call.subject, nbytes)
        with ExitStack() as meanwhile:
            reserved = meanwhile.enter_context(await _reserve(memory, nbytes))
            deposit = _expect(backend, call, claimed, meanwhile) if by_lane else None
            metadata: list[tuple[str, str | bytes]] = [(frames.ACCEPTED_KEY, "1")]
            if deposit is not None:
                metadata.append((lane.TICKET_KEY, deposit.message.SerializeToString()))
            await call.accept(*metadata)
            upload: Upload | None = None
            async for data in call:
                message = read(data)
                if not isinstance(message, frames.ChunkFrame):
                    raise translate.malformed("expected a chunk, found another message")
                upload = upload or Upload(claimed, backend.limits.chunk_bytes)
                upload.take(message)
                reserved.used(len(message.data))
                transfer.moved(len(message.data))
            memories = None if deposit is None else deposit.memories
            body: Upload | Received
            if upload is None and memories is not None:
                body = Received(claimed, memories)
                reserved.used(nbytes)
                transfer.moved(nbytes)
            else:
                body = upload or Upload(claimed, backend.limits.chunk_bytes)
    await call.judge_again(at_once=True)
    return body


def _expect(
    backend: Backend, call: RpcCall, claimed: Sequence[ClaimedTensor], meanwhile: ExitStack
) -> Deposit | None:
    """A ticket for the body; None where it has to come in chunks."""
    found = backend.lane
    if found is None or not found.has_room(call.subject):
        return None
    if any(claim.dtype == tensors.STRING for claim in claimed):
        return None
    sizes = lane.layout([claim.nbytes for claim in claimed]).sizes
    return meanwhile.enter_context(found.expect(sizes)) if sizes else None


async def _reserve(memory: MemoryBudget, nbytes: int) -> Reservation:
    """Reserve memory. Where it is short, others are waited for that give theirs up: on a thread."""
    if nbytes < SMALL_BYTES:
        return memory.reserve(nbytes, "the body")
    return await asyncio.to_thread(memory.reserve, nbytes, "the body")
