"""A client of the lane alone, and the calls whose tickets it shows."""

from __future__ import annotations

import asyncio
import mmap
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tests.fakes import FakeVariable
from tests.rpc.requests import entry, manifest
from tests.rpc.running import Running
from varserve import lane
from varserve.v1 import lane_pb2
from varserve.v1 import model_service_pb2 as pb

MIB = 2**20


def big(nbytes: int = 2 * MIB, name: str = "big") -> FakeVariable:
    values = np.random.default_rng(3).integers(0, 256, nbytes, np.uint8)
    return FakeVariable(name, values, shape=(None,))


def request(*names: str, **fields: Any) -> pb.ReadVariablesRequest:
    reads = [{"variable": name} for name in names or ("big",)]
    return pb.ReadVariablesRequest(**{"model": "counter", "lane": True, "reads": reads} | fields)


def upload_of(*lengths: int, **fields: Any) -> Any:
    headers = [{"dtype": 4, "shape": [n], "byte_length": n} for n in lengths]
    entries = [
        entry(variable=f"big{number or ''}", tensor=each) for number, each in enumerate(headers)
    ]
    return manifest(*entries, lane=True, **fields)


def memory_of(content: bytes, size: int | None = None, *, sealed: bool = True) -> int:
    fd = lane.new_memory(-(-len(content) // 4096) * 4096 if size is None else size)
    os.pwrite(fd, content, 0)
    if sealed:
        lane.seal(fd)
    return fd


class Peer:
    """A client of the lane alone."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(20)
        self.socket.connect(path)

    async def show(self, ticket: bytes) -> tuple[bytes, list[int]]:
        """The answer and the descriptors for a ticket; b"" where the service hung up."""
        self.socket.send(lane.HELLO + ticket)
        return await self.answer()

    async def answer(self) -> tuple[bytes, list[int]]:
        def receive() -> tuple[bytes, list[int]]:
            try:
                data, fds, _, _ = socket.recv_fds(self.socket, 1024, 100)
            except ConnectionResetError:
                return b"", []
            return data, fds

        return await asyncio.to_thread(receive)


@contextmanager
def connected(path: str) -> Iterator[Peer]:
    peer = Peer(path)
    try:
        yield peer
    finally:
        peer.socket.close()


def lane_of(found: Running) -> Any:
    assert found.server.lane is not None
    return found.server.lane


async def read_ticket(found: Running, wanted: Any = None, **options: Any) -> tuple[Any, Any]:
    """A call that waits for its values to be fetched, and the manifest that it sent."""
    call = found.stub.ReadVariables(wanted or request(), **options)
    first = await call.read()
    return call, first.manifest


async def write_ticket(found: Running, first: Any, **options: Any) -> tuple[Any, Any]:
    """A call that waits for its body, and the ticket that it was given."""
    call = found.stub.AssignVariables(**options)
    await call.write(first)
    metadata = dict(await call.initial_metadata())
    return call, lane_pb2.LaneTicket.FromString(metadata[lane.TICKET_KEY])


def content_of(fd: int, nbytes: int) -> bytes:
    with mmap.mmap(fd, nbytes, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED) as mapped:
        return mapped[:]
