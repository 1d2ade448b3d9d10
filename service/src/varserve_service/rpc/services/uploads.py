"""The request side of streaming calls: a manifest, then the chunks of its body."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from varserve import frames
from varserve_service.core.memory import SMALL_BYTES, MemoryBudget, Reservation
from varserve_service.rpc.calls.call import RpcCall
from varserve_service.rpc.calls.transfers import UPLOAD
from varserve_service.rpc.messages import translate
from varserve_service.rpc.messages.bodies import ClaimedTensor, Upload

from .backend import Backend


async def receive(
    backend: Backend,
    call: RpcCall,
    claimed: Sequence[ClaimedTensor],
    read: Callable[[bytes], Any],
    memory: MemoryBudget,
) -> Upload:
    """Accept a manifest and receive its body; then judge the call again, which may have lasted.

    Raises RequestError, FrameError.
    """
    nbytes = sum(claim.nbytes for claim in claimed)
    async with backend.transfers.begin(UPLOAD) as transfer:
        transfer.hold(memory, call.subject, nbytes)
        with await _reserve(memory, nbytes) as reserved:
            upload = Upload(claimed, backend.limits.chunk_bytes)
            await call.accept((frames.ACCEPTED_KEY, "1"))
            async for data in call:
                message = read(data)
                if not isinstance(message, frames.ChunkFrame):
                    raise translate.malformed("expected a chunk, found another message")
                upload.take(message)
                reserved.used(len(message.data))
                transfer.moved(len(message.data))
    await call.judge_again(at_once=True)
    return upload


async def _reserve(memory: MemoryBudget, nbytes: int) -> Reservation:
    """Reserve memory. Where it is short, others are waited for that give theirs up: on a thread."""
    if nbytes < SMALL_BYTES:
        return memory.reserve(nbytes, "the body")
    return await asyncio.to_thread(memory.reserve, nbytes, "the body")
