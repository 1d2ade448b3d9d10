"""Values on their way out, without a socket."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from varserve import frames
from varserve_service.core.values.host_value import HostValue
from varserve_service.rpc.calls.giving_way import SmallCalls
from varserve_service.rpc.calls.transfers import DOWNLOAD, Transfers
from varserve_service.rpc.messages.bodies import Download

CHUNK = 1 << 10


class Wire:
    """The context of a call: keeps the chunks that are written."""

    def __init__(self) -> None:
        self.written: list[frames.ChunkFrame] = []

    async def write(self, message: bytes) -> None:
        frame = frames.read_chunk(message)
        assert frame is not None
        self.written.append(frame)

    async def judge_again(self) -> None:
        """The caller may still read."""


async def sent(download: Download) -> list[frames.ChunkFrame]:
    wire: Any = Wire()
    with ThreadPoolExecutor(1) as senders:
        async with Transfers(60, 1, SmallCalls()).begin(DOWNLOAD) as transfer:
            await download.send(wire, senders, transfer)
    return wire.written


@pytest.mark.parametrize("sizes", [[0], [1], [CHUNK], [CHUNK + 1], [0, 5 * CHUNK, 0, 3], []])
async def test_every_byte_is_sent_once(sizes: list[int]) -> None:
    """In chunks of the size that was asked for, the last of which is what is left."""
    values = [np.random.default_rng(0).integers(0, 256, size, np.uint8) for size in sizes]
    chunks = await sent(Download([HostValue(each) for each in values], CHUNK))
    body = b"".join(each.tobytes() for each in values)
    assert b"".join(chunk.data for chunk in chunks) == body
    assert [chunk.offset for chunk in chunks] == list(range(0, len(body), CHUNK))


@pytest.mark.parametrize("size", [CHUNK, 5 * CHUNK + 1])
async def test_what_was_sent_is_held_by_nobody(size: int) -> None:
    """Its memory is there for the next large write at once, not when Python collects cycles."""
    value = np.ones(size, np.uint8)
    held = weakref.ref(value)
    download = Download([HostValue(value)], CHUNK)
    gc.collect()
    gc.disable()
    try:
        del value
        await sent(download)
        del download
        assert held() is None
    finally:
        gc.enable()
