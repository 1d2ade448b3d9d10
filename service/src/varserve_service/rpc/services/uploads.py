"""The request side of streaming calls: a manifest, then the chunks of its body."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from varserve import frames
from varserve_service.core.errors import OutOfMemory
from varserve_service.core.memory import MemoryBudget, Reservation
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
        with await _reserve(backend, memory, nbytes) as reserved:
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


async def _reserve(backend: Backend, memory: MemoryBudget, nbytes: int) -> Reservation:
    """Reserve memory; where it is short, idle transfers are given up for it."""
    while True:
        try:
            return memory.reserve(nbytes, "the body")
        except OutOfMemory:
            if not await backend.transfers.give_up_idle():
                raise
