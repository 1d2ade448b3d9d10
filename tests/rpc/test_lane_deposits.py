"""The lane: memory that a client hands over becomes a value, or is refused."""

from __future__ import annotations

import fcntl
import gc
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.rpc.lane_peer import (
    MIB,
    big,
    connected,
    lane_of,
    memory_of,
    upload_of,
    write_ticket,
)
from tests.rpc.models import counter
from tests.rpc.requests import chunk
from tests.rpc.running import reason_of, running
from tests.waiting import until_async
from varserve import lane

FDS = Path("/proc/self/fd")


async def test_a_memory_becomes_the_value(path: str) -> None:
    """Without a copy; small ones are copied, out of the memory that they share."""
    variables = [big(), big(10, "big1"), big(MIB, "big2"), big(0, "big3")]
    content = [bytes([n + 1]) * v.array.nbytes for n, v in enumerate(variables)]  # type: ignore[union-attr]
    async with running(counter(*variables), lane_socket=path) as found:
        call, ticket = await write_ticket(found, upload_of(*map(len, content)))
        with connected(path) as peer:
            assert (await peer.show(ticket.ticket))[0] == ticket.proof
            fds = [memory_of(content[0]), memory_of(content[2]), memory_of(content[1])]
            socket.send_fds(peer.socket, [lane.TAKEN], fds)
            assert (await peer.answer())[0] == lane.TAKEN
            for fd in fds:
                os.close(fd)
        await call.done_writing()
        assert (await call).header.revision == 1
        assert [v.array.tobytes() for v in variables] == content  # type: ignore[union-attr]
        mapped = Path("/proc/self/maps").read_text().count("memfd:varserve")
        assert mapped >= 2


def _unsealed() -> list[int]:
    return [memory_of(bytes(2 * MIB), sealed=False)]


def _writable() -> list[int]:
    fd = memory_of(bytes(2 * MIB), sealed=False)
    fcntl.fcntl(fd, 1033, 0x1 | 0x2 | 0x4)
    return [fd]


def _only_future_writes() -> list[int]:
    fd = memory_of(bytes(2 * MIB), sealed=False)
    fcntl.fcntl(fd, 1033, 0x1 | 0x2 | 0x4 | 0x10)
    return [fd]


def _file() -> list[int]:
    fd = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR)
    os.ftruncate(fd, 2 * MIB)
    return [fd]


def _device() -> list[int]:
    return [os.open("/dev/zero", os.O_RDWR)]


HOSTILE: dict[str, tuple[Callable[[], list[int]], bytes]] = {
    "unsealed": (_unsealed, lane.TAKEN),
    "without the seal of writes": (_writable, lane.TAKEN),
    "with that of future writes alone": (_only_future_writes, lane.TAKEN),
    "a file": (_file, lane.TAKEN),
    "a device": (_device, lane.TAKEN),
    "a socket": (lambda: [socket.socket().detach()], lane.TAKEN),
    "too short": (lambda: [memory_of(bytes(MIB))], lane.TAKEN),
    "too long": (lambda: [memory_of(b"", 2**40)], lane.TAKEN),
    "none": (list, lane.TAKEN),
    "too many": (lambda: [memory_of(bytes(2 * MIB)) for _ in range(2)], lane.TAKEN),
    "very many": (lambda: [os.open(os.devnull, os.O_RDONLY) for _ in range(200)], lane.TAKEN),
    "with another word": (lambda: [memory_of(bytes(2 * MIB))], b"\1"),
    "with many words": (lambda: [memory_of(bytes(2 * MIB))], b"\0" * 100),
}


@pytest.mark.parametrize("kind", HOSTILE)
async def test_a_memory_that_is_not_what_was_asked_for_is_refused(path: str, kind: str) -> None:
    """The peer is told why, the body can come in chunks, and no descriptor is kept."""
    variable = big()
    async with running(counter(variable), lane_socket=path) as found:
        call, ticket = await write_ticket(found, upload_of(2 * MIB))
        before = len([*FDS.iterdir()])
        make, word = HOSTILE[kind]
        fds = make()
        with connected(path) as peer:
            assert (await peer.show(ticket.ticket))[0] == ticket.proof
            socket.send_fds(peer.socket, [word], fds)
            answer, _ = await peer.answer()
            assert answer.startswith(lane.REFUSED), answer
            for fd in fds:
                os.close(fd)
        assert lane_of(found).refusals == {"memory": 1}
        await until_async(lambda: lane_of(found).connections == 0)
        assert len([*FDS.iterdir()]) <= before
        for offset in range(0, 2 * MIB, MIB):
            await call.write(chunk(offset, b"\7" * MIB))
        await call.done_writing()
        assert (await call).header.revision == 1
        assert variable.array is not None
        assert variable.array.tobytes() == b"\7" * 2 * MIB


