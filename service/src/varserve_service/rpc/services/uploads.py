"""The request side of streaming calls: a manifest, then the chunks of its body."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from varserve import frames
from varserve_service.core.memory import MemoryBudget
from varserve_service.rpc.calls.call import RpcCall
from varserve_service.rpc.messages import translate
from varserve_service.rpc.messages.bodies import ClaimedTensor, Upload, not_silent

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
    with memory.reserve(sum(claim.nbytes for claim in claimed), "the body") as reserved:
        upload = Upload(claimed, backend.limits.chunk_bytes)
        await call.accept((frames.ACCEPTED_KEY, "1"))
        async with not_silent(backend.upload_silence) as heard:
            async for data in call:
                heard()
                message = read(data)
                if not isinstance(message, frames.ChunkFrame):
                    raise translate.malformed("expected a chunk, found another message")
                upload.take(message)
                reserved.used(len(message.data))
        await call.judge_again(at_once=True)
        return upload