async def test_huge_pages_are_refused() -> None:
    """There may be none left when they are read, which would end the process."""
    try:
        fd = os.memfd_create("huge", os.MFD_ALLOW_SEALING | os.MFD_HUGETLB)
    except OSError:
        pytest.skip("this kernel has no huge pages")
    os.ftruncate(fd, 2 * MIB)
    lane.seal(fd)
    with pytest.raises(lane.LaneError, match="huge"):
        lane.check_sealed(fd, 2 * MIB)
    os.close(fd)


async def test_a_client_that_goes_in_the_middle_changes_nothing(path: str) -> None:
    """Its memories are let go of, and so is what was staged for them."""
    variable = big()
    before = variable.array
    gc.collect()
    others = memories()
    async with running(counter(variable), lane_socket=path) as found:
        call, ticket = await write_ticket(found, upload_of(2 * MIB))
        with connected(path) as peer:
            await peer.show(ticket.ticket)
            given = memory_of(bytes(2 * MIB))
            socket.send_fds(peer.socket, [lane.TAKEN], [given])
            assert (await peer.answer())[0] == lane.TAKEN
            os.close(given)
            assert memories() == others + 1
        call.cancel()
        await until_async(lambda: found.server._admission.staged == 0)
        await until_async(lambda: not lane_of(found)._tickets)
        await until_async(lambda: memories() == others)
    assert variable.array is before


def memories() -> int:
    """Descriptors of this process that are memories of the lane."""
    return sum(map(_is_memory, FDS.iterdir()))


def _is_memory(fd: Path) -> bool:
    try:
        return "memfd:varserve" in str(fd.readlink())
    except OSError:
        return False


async def test_bytes_and_memories_together_are_bytes(path: str) -> None:
    """A client that gave memories and sends chunks as well is taken at its chunks."""
    variable = big()
    async with running(counter(variable), lane_socket=path) as found:
        call, ticket = await write_ticket(found, upload_of(2 * MIB))
        with connected(path) as peer:
            await peer.show(ticket.ticket)
            given = memory_of(bytes(2 * MIB))
            socket.send_fds(peer.socket, [lane.TAKEN], [given])
            await peer.answer()
            os.close(given)
        for offset in range(0, 2 * MIB, MIB):
            await call.write(chunk(offset, b"\7" * MIB))
        await call.done_writing()
        await call
        assert variable.array is not None
        assert variable.array.tobytes() == b"\7" * 2 * MIB


async def test_a_write_that_comes_again_by_another_way_is_done_once(path: str) -> None:
    """Its request_id counts, whether memories or chunks came with it; other wishes do not pass."""
    async with running(counter(big()), lane_socket=path) as found:
        first = upload_of(2 * MIB, request_id="once")
        call, ticket = await write_ticket(found, first)
        with connected(path) as peer:
            await peer.show(ticket.ticket)
            given = memory_of(b"\7" * 2 * MIB)
            socket.send_fds(peer.socket, [lane.TAKEN], [given])
            await peer.answer()
            os.close(given)
        await call.done_writing()
        assert (await call).header.revision == 1

        async def in_chunks(first: Any) -> Any:
            call = found.stub.AssignVariables()
            first.manifest.lane = False
            await call.write(first)
            for offset in range(0, 2 * MIB, MIB):
                await call.write(chunk(offset, b"\7" * MIB))
            await call.done_writing()
            return call

        again = await in_chunks(first)
        assert (await again).header.revision == 1
        other = await in_chunks(upload_of(2 * MIB, request_id="once", message="other"))
        assert await reason_of(other) == "REQUEST_ID_REUSED"
